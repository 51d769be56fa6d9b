"""vLLM's names for metrics, beside ours, for dashboards, routers and benchmarks that know vLLM."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

# Label -> vLLM's name for it.
_LABELS = {"reason": "finished_reason"}
# vLLM numbers the engines of a server.
_ENGINE = {"engine": "0"}


class WithVllmNames(Collector):
    """The metrics of ``own``, and those that vLLM has too once more by its names.

    Args:
        own: our metrics.
        names: our name -> vLLM's, both without prefix; read once ``own`` is collected.
        block_length: returns the block length of the loaded checkpoint; ``None`` if none is loaded.
    """

    def __init__(self, own: Collector, names: Mapping[str, str], block_length: Callable[[], int | None]) -> None:
        self._own, self._names, self._block_length = own, names, block_length

    def collect(self) -> Iterator[Metric]:
        """Collects our metrics first, then vLLM's."""
        families = list(self._own.collect())
        yield from families
        for family in families:
            if (theirs := self._names.get(family.name.removeprefix("cdlm_"))) is not None:
                yield _renamed(family, f"vllm:{theirs}")
        block_length = self._block_length()
        if block_length is not None and block_length > 1:
            yield from _diffusion(families, block_length)


def _renamed(family: Metric, name: str) -> Metric:
    renamed = Metric(name, family.documentation, family.type, family.unit)
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue  # Readers that add up what begins with a name would take the time for a count.
        labels = {_LABELS.get(label, label): value for label, value in sample.labels.items()} | _ENGINE
        renamed.add_sample(name + sample.name.removeprefix(family.name), labels, sample.value)
    return renamed


def _diffusion(families: list[Metric], block_length: int) -> Iterator[Metric]:
    """vLLM's counters of diffusion models, from our histograms of blocks and of finalized tokens.

    vLLM takes a step to commit a block, and counts it: its benchmark subtracts one step per block.
    """
    figures = {sample.name: sample for family in families for sample in family.samples}
    steps, blocks, tokens = (
        figures[f"cdlm_{name}"]
        for name in ("denoise_steps_per_block_sum", "denoise_steps_per_block_count", "tokens_finalized_per_forward_sum")
    )
    passes = steps.value + blocks.value
    labels = steps.labels | _ENGINE
    for name, about, value in (
        ("denoising_steps", "Denoise steps of finished blocks, and one more per block that commits it", passes),
        ("canvas_positions", "Positions of these steps", passes * block_length),
        ("committed_tokens", "Tokens finalized", tokens.value),
    ):
        counter = CounterMetricFamily(f"vllm:diffusion_num_{name}", about, labels=list(labels))
        counter.add_metric(list(labels.values()), value)
        yield counter
