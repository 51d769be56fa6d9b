"""``/v1/fim/completions``."""
