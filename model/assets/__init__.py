"""Checkpoints and adapters that ship inside the package."""

from pathlib import Path

BUNDLED_STUDENT = Path(__file__).parent / "cdlm-nano"
# Over SmolLM2-135M-Instruct, which is fetched.
SMOL_TASKS = Path(__file__).parent / "cdlm-smol" / "tasks"
SMOL_DRAFTS = Path(__file__).parent / "cdlm-smol" / "drafts"
