"""Attention of a training row: context over context, noisy blocks over the context before them and themselves.

Written as plain matrix products: on a CPU they run several times faster than the fused kernel with a mask, and
keys that no query of a group can see (other noisy blocks) are never multiplied.
"""

import torch
from torch import Tensor


class BlockDiffusionAttention:
    """The ``Attention`` of rows laid out by ``training.rows``.

    Args:
        context_mask: [rows, 1, C, C] bool, true = sees.
        noisy_mask: [rows, 1, N, C] bool, true = sees.
        block_length: tokens in a noisy block; divides N.
    """

    def __init__(self, context_mask: Tensor, noisy_mask: Tensor, block_length: int) -> None:
        low = torch.finfo(torch.float32).min
        self.context_bias = torch.zeros_like(context_mask, dtype=torch.float32).masked_fill(~context_mask, low)
        self.noisy_bias = torch.zeros_like(noisy_mask, dtype=torch.float32).masked_fill(~noisy_mask, low)
        self.context = context_mask.shape[-1]
        self.block_length = block_length

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG002
        """query [rows, L, heads, head_dim], key and value [rows, L, kv_heads, head_dim] -> like query."""
        groups = query.shape[2] // key.shape[2]
        query = query.transpose(1, 2) * query.shape[-1] ** -0.5  # [rows, heads, L, head_dim]
        key = key.transpose(1, 2).repeat_interleave(groups, dim=1)
        value = value.transpose(1, 2).repeat_interleave(groups, dim=1)
        at = self.context
        context_key, context_value = key[:, :, :at], value[:, :, :at]
        scores = query[:, :, :at] @ context_key.transpose(-1, -2) + self.context_bias
        context_out = scores.softmax(-1).to(value.dtype) @ context_value

        noisy_query = query[:, :, at:]
        rows, heads, noisy, dim = noisy_query.shape
        blocks = (rows, heads, noisy // self.block_length, self.block_length, dim)
        own = noisy_query.reshape(blocks) @ key[:, :, at:].reshape(blocks).transpose(-1, -2)
        before = noisy_query @ context_key.transpose(-1, -2) + self.noisy_bias
        scores = torch.cat((before, own.reshape(rows, heads, noisy, self.block_length)), dim=-1)
        weights = scores.softmax(-1).to(value.dtype)  # [rows, heads, N, C + block]
        own_weights = weights[..., at:].reshape(rows, heads, -1, self.block_length, self.block_length)
        own_out = (own_weights @ value[:, :, at:].reshape(blocks)).reshape(rows, heads, noisy, dim)
        noisy_out = weights[..., :at] @ context_value + own_out
        return torch.cat((context_out, noisy_out), dim=2).transpose(1, 2)
