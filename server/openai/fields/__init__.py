"""What becomes of every field that a client may send: one table, from which requests, docs and tests are made."""
