"""The processes that share a model's layers: their leader, and the others."""
