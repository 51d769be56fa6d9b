"""The page pool's memory: keys and values of all requests."""

import torch

from cdlm.model.config import TransformerConfig


class PagedCache:
    """Keys and values of all requests: [layers][num_pages * page_size, kv_heads, head_dim].

    Holds memory only: ``scheduler/kv`` allocates the pages.
    """

    def __init__(
        self, config: TransformerConfig, *, num_pages: int, page_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.page_size = page_size
        self.query_heads = config.num_heads  # Attention implementations read it.
        shape = (config.num_layers, num_pages * page_size, config.num_kv_heads, config.head_dim)
        # Zeros, not empty: padding keys are masked, but a NaN left in memory would spoil the product.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def copy_page(self, source: int, target: int) -> None:
        """Copies keys and values of all layers from one page to another."""
        there = slice(target * self.page_size, (target + 1) * self.page_size)
        here = slice(source * self.page_size, (source + 1) * self.page_size)
        for stored in (self.keys, self.values):
            stored[:, there] = stored[:, here]

    def clear(self, pages: list[int], start: int) -> None:
        """Zeroes keys and values of all layers, from position ``start`` of the page table ``pages`` to its end."""
        size = self.page_size
        kept = start % size  # Positions of the first page before ``start``.
        for page in pages[start // size :]:
            for stored in (self.keys, self.values):
                stored[:, page * size + kept : (page + 1) * size] = 0
            kept = 0

    @staticmethod
    def bytes_per_page(config: TransformerConfig, page_size: int, dtype: torch.dtype) -> int:
        """Bytes of one page: keys and values of all layers."""
        return 2 * config.num_layers * page_size * config.num_kv_heads * config.head_dim * dtype.itemsize
