"""Grade-school word problems, by family."""
