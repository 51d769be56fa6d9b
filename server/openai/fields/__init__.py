"""The table of all request fields, for validation, docs and tests."""
