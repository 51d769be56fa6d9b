"""Benchmarks that are not commands of ``cdlm``, and their dated results."""
