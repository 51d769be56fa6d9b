"""Batches of training rows, with their attention masks."""
