"""A cache of keys, values and last hidden states of whole canvases, for forwards over some of the positions."""

from typing import Any

import torch
from torch import Tensor

from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention

Where = tuple[Any, slice | Tensor]


class CanvasCache:
    """The ``Attention`` of a partial forward: fresh keys and values replace cached ones, queries see the whole canvas.

    A position that is not recomputed keeps its key and value although other tokens have changed: an approximation in a
    bidirectional model.

    Attributes:
        hidden: [rows, L, hidden_size], last hidden state of each position from its latest computation.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.hidden = torch.empty(0)
        self._where: Where | None = None
        self._attend = RowAttention(None)

    def refresh(self, ids: Tensor) -> None:
        """Computes all positions of ids [rows, L] int64."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        self._where = None
        self.hidden = self.model(ids, positions, self)

    def update(self, ids: Tensor, where: slice | Tensor) -> None:
        """Computes the positions ``where``: a slice for all rows, or [rows, n] int64 (repeats are harmless)."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        rows = slice(None) if isinstance(where, slice) else torch.arange(len(ids), device=ids.device)[:, None]
        self._where = (rows, where)
        self.hidden[self._where] = self.model(ids[self._where], positions[self._where], self)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [rows, n, heads, head_dim], key and value [rows, n, kv_heads, head_dim] -> like query."""
        if self._where is None:
            self.keys[layer], self.values[layer] = key, value
        else:
            self.keys[layer][self._where], self.values[layer][self._where] = key, value
        return self._attend(layer, query, self.keys[layer], self.values[layer])

    def keep(self, rows: Tensor) -> None:
        """Keeps only the rows with these indices, [kept] int64, in this order."""
        self.keys = {layer: kept[rows] for layer, kept in self.keys.items()}
        self.values = {layer: kept[rows] for layer, kept in self.values.items()}
        self.hidden = self.hidden[rows]
