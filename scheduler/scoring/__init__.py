"""Requests that score a prompt."""
