"""Measurements that are not a command of their own, and their dated results."""
