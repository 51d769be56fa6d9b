"""Observability: metrics, the request log, and traces."""
