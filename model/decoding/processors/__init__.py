"""Logits processors: they edit a row's logits, or which of its tokens are finalized."""
