"""The layers of a transformer with Triton kernels, without synchronization: at most ten launches per layer.

The router of a mixture of experts, and the order of its rows, take further launches.
"""

import torch
from torch import Tensor

from cdlm.model.attention.paged import PagedAttention
from cdlm.model.kernels.grouped import grouped_product
from cdlm.model.kernels.norm import add_rms_norm
from cdlm.model.kernels.rotary import Angles, rotate_and_write
from cdlm.model.kernels.swiglu import swiglu
from cdlm.model.network.mixture import Mixture
from cdlm.model.network.mlp import MLP
from cdlm.model.network.transformer import Attention, Layer, RMSNorm, SelfAttention, Transformer


class KernelLayers:
    """``Transformer.run_layers`` and ``write_layer`` with Triton kernels, over the pages of a KV cache.

    Args:
        transformer: its products are fused, unless its weights are quantized.
        positions: most positions of a request, including blocks that extend past its end.
    """

    def __init__(self, transformer: Transformer, positions: int) -> None:
        self._layers = [layer for layer in transformer.layers if isinstance(layer, Layer)]
        self._angles = Angles.up_to(positions, transformer.rotary)
        self._norms = [_head_norms(layer.self_attn) for layer in self._layers]

    def run(self, x: Tensor, attention: Attention, first: int, last: int | None) -> Tensor:
        """Runs layers ``first`` to ``last`` (exclusive): x [T, hidden_size] -> same shape, not normalized."""
        assert isinstance(attention, PagedAttention)
        x, delta = x.contiguous(), None
        for index, layer in enumerate(self._layers[first:last], start=first):
            x, normed = add_rms_norm(x, delta, layer.input_layernorm.weight, layer.input_layernorm.eps)
            delta = self._attend(normed, layer.self_attn, index, attention)
            norm = layer.post_attention_layernorm
            x, normed = add_rms_norm(x, delta, norm.weight, norm.eps)
            delta = _feed_forward(normed, layer.mlp)
        return x if delta is None else x + delta

    def write(self, x: Tensor, attention: PagedAttention, layer: int) -> None:
        """Computes and writes only the keys and values of a layer, from its input x [T, hidden_size]."""
        entering = self._layers[layer].input_layernorm
        _, normed = add_rms_norm(x.contiguous(), None, entering.weight, entering.eps)
        own = self._layers[layer].self_attn
        projected = own.written(normed) if own.written else torch.cat((own.k_proj(normed), own.v_proj(normed)), dim=-1)
        norm, heads = self._norms[layer], own.q_proj.out_features // own.head_dim
        self._rotate(projected, 0, layer, attention, norm and (norm[0][heads:], norm[1]))

    def _attend(self, x: Tensor, own: SelfAttention, index: int, attention: PagedAttention) -> Tensor:
        projections = own.q_proj, own.k_proj, own.v_proj
        projected = own.fused(x) if own.fused else torch.cat([each(x) for each in projections], dim=-1)
        heads = own.q_proj.out_features // own.head_dim
        query = self._rotate(projected, heads, index, attention, self._norms[index])
        attended = attention.attend(query, attention.cache.keys[index], attention.cache.values[index])
        out: Tensor = own.o_proj(attended.flatten(-2))
        return out

    def _rotate(
        self, projected: Tensor, heads: int, index: int, attention: PagedAttention, norm: tuple[Tensor, float] | None
    ) -> Tensor:
        keys, values = attention.cache.keys[index], attention.cache.values[index]
        return rotate_and_write(
            projected, heads, keys, values, attention.slots, attention.positions, self._angles, norm
        )


def _feed_forward(x: Tensor, mlp: MLP | Mixture) -> Tensor:
    out: Tensor = mlp(x, grouped_product, swiglu) if isinstance(mlp, Mixture) else mlp.down_proj(swiglu(_gates(x, mlp)))
    return out


def _gates(x: Tensor, mlp: MLP) -> Tensor:
    return mlp.fused(x) if mlp.fused else torch.cat((mlp.gate_proj(x), mlp.up_proj(x)), dim=-1)


def _head_norms(own: SelfAttention) -> tuple[Tensor, float] | None:
    """Weight [heads + kv_heads, head_dim] and epsilon of the norms of queries and keys, if the layer has them."""
    if not (isinstance(own.q_norm, RMSNorm) and isinstance(own.k_norm, RMSNorm)):
        return None
    counts = [projection.out_features // own.head_dim for projection in (own.q_proj, own.k_proj)]
    norms = [norm.weight.expand(count, -1) for norm, count in zip((own.q_norm, own.k_norm), counts, strict=True)]
    return torch.cat(norms), own.q_norm.eps
