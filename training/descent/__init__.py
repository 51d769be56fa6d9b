"""The training loop of all stages."""
