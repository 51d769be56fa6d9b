"""Requests that score prompts."""
