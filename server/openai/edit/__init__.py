"""``/v1/edit/completions``."""
