"""Tensor-parallel ranks as processes: the leader starts the followers."""
