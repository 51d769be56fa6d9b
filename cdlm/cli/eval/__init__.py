"""``cdlm eval``."""
