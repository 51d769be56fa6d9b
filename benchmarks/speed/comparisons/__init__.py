"""Contenders that run in turn, and what is compared of them."""
