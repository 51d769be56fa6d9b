"""Loads checkpoint and adapter directories into memory."""
