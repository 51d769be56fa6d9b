"""Pictures of a result, as PNG files."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.speed.output.bars import bar_of

Entry = dict[str, Any]


def draw_plots(measured: dict[str, Entry], directory: Path) -> list[str]:
    """Draws what the measured comparisons, by key, have figures for; returns the names of the files."""
    if not measured:
        return []
    drawn = {"ratios.png": _ratios(measured)}
    if curves := _named(measured, "tokens_per_s_against_batch"):
        drawn["batch.png"] = _curves(curves)
    if blocks := _named(measured, "time_per_block_64_vs_2"):
        drawn["blocks.png"] = _blocks(blocks)
    for name, figure in drawn.items():
        figure.savefig(directory / name, dpi=110)
    return list(drawn)


def _named(measured: dict[str, Entry], name: str) -> list[Entry]:
    return [entry for entry in measured.values() if entry["name"] == name]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _label(entry: Entry) -> str:
    sizes = [f"{name} {entry[name]}" for name in ("batch", "prompt") if entry[name] is not None]
    return " ".join([entry["shape"], entry["dtype"], *sizes])


def _ratios(measured: dict[str, Entry]) -> Figure:
    """Every ratio with its range, and its bar where it has one."""
    rows = [(name, entry, ratio) for entry in measured.values() for name, ratio in entry["ratios"].items()]
    figure, axis = _figure(11, 1.2 + 0.3 * len(rows))
    for place, (name, entry, ratio) in enumerate(reversed(rows)):
        bar, median = bar_of(name, entry), ratio["median"]
        color = "tab:gray" if bar is None else "tab:green" if bar.met(median) else "tab:red"
        error = [[median - ratio["min"]], [ratio["max"] - median]]
        axis.errorbar(median, place, xerr=error, fmt="o", color=color, capsize=3)
        if bar is not None:
            axis.plot(bar.limit, place, marker="|", markersize=16, markeredgewidth=2, color="black")
    axis.set_yticks(range(len(rows)), [f"{name}, {_label(entry)}" for name, entry, _ in reversed(rows)], fontsize=8)
    axis.axvline(1.0, color="black", linewidth=0.5)
    if all(ratio["min"] > 0 for *_, ratio in rows):
        axis.set_xscale("log")
    axis.set_xlabel("ratio: median, smallest and largest of the rounds; black stroke: bar")
    axis.grid(axis="x", alpha=0.3)
    return figure


def _curves(entries: list[Entry]) -> Figure:
    """Tokens/s against batch size, student and causal model."""
    figure, axis = _figure(7, 5)
    for index, entry in enumerate(entries):
        summary = entry["summary"]
        for model, marker, line in (("student", "o", "-"), ("autoregressive", "s", "--")):
            axis.plot(
                summary["batches"], summary[model], marker + line, color=f"C{index}", label=f"{model}, {_label(entry)}"
            )
        if summary["crossover_batch"] is not None:
            axis.axvline(summary["crossover_batch"], color=f"C{index}", linestyle=":")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_yscale("log")
    axis.set_xlabel("requests at a time (dotted: both equally fast)")
    axis.set_ylabel("tokens/s of the engine")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _blocks(entries: list[Entry]) -> Figure:
    """Milliseconds of each block of a long request."""
    figure, axis = _figure(7, 4)
    for index, entry in enumerate(entries):
        rounds = [one["offline"] for one in entry["rounds"]]
        numbers = [int(name[6:]) for name in rounds[0] if name[:6] == "block_" and name[6:].isdigit()]
        times = [statistics.median(one[f"block_{number}"] for one in rounds) * 1000 for number in numbers]
        axis.plot(numbers, times, "o-", color=f"C{index}", label=_label(entry))
    axis.set_ylim(bottom=0)
    axis.set_xlabel("block of the request")
    axis.set_ylabel("ms a block, median")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure
