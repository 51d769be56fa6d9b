"""Prometheus metrics of one server, in their own registry. Times are in seconds."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_type_hints

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cdlm.scheduler.messages import FAST, SLOW, Counted, EngineStats, Measured
from cdlm.scheduler.process.client import EngineClient
from cdlm.server.observe.vllm_names import WithVllmNames

_THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)


class Metrics:
    """All metrics. ``observe_step`` records engine steps, the other methods record requests.

    ``compat`` says whose names are exposed beside ours, for metrics that this server has too.
    """

    def __init__(self, model_name: str, version: str, compat: Literal["vllm"] | None = None) -> None:
        self.registry = CollectorRegistry()
        self._model, self._compat = model_name, compat
        self._vllm: dict[str, str] = {}
        self._engine: EngineClient | None = None
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of accepted requests", vllm="prompt_tokens")
        self.generation_tokens = self._counter(
            "generation_tokens", "Tokens returned to clients", vllm="generation_tokens"
        )
        self._discarded = self._counter("discarded_tokens", "Generated tokens no client got", "reason")
        self._passes = self._counter("forward_passes", "Forward passes of the engine", "phase")
        self._counted: dict[str, Counter] = {}
        self._measured: dict[str, Histogram] = {}
        for field, hint in get_type_hints(EngineStats, include_extras=True).items():
            match getattr(hint, "__metadata__", None):
                case (Counted(name, about, vllm),):
                    self._counted[field] = self._counter(name, about, vllm=vllm)
                case (Measured(name, about, buckets, vllm),):
                    self._measured[field] = self._histogram(name, about, buckets, vllm=vllm)
        self._block = self._histogram("block_duration_seconds", "Time from one block to the next", SLOW)
        self._first = self._histogram(
            "time_to_first_token_seconds", "Arrival to first block", SLOW, vllm="time_to_first_token_seconds"
        )
        self._between = self._histogram(
            "inter_token_latency_seconds",
            "Gap before a block over its tokens, once a token",
            FAST,
            vllm="inter_token_latency_seconds",
        )
        self._latency = self._histogram(
            "e2e_request_latency_seconds", "Arrival to last token", SLOW, vllm="e2e_request_latency_seconds"
        )
        self._thresholds = self._histogram(
            "chosen_threshold", "Confidence thresholds chosen by the load for requests that set none", _THRESHOLDS
        )
        self._finished = self._counter("requests_finished", "Finished sequences", "reason", vllm="request_success")
        self._rejected = self._counter("requests_rejected", "Requests answered without running", "reason")
        self._cancelled = self._counter("requests_cancelled", "Sequences whose client left", "stage")
        for reason in ("stop", "length", "error"):
            self._finished.labels(model_name, reason)
        for reason in ("queue_full", "rate_limited", "draining", "not_ready", "invalid", "internal"):
            self._rejected.labels(model_name, reason)
        for stage in ("waiting", "running"):
            self._cancelled.labels(model_name, stage)
        for phase in ("prefill", "denoise", "commit", "score", "mixed"):
            self._passes.labels(model_name, phase)
        for reason in ("stop_string", "best_of", "vote", "cancelled", "error"):
            self._discarded.labels(model_name, reason)
        build = Gauge("cdlm_build_info", "Version of the server", ["model_name", "version"], registry=self.registry)
        build.labels(model_name, version).set(1)

    def watch(self, engine: EngineClient) -> None:
        """Adds gauges that read ``engine`` at each scrape."""
        self._engine = engine
        self.registry.register(_EngineCollector(engine, self._model, self._name_of_vllm))

    def observe_step(self, stats: EngineStats) -> None:
        """Records the figures of one engine step."""
        for field, counter in self._counted.items():
            counter.labels(self._model).inc(getattr(stats, field))
        for field, histogram in self._measured.items():
            figure = getattr(stats, field)
            if isinstance(figure, list):
                for item in figure:
                    histogram.labels(self._model).observe(item)
            elif stats.phase != "idle":
                histogram.labels(self._model).observe(figure)
        if stats.phase != "idle":
            self._passes.labels(self._model, stats.phase).inc()

    def accepted(self, prompt_tokens: int) -> None:
        """Records an admitted request with ``prompt_tokens`` prompt tokens."""
        self.prompt_tokens.labels(self._model).inc(prompt_tokens)

    def block(self, seconds: float, tokens: int, *, first: bool) -> None:
        """Records a block of ``tokens`` tokens, ``seconds`` after the previous block or the request's arrival."""
        if first:
            self._first.labels(self._model).observe(seconds)
        else:
            self._block.labels(self._model).observe(seconds)
            between = self._between.labels(self._model)
            for _ in range(tokens):
                between.observe(seconds / tokens)

    def delivered(self, tokens: int) -> None:
        """Records ``tokens`` tokens that were sent to a client."""
        self.generation_tokens.labels(self._model).inc(tokens)

    def discarded(self, reason: str, tokens: int) -> None:
        """Records ``tokens`` generated tokens that were not sent to a client.

        ``reason``: ``stop_string`` (they came after it), ``best_of`` or ``vote`` (another answer won), ``cancelled`` or
        ``error``.
        """
        self._discarded.labels(self._model, reason).inc(tokens)

    def threshold_chosen(self, threshold: float) -> None:
        """Records the confidence threshold that the load has chosen for a request."""
        self._thresholds.labels(self._model).observe(threshold)

    def finished(self, reason: str, seconds: float) -> None:
        """Records the end of a sequence, ``seconds`` after arrival; ``reason`` is ``stop``, ``length`` or ``error``."""
        self._finished.labels(self._model, reason).inc()
        self._latency.labels(self._model).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Records a refusal: ``queue_full``, ``draining``, ``not_ready``, ``invalid`` or ``internal`` (a bug)."""
        self._rejected.labels(self._model, reason).inc()

    def cancelled(self, *, started: bool) -> None:
        """Records a sequence whose client left before, or if ``started`` after, its first block."""
        self._cancelled.labels(self._model, "running" if started else "waiting").inc()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format of an Accept header, and their content type."""
        encode, content_type = choose_encoder(accept)
        exposed: Collector = self.registry
        if self._compat == "vllm":
            exposed = WithVllmNames(self.registry, self._vllm, self._block_length)
        return encode(exposed), content_type

    def _block_length(self) -> int | None:
        ready = None if self._engine is None else self._engine.ready
        return None if ready is None else ready.block_length

    def _counter(self, name: str, text: str, *labels: str, vllm: str | None = None) -> Counter:
        self._name_of_vllm(name, vllm)
        counter = Counter(f"cdlm_{name}", text, ["model_name", *labels], registry=self.registry)
        if not labels:
            counter.labels(self._model)
        return counter

    def _histogram(self, name: str, text: str, buckets: Sequence[float], vllm: str | None = None) -> Histogram:
        self._name_of_vllm(name, vllm)
        histogram = Histogram(f"cdlm_{name}", text, ["model_name"], registry=self.registry, buckets=tuple(buckets))
        histogram.labels(self._model)
        return histogram

    def _name_of_vllm(self, name: str, vllm: str | None) -> None:
        if vllm is not None:
            self._vllm[name] = vllm


def _unix_time(monotonic: float) -> float:
    return time.time() - (time.monotonic() - monotonic) if monotonic else 0.0


class _EngineCollector(Collector):
    def __init__(self, engine: EngineClient, model_name: str, name: Callable[[str, str | None], None]) -> None:
        self._engine = engine
        self._model = model_name
        self._name_of_vllm = name

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        engine, stats = self._engine, self._engine.stats
        used, total = stats.pages_active, stats.pages_free + stats.pages_active + stats.pages_cached
        # The last stats of a dead engine are outdated; a hung one has not counted later requests.
        running = stats.running if engine.ready is not None else 0
        waiting = max(stats.waiting, engine.in_flight - running) if engine.ready is not None else 0
        usage = used / total if total else 0.0
        for name, text, value, vllm in (
            ("num_requests_running", "Sequences in the batch", running, "num_requests_running"),
            ("num_requests_waiting", "Sequences waiting for a place in the batch", waiting, "num_requests_waiting"),
            ("kv_cache_usage_ratio", "Share of the KV pages in use", usage, "kv_cache_usage_perc"),
            ("engine_up", "1 while the engine takes requests", float(engine.ready is not None), None),
            (
                "engine_last_step_timestamp_seconds",
                "Unix time of the last step; 0 before the first",
                _unix_time(engine.last_step_time),
                None,
            ),
        ):
            yield self._gauge(name, text, {(): value}, vllm=vllm)
        pages: dict[tuple[str, ...], float] = {
            ("free",): stats.pages_free,
            ("active",): stats.pages_active,
            ("cached",): stats.pages_cached,
        }
        yield self._gauge("kv_pages", "KV pages by state; the sum is constant", pages, "state")
        if engine.ready is not None:
            yield self._gauge("max_num_seqs", "Most sequences in the batch", {(): engine.ready.max_num_seqs})
            size, count = str(engine.ready.page_size), str(engine.ready.num_pages)
            labels: dict[tuple[str, ...], float] = {(size, count, size, count): 1.0}
            # Request routers read the last two.
            names = ("page_size", "num_pages", "block_size", "num_gpu_blocks")
            yield self._gauge("cache_config_info", "The KV pool", labels, *names, vllm="cache_config_info")
        restarts = CounterMetricFamily(
            "cdlm_engine_restarts", "Times the engine was started again", labels=["model_name"]
        )
        restarts.add_metric([self._model], engine.restarts)
        yield restarts

    def _gauge(
        self, name: str, text: str, values: dict[tuple[str, ...], float], *labels: str, vllm: str | None = None
    ) -> GaugeMetricFamily:
        self._name_of_vllm(name, vllm)
        family = GaugeMetricFamily(f"cdlm_{name}", text, labels=["model_name", *labels])
        for keys, value in values.items():
            family.add_metric([self._model, *keys], value)
        return family
