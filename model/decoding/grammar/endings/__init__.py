"""How an answer can be ended in time."""
