"""Requests of the HTTP interface as validated models."""
