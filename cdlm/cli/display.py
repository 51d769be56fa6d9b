"""Readable quantities, progress bars and pictures of commands."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"))


class PictureError(RuntimeError):
    """A picture cannot be drawn, since matplotlib is missing."""


def require_matplotlib(what: str) -> None:
    """Raises ``PictureError`` if matplotlib, which ``what`` needs, is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PictureError(f"{what} needs matplotlib: pip install 'cdlm-serve[training]'") from None


def quantity(value: float, unit: str) -> str:
    """Formats a value with three digits: 15231233024 bytes are ``15.2 GB``, 0.00422 s are ``4.22 ms``."""
    # Values from 0.9995 of a unit would print as 1000 of the smaller unit.
    scale, prefix = next((entry for entry in _PREFIXES if abs(value) >= entry[0] * 0.9995), _PREFIXES[-1])
    return f"{value / scale:.3g} {prefix}{unit}"


def progress_bar(console: Console) -> Progress:
    """A progress bar with counts and time left; silent if ``console`` is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
