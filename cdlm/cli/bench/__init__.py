"""``cdlm bench``."""
