"""Prints and draws the comparison table."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_MARKERS = {"teacher": "s", "student": "o", "autoregressive": "^"}


def print_table(result: dict[str, Any]) -> None:
    """Prints one table per task."""
    for task in dict.fromkeys(row["task"] for row in result["rows"]):
        table = Table(title=f"{task}, {result['count']} problems, {result['latency_count']} timed")
        table.add_column("row", no_wrap=True)
        for heading in ("score", "95% interval", "steps", "fewer", "latency", "faster", "tok/s", "tok/step", "length"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in (row for row in result["rows"] if row["task"] == task):
            low, high = row["interval"]
            table.add_row(
                row["name"],
                f"{row['score']:.1%}",
                f"{low:.1%} - {high:.1%}",
                f"{row['denoise_steps']:.1f}",
                _times(row["steps_reduction"]),
                f"{row['latency_s'] * 1000:.0f} ms",
                _times(row["latency_ratio"]),
                f"{row['tokens_per_s']:.0f}",
                f"{row['tokens_per_step']:.2f}",
                f"{row['generated_length']:.0f}",
            )
        Console(width=130).print(table)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}x"


def draw_picture(result: dict[str, Any], path: Path) -> None:
    """Draws score, with its interval, against median latency: a PNG with one panel per task."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    tasks = list(dict.fromkeys(row["task"] for row in result["rows"]))
    figure = Figure(figsize=(7 * len(tasks), 5.5), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for index, row in enumerate(row for row in result["rows"] if row["task"] == task):
            low, high = row["interval"]
            error = [[max(0.0, row["score"] - low)], [max(0.0, high - row["score"])]]
            kind = next((kind for kind in ("student", "autoregressive") if row["name"].startswith(kind)), "teacher")
            axis.errorbar(
                row["latency_s"], row["score"], yerr=error, fmt=_MARKERS[kind], color=f"C{index % 10}", capsize=3,
                mfc="white" if index >= 10 else None, label=row["name"],
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_title(task)
        axis.set_xlabel("median latency of a request at batch 1, seconds")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("exact match or pass@1, 95% interval")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
