"""``python -m benchmarks.overload``: simulates a replica under more load than it serves, with and without
``--threshold-under-load``. It measures nothing: a forward takes what ``cdlm plan`` computes, and what a threshold gives
and costs is read from a file of measured points.
"""

import heapq
import json
import math
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.scaling.service import Service
from benchmarks.scaling.simulation import quantile
from cdlm.server.openai.answers.thresholds import threshold_under_load

LOADS = (0.7, 0.9, 1.1, 1.3)


@dataclass(frozen=True)
class Curve:
    """What thresholds give: points in rising order, linear in between."""

    thresholds: list[float]
    tokens_per_forward: list[float]
    scores: list[float]

    def forwards(self, answer: int, threshold: float) -> int:
        """Forwards of an answer of ``answer`` tokens."""
        return math.ceil(answer / float(np.interp(threshold, self.thresholds, self.tokens_per_forward)))

    def score(self, threshold: float) -> float:
        """The expected share of right answers."""
        return float(np.interp(threshold, self.thresholds, self.scores))


@dataclass(frozen=True)
class Outcome:
    """Latencies in seconds, and the thresholds of all requests."""

    latencies: list[float]
    thresholds: list[float]


def simulate(arrivals: list[float], service: Service, curve: Curve, low: float | None) -> Outcome:
    """Serves requests that come at ``arrivals``; without ``low`` all have the highest threshold of the curve."""
    own, rows = curve.thresholds[-1], service.max_num_seqs
    now, done, coming = 0.0, 0, 0
    waiting: deque[tuple[float, int]] = deque()  # Arrival, forwards.
    running: list[tuple[int, float]] = []  # Number of the forward that ends it, arrival.
    latencies, thresholds = [], []
    while coming < len(arrivals) or waiting or running:
        if not waiting and not running:
            now = max(now, arrivals[coming])
        while coming < len(arrivals) and arrivals[coming] <= now:
            depth = max(0, len(waiting) + len(running) - rows)
            threshold = own if low is None else threshold_under_load(own, low, depth, 0, rows)
            thresholds.append(threshold)
            waiting.append((arrivals[coming], curve.forwards(service.answer, threshold)))
            coming += 1
        while waiting and len(running) < rows:
            at, forwards = waiting.popleft()
            heapq.heappush(running, (done + forwards, at))
        now += service.forward_s[len(running)]
        done += 1
        while running and running[0][0] == done:
            latencies.append(now - heapq.heappop(running)[1])
    return Outcome(latencies, thresholds)


def main(
    curve: Annotated[Path, typer.Argument(help="JSON: thresholds in rising order, tokens_per_forward, scores.")],
    low: Annotated[float, typer.Option(help="--threshold-under-load of the replica.")] = 0.5,
    model: Annotated[str, typer.Option(help="Preset or checkpoint directory, as for cdlm plan.")] = "dream-7b",
    device: Annotated[str, typer.Option(help="Accelerator, as for cdlm plan.")] = "l4",
    requests: Annotated[int, typer.Option(min=1, help="Requests per load.")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.")] = 0,
) -> None:
    """Prints latency, threshold and expected score by load, a share of what the replica serves at its own threshold."""
    points = Curve(**json.loads(curve.read_text()))
    service = Service(model=model, device=device, max_num_seqs=16)
    full = service.max_num_seqs / service.forward_s[service.max_num_seqs]
    capacity = full / points.forwards(service.answer, points.thresholds[-1])
    typer.echo(f"{capacity:.2f} requests/s at the threshold {points.thresholds[-1]}\n")
    typer.echo("| load | lowered to | p50 | p99 | mean threshold | expected score |\n|---|---|---|---|---|---|")
    for load in LOADS:
        draws, at, arrivals = random.Random(seed), 0.0, []
        for _ in range(requests):
            at += draws.expovariate(load * capacity)
            arrivals.append(at)
        for least in (None, low):
            found = simulate(arrivals, service, points, least)
            mean = sum(found.thresholds) / requests
            score = sum(map(points.score, found.thresholds)) / requests
            typer.echo(
                f"| {load:.1f} | {least or 'never'} | {quantile(found.latencies, 0.5):.1f} s "
                f"| {quantile(found.latencies, 0.99):.1f} s | {mean:.3f} | {score:.1%} |"
            )


if __name__ == "__main__":
    typer.run(main)
