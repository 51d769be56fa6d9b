"""Checkpoint and adapter directories to weights in memory."""
