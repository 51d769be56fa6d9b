"""Comparisons of contenders that run in turn."""
