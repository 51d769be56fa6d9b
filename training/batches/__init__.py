"""Rows of training examples, and who sees whom in them."""
