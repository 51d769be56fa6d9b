"""Attention over dense rows with an explicit mask: training, and whoever wants no cache."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class DenseAttention:
    """Rows attend within themselves.

    Args:
        mask: [rows, 1, queries, keys] bool (true = sees) or an additive float mask; ``None`` sees all.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.mask = mask

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG002
        """query [rows, length, heads, head_dim], key and value [rows, length, kv_heads, head_dim]."""
        out = scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=self.mask,
            enable_gqa=query.shape[-2] != key.shape[-2],
        )
        return out.transpose(1, 2)
