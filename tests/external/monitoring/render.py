"""Draws every dashboard from a live Prometheus, for people: `make dashboards`."""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from tests.external.monitoring.monitored import Prometheus, load, prometheus, server
from tests.unit.project.expressions import Panel, dashboards


def draw(rows: dict[str, list[Panel]], source: Prometheus, start: float, end: float, path: Path) -> None:
    """One picture of a dashboard: its rows from top to bottom."""
    figure = pyplot.figure(figsize=(18, 3.2 * len(rows)), layout="constrained")
    for part, (title, panels) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        part.suptitle(title, x=0.01, ha="left", weight="bold")
        for axes, panel in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel, source, start, end)
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def _draw_panel(axes: Any, panel: Panel, source: Prometheus, start: float, end: float) -> None:
    lines = []
    for expression in panel.expressions:
        for series in source.range(expression.text, start, end):
            legend = expression.legend
            for name, value in series["metric"].items():
                legend = legend.replace("{{" + name + "}}", value)
            known = {round(float(moment) - start): float(value) for moment, value in series["values"]}
            lines.append((legend, [known.get(second, math.nan) for second in range(int(end - start) + 1)]))
    if panel.stacked and lines:
        clean = [[0.0 if math.isnan(value) else value for value in line] for _, line in lines]
        axes.stackplot(range(len(clean[0])), *clean, labels=[legend for legend, _ in lines])
    else:
        for legend, line in lines:
            axes.plot(line, label=legend)
    axes.set_title(panel.title, fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_ylim(bottom=0)
    if lines:
        axes.legend(fontsize=7, loc="upper left")


def main() -> None:
    """Runs a server and Prometheus, puts load on, and writes one PNG a dashboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        server(Path(name)) as running,
        prometheus(Path(name), running.url.removeprefix("http://")) as source,
    ):
        start = time.time()
        load(running, options.seconds)
        time.sleep(5)
        for board, rows in dashboards("15s").items():
            draw(rows, source, start, time.time(), options.output / f"{board}.png")


if __name__ == "__main__":
    main()
