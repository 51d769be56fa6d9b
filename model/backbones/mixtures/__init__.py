"""Formats whose layers are mixtures of experts."""
