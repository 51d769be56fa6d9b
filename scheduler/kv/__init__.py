"""Pages of keys and values: who holds them, and what is kept for prompts that begin alike."""
