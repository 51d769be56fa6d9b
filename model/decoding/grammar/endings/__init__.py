"""Ends a grammar's answers within their token limit."""
