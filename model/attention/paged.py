"""Attention of segments over a paged pool of keys and values, on PyTorch SDPA."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.config import TransformerConfig
from model.segments import SegmentBatch


class PagedCache:
    """Keys and values of all requests: [layers][num_pages * page_size, kv_heads, head_dim].

    Pages are handed out elsewhere; here they are only rows of memory.
    """

    def __init__(
        self, config: TransformerConfig, *, num_pages: int, page_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.page_size = page_size
        shape = (config.num_layers, num_pages * page_size, config.num_kv_heads, config.head_dim)
        # Zeros, not empty: padding keys are masked, but a NaN left in memory would spoil the product.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    @staticmethod
    def bytes_per_page(config: TransformerConfig, page_size: int, dtype: torch.dtype) -> int:
        """Memory of one page over all layers, keys and values."""
        return 2 * config.num_layers * page_size * config.num_kv_heads * config.head_dim * dtype.itemsize


class PagedAttention:
    """The ``Attention`` of one forward: writes each layer's keys and values to the pool, then reads.

    Writing first is what lets a commit and the block after it share a forward: the new block reads the
    clean keys that the same layer has just written.
    """

    def __init__(self, cache: PagedCache, batch: SegmentBatch) -> None:
        self.cache = cache
        self.batch = batch

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, heads, head_dim], key and value [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.batch.slots] = key
        values[self.batch.slots] = value
        out = torch.empty_like(query)
        for group in self.batch.groups:
            attended = scaled_dot_product_attention(
                query[group.query_index].transpose(1, 2),  # [segments, heads, queries, head_dim]
                keys[group.key_slots].transpose(1, 2),
                values[group.key_slots].transpose(1, 2),
                attn_mask=group.mask,
                enable_gqa=query.shape[-2] != key.shape[-2],
            )
            out[group.flat] = attended.transpose(1, 2).flatten(0, 1)[group.real]
        return out
