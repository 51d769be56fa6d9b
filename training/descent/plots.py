"""Loss curves as pictures."""

import json
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def plot_log(log: Path, picture: Path) -> None:
    """Draws every figure of a ``log.jsonl`` over the step into a PNG: losses on a logarithmic axis, shares below.

    Needs matplotlib (extra ``training``); without it a warning is logged and nothing is drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no %s: it needs matplotlib: pip install 'cdlm-serve[training]'", picture)
        return
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    names = [name for name in entries[0] if name not in ("step", "seconds")]
    shares = [name for name in names if name.endswith("accuracy")]
    losses = [name for name in names if name not in shares]
    figure = Figure(figsize=(8, 6 if shares else 4), layout="constrained")
    axes = figure.subplots(2 if shares else 1, 1, sharex=True, squeeze=False)[:, 0]
    for axis, group, label in zip(axes, (losses, shares), ("loss", "share right"), strict=False):
        for name in group:
            values = [entry[name] for entry in entries]
            axis.plot([entry["step"] for entry in entries], values, label=name.replace("_", " "), linewidth=1)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    axes[0].set_title(log.parent.name)
    axes[-1].set_xlabel("step")
    partial = picture.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(picture)
