"""The error that stops a training."""


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why. Saved states are intact."""
