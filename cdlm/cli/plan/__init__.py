"""``cdlm plan``."""
