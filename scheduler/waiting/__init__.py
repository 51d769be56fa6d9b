"""Requests before they run: validation, compilation of grammars, the waiting queue."""
