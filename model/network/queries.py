"""Queries that are multiplied by a number of their position."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from cdlm.model.network.transformer import Attention


class ScaledQueries:
    """An ``Attention`` whose queries are first multiplied by ``scale`` [...] fp32, rounded to their type."""

    def __init__(self, attention: "Attention", scale: Tensor) -> None:
        self._attention, self._scale = attention, scale[..., None, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attention``."""
        return self._attention(layer, query * self._scale.to(query.dtype), key, value)
