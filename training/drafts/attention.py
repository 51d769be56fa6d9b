"""Attention of masked rows over the keys and values of a text that was computed before."""

import torch
from torch import Tensor

from cdlm.training.batches.attention import RowAttention


class KeepingAttention:
    """Attends as ``RowAttention`` and keeps the keys and values of every layer."""

    def __init__(self, mask: Tensor) -> None:
        self._rows = RowAttention(mask)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As ``RowAttention``."""
        self.kept[layer] = (key, value)
        return self._rows(layer, query, key, value)


class ContinuedAttention:
    """Attends to kept keys and values [rows, n, ...], and to those of the rows themselves.

    Args:
        kept: layer -> keys and values.
        mask: [rows, L, n + L] bool, true where a query sees a key.
    """

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]], mask: Tensor) -> None:
        self._kept, self._rows = kept, RowAttention(mask)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [rows, L, heads, head_dim], key and value [rows, L, kv_heads, head_dim] -> like query."""
        keys, values = self._kept[layer]
        return self._rows(layer, query, torch.cat((keys, key), 1), torch.cat((values, value), 1))
