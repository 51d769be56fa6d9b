"""``cdlm doctor``: what this machine has, and whether a model can be served on it."""
