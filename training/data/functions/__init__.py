"""Python functions to write, by family."""
