"""The transformer: its layers, its head, and where they lie in memory."""
