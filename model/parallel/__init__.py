"""Tensor parallelism: each layer's weights and KV cache are split over several processes, one per device.

Rank 0 is the leader: it schedules, embeds and finalizes. The other ranks are followers: each holds its share of every
layer and of the page pool, and runs the leader's commands (``messages.py``), synchronized by collectives.
"""
