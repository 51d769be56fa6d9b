"""Tensor parallelism: every layer's weights and keys are cut over several processes, one a device.

Rank 0 leads: it schedules, embeds, finalizes and answers. The others follow: they hold their share of every layer
and of the page pool, and run what they are told to (``messages.py``), meeting the leader in its collectives.
"""
