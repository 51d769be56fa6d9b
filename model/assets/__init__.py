"""Checkpoints that ship inside the package."""

from pathlib import Path

BUNDLED_STUDENT = Path(__file__).parent / "cdlm-nano"
