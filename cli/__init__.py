"""The ``cdlm`` command."""
