"""Prints the figures of a load as tables, and draws them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cdlm.cli.bench.figures import LATENCIES, PERCENTILES, latencies, output_tokens
from cdlm.cli.bench.load import Load

_COLUMNS = ("mean", "std", *(f"p{percent}" for percent in PERCENTILES))


def print_figures(figures: dict[str, Any], title: str) -> None:
    """Prints a table of figures, by their JSON names, and a table of latencies."""
    console = Console(width=100)
    spread = {f"{way}_{name}_ms" for name in LATENCIES for way in (*_COLUMNS, "median")}
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        if value is not None and name not in spread and not isinstance(value, dict | list):
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)
    times = Table("milliseconds", *_COLUMNS)
    for name, meaning in LATENCIES.items():
        values = (figures[f"{column}_{name}_ms"] for column in _COLUMNS)
        times.add_row(f"{name}: {meaning}", *("-" if value is None else f"{value:.1f}" for value in values))
    console.print(times)


def draw_load(load: Load, title: str, path: Path) -> None:
    """Draws a PNG: the distribution of each latency, and requests in flight and tokens per second over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    for axis, (name, seconds) in zip(axes, latencies(load.completions).items(), strict=False):
        _draw_spread(axis, f"{name}: {LATENCIES[name]}", np.sort(seconds) * 1000)
    _draw_in_flight(axes[4], load)
    _draw_tokens(axes[5], load)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _draw_spread(axis: Any, title: str, values: Any) -> None:
    axis.set_title(title)
    axis.set_xlabel("milliseconds")
    axis.set_ylabel("share at or below")
    axis.grid(alpha=0.3)
    if len(values) == 0:
        return
    axis.step(values, np.arange(1, len(values) + 1) / len(values), where="post")
    for percent in PERCENTILES:
        at = float(np.percentile(values, percent))
        axis.plot(at, percent / 100, "o", ms=4, label=f"p{percent} {at:.1f}")
    axis.legend(fontsize="small", loc="lower right")


def _draw_in_flight(axis: Any, load: Load) -> None:
    changes = sorted([(one.sent, 1) for one in load.attempts] + [(one.over, -1) for one in load.attempts])
    axis.set_title("requests in flight")
    axis.set_xlabel("seconds")
    axis.grid(alpha=0.3)
    if changes:
        axis.step([at for at, _ in changes], np.cumsum([change for _, change in changes]), where="post")


def _draw_tokens(axis: Any, load: Load) -> None:
    """Draws tokens per second; an answer's tokens are spread evenly over its events."""
    at, weights = [], []
    for attempt in load.attempts:
        if attempt.done is not None and attempt.done.chunks:
            chunks = attempt.done.chunks
            at += [attempt.sent + chunk for chunk in chunks]
            weights += [output_tokens(attempt.done) / len(chunks)] * len(chunks)
    axis.set_title("tokens per second")
    axis.set_xlabel("seconds")
    axis.grid(alpha=0.3)
    if at:
        count = min(60, max(1, math.ceil(load.seconds * 4)))
        totals, edges = np.histogram(at, bins=count, range=(0.0, max(load.seconds, max(at))), weights=weights)
        axis.stairs(totals / np.diff(edges), edges, fill=True, alpha=0.6)
