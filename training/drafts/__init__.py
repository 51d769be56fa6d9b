"""Gated adapters with which a next-token model drafts its own continuation."""
