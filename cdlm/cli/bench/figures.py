"""The figures of a load, with the names of ``vllm bench serve`` where it has them."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cdlm.cli.bench.client import Completion
from cdlm.cli.bench.load import Load

PERCENTILES = (50, 90, 95, 99)
LATENCIES = {
    "ttft": "time to first token",
    "itl": "gap between events",
    "tpot": "time per token after the first",
    "e2el": "end to end",
}


def summarize(load: Load) -> dict[str, Any]:
    """Counts, throughput per second, latencies in milliseconds, and means of the server's own metrics.

    Missing values are ``None``.
    """
    done = load.completions
    usages = [one.usage for one in done]
    inputs = _total(usages, "prompt_tokens")
    outputs = sum(map(output_tokens, done))
    forwards = _total(usages, "forward_passes")
    figures: dict[str, Any] = {
        "duration": load.seconds,
        "completed": len(done),
        "failed": len(load.errors),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        # Without usage, one event counts as one token.
        "output_tokens_from": "usage" if all("completion_tokens" in usage for usage in usages) else "events",
        "request_throughput": len(done) / load.seconds,
        "output_throughput": outputs / load.seconds,
        "total_token_throughput": None if inputs is None else (inputs + outputs) / load.seconds,
        "max_concurrent_requests": _peak(load),
        "max_send_lag_ms": max((attempt.sent - attempt.due for attempt in load.attempts), default=0.0) * 1000,
    }
    for name, values in latencies(done).items():
        figures |= _spread(name, values)
    return figures | {
        "denoise_steps_per_block": _mean(load.counters, "cdlm_denoise_steps_per_block"),
        "tokens_per_forward_of_a_request": outputs / forwards if forwards else None,
        "tokens_finalized_per_forward_of_the_batch": _mean(load.counters, "cdlm_tokens_finalized_per_forward"),
        "rows_per_forward": _mean(load.counters, "cdlm_batch_rows"),
        "forward_ms": _mean(load.counters, "cdlm_forward_duration_seconds", 1000.0),
        "error_counts": dict(Counter(load.errors).most_common()),
    }


def details(load: Load) -> dict[str, Any]:
    """Per metric, a list with one value per request in planned order; times in seconds, no time if it failed."""
    done = [attempt.done for attempt in load.attempts]
    return {
        "start_times": [attempt.sent for attempt in load.attempts],
        "input_lens": [0 if one is None else one.usage.get("prompt_tokens", 0) for one in done],
        "output_lens": [0 if one is None else output_tokens(one) for one in done],
        "ttfts": [one.chunks[0] if one is not None and one.chunks else 0.0 for one in done],
        "itls": [[] if one is None else gaps(one) for one in done],
        "latencies": [0.0 if one is None else one.latency for one in done],
        "errors": [attempt.error or "" for attempt in load.attempts],
    }


def latencies(done: Sequence[Completion]) -> dict[str, list[float]]:
    """The values of each latency in ``LATENCIES``, in seconds."""
    timed = [(one, output_tokens(one)) for one in done if one.chunks]
    return {
        "ttft": [one.chunks[0] for one, _ in timed],
        "itl": [gap for one, _ in timed for gap in gaps(one)],
        "tpot": [(one.latency - one.chunks[0]) / (tokens - 1) for one, tokens in timed if tokens > 1],
        "e2el": [one.latency for one in done],
    }


def gaps(done: Completion) -> list[float]:
    """Seconds between the events of a request."""
    return [later - earlier for earlier, later in pairwise(done.chunks)]


def output_tokens(done: Completion) -> int:
    """Tokens of an answer; the number of events if the server does not report it."""
    return int(done.usage.get("completion_tokens", len(done.chunks)))


def _spread(name: str, seconds: list[float]) -> dict[str, float | None]:
    ways: dict[str, Any] = {"mean": np.mean, "median": np.median, "std": np.std}
    found = {f"{way}_{name}_ms": float(take(seconds)) * 1000 if seconds else None for way, take in ways.items()}
    for percent in PERCENTILES:
        value = float(np.percentile(seconds, percent)) * 1000 if seconds else None
        found[f"p{percent}_{name}_ms"] = value
    return found


def _peak(load: Load) -> int:
    """Most requests in flight at once."""
    changes = [(attempt.sent, 1) for attempt in load.attempts] + [(attempt.over, -1) for attempt in load.attempts]
    return int(max(np.cumsum([change for _, change in sorted(changes)]), default=0))


def _total(usages: Sequence[dict[str, Any]], name: str) -> int | None:
    counted = [usage[name] for usage in usages if usage.get(name) is not None]
    return sum(counted) if counted else None


def _mean(counters: dict[str, float], histogram: str, factor: float = 1.0) -> float | None:
    count = counters.get(f"{histogram}_count", 0.0)
    return counters[f"{histogram}_sum"] / count * factor if count else None
