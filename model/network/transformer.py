"""A pre-norm transformer with rotary positions, RMSNorm, SwiGLU and grouped-query attention.

Training (dense rows) and the engine (flat segments over a page pool) share it: the ``Attention`` passed to ``forward``
decides what each token sees.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from cdlm.model.config import TransformerConfig
from cdlm.model.network.head import LmHead, Peaks, Search
from cdlm.model.network.mixture import Experts, Mixture
from cdlm.model.network.mlp import MLP
from cdlm.model.network.product import fused, quantized
from cdlm.model.network.rope import RotaryEmbedding, rotate

if TYPE_CHECKING:
    from cdlm.model.attention.paged import PagedAttention
    from cdlm.model.forwards.kernel_layers import KernelLayers


class Attention(Protocol):
    """Attends queries to the keys that they may see; owns masks and caches."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [..., heads, head_dim], key and value [..., kv_heads, head_dim] -> [..., heads, head_dim]."""
        ...


class ScaledQueries:
    """An ``Attention`` whose queries are first multiplied by ``scale`` [...] fp32, rounded to their type."""

    def __init__(self, attention: Attention, scale: Tensor) -> None:
        self._attention, self._scale = attention, scale[..., None, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attention``."""
        return self._attention(layer, query * self._scale.to(query.dtype), key, value)


class RMSNorm(nn.Module):
    """Root mean square normalization in fp32 (Zhang and Sennrich, 2019, arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalizes the last dimension of x [..., size] in fp32; keeps x's dtype. ``weight``: [size] or [heads, size]."""
    if weight.dim() == 1:
        wide = nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps)
    else:
        wide = nn.functional.rms_norm(x.float(), weight.shape[-1:], None, eps).mul_(weight.float())
    return wide.to(x.dtype)


class SelfAttention(nn.Module):
    """Projections and rotary embedding around an ``Attention``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        norm = config.qk_norm
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if norm else nn.Identity()
        self.fused: Callable[[Tensor], Tensor] | None = None
        self.written: Callable[[Tensor], Tensor] | None = None
        self.norms: tuple[Tensor, float] | None = None  # Weight and epsilon of the fused norm of queries and keys.

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attention: Attention) -> Tensor:
        if self.fused is None:
            query, key, value = (projection(x).view(self._heads(x)) for projection in self._projections)
            query, key = rotate(self.q_norm(query), cos, sin), rotate(self.k_norm(key), cos, sin)
        else:
            query, key, value = self._project(self.fused(x).view(self._heads(x)), cos, sin)
        out: Tensor = self.o_proj(attention(layer, query, key, value).flatten(-2))
        return out

    def write(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attention: "PagedAttention") -> None:
        """Writes the keys and values of x to ``attention``."""
        if self.written is None:
            key, value = (projection(x).view(self._heads(x)) for projection in (self.k_proj, self.v_proj))
        else:
            key, value = self.written(x).view(self._heads(x)).chunk(2, dim=-2)
        attention.write(layer, rotate(self.k_norm(key), cos, sin), value)

    def _project(self, projected: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits projected heads [..., heads + 2 * kv_heads, head_dim] into query, key and value; normalizes and
        rotates.

        Queries and keys are processed together: in small batches, the number of operations determines the time.
        """
        heads, kv_heads, _ = self.head_counts
        both, value = projected.split_with_sizes((heads + kv_heads, kv_heads), dim=-2)
        if self.norms is not None:
            both = rms_norm(both, *self.norms)
        query, key = rotate(both, cos, sin).split_with_sizes((heads, kv_heads), dim=-2)
        return query, key, value

    def _heads(self, x: Tensor) -> tuple[int, ...]:
        return *x.shape[:-1], -1, self.head_dim

    @property
    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q_proj, self.k_proj, self.v_proj

    def fuse(self) -> None:
        """Fuses the projections of query, key and value; stores no matrix twice."""
        self.fused = product = fused(self._projections)
        self.head_counts = [projection.out_features // self.head_dim for projection in self._projections]
        self.written = product.since(self.q_proj.out_features)  # Keys and values.
        if isinstance(self.q_norm, RMSNorm) and isinstance(self.k_norm, RMSNorm):
            norms = (self.q_norm.weight.data, self.k_norm.weight.data)
            weight = [norm.expand(count, -1) for norm, count in zip(norms, self.head_counts, strict=False)]
            self.norms = torch.cat(weight), self.q_norm.eps  # [heads + kv_heads, head_dim]


class Layer(nn.Module):
    """One pre-norm residual layer."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.mixture is None or index < config.dense_layers:
            self.mlp: MLP | Mixture = MLP(config.hidden_size, config.intermediate_size)
        else:
            self.mlp = Mixture(config.hidden_size, config.mixture)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, attention: Attention) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, layer, attention)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def _embedding(rows: int, width: int) -> nn.Embedding:
    weight = torch.empty(rows, width)
    if not weight.is_meta:  # See ``RotaryEmbedding.reset``.
        nn.init.normal_(weight)
    return nn.Embedding(rows, width, _weight=weight)


class Gate:
    """Opens gated updates (``gate.py``) for the last rows of a forward.

    Attributes:
        first: the first flat row that gets the updates, all later ones do too; ``None`` for no row.
    """

    first: int | None = None


class Transformer(nn.Module):
    """The transformer with embedding and LM head.

    Attributes:
        kernels: compute the layers instead of PyTorch's operators; ``None`` without any.
        gate: of the gated updates that are attached; ``None`` without any.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = _embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = LmHead(config.hidden_size, config.vocab_size, bias=False)
        self.rotary = RotaryEmbedding(config.rotary_dim, config.rope_theta, config.rotary_scaling)
        self.kernels: KernelLayers | None = None
        self.gate: Gate | None = None
        self.tie_weights()

    def tie_weights(self) -> None:
        """Ties the LM head to the embedding if the configuration says so; call it again when weights are replaced."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def stored_shapes(self) -> dict[str, torch.Size]:
        """Parameter name -> shape, as checkpoints store them.

        Each expert is listed by itself, a tied head once, as the embedding.
        """
        shapes: dict[str, torch.Size] = {}
        for name, parameter in self.named_parameters():
            owner = self.get_submodule(name.rpartition(".")[0])
            shapes |= dict(owner.stored_shapes(name)) if isinstance(owner, Experts) else {name: parameter.shape}
        return shapes

    def memory(self, name: str) -> Tensor:
        """The memory of a parameter, called as in ``stored_shapes``; an expert's is a part of a stack."""
        owner, found, leaf = name.partition(".experts.")
        if not found:
            return self.get_parameter(name).data
        experts = self.get_submodule(f"{owner}.experts")
        assert isinstance(experts, Experts)
        return experts.memory(leaf)

    def parts(self, name: str, whole: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (memory, part of ``whole`` that belongs there); ``whole`` is the value or an update of parameter
        ``name``.
        """
        yield self.memory(name), whole

    def share(self, name: str, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """What a gated update ``up @ down`` of the linear layer ``name`` is of: down [r, in] and up [out, r]."""
        return down, up

    def fuse(self) -> None:
        """Fuses products that share their input, for inference, unless their weights are quantized. Call it once.

        Raises:
            ValueError: a parameter requires gradients, which a fused product would not pass on.
        """
        if any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError("a model that is being trained cannot be fused")
        for module in self.modules():
            if isinstance(module, SelfAttention | MLP) and module.fused is None and not quantized(module):
                module.fuse()

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """token_ids and positions [...] int64 -> normalized last hidden states [..., hidden_size]."""
        out: Tensor = self.norm(self.run_layers(self.embed_tokens(token_ids), positions, attention))
        return out

    def run_layers(
        self, x: Tensor, positions: Tensor, attention: Attention, first: int = 0, last: int | None = None
    ) -> Tensor:
        """Runs layers ``first`` to ``last`` (exclusive): x [..., hidden_size] -> same shape, not normalized."""
        if self.kernels is not None:
            return self.kernels.run(x, attention, first, last)
        cos, sin = self.rotary(positions)
        scale = self.rotary.query_scale(positions)
        if scale is not None:
            attention = ScaledQueries(attention, scale)
        for index, layer in enumerate(list(self.layers)[first:last], start=first):
            x = layer(x, cos, sin, index, attention)
        return x

    def write_layer(self, x: Tensor, positions: Tensor, attention: "PagedAttention", layer: int) -> None:
        """Computes and writes only the keys and values of a layer, from its input x [..., hidden_size]."""
        if self.kernels is not None:
            self.kernels.write(x, attention, layer)
            return
        of_layer = self.layers[layer]
        assert isinstance(of_layer, Layer)
        cos, sin = self.rotary(positions)
        of_layer.self_attn.write(of_layer.input_layernorm(x), cos, sin, layer, attention)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., hidden_size] -> logits [..., vocab_size] in the weights' dtype."""
        out: Tensor = self.lm_head(hidden)
        return out

    def peaks(self, hidden: Tensor, search: Search, mask_token_id: int) -> Peaks:
        """The most probable tokens of hidden [rows, hidden_size], which ``search`` finds in their logits."""
        return search(hidden, self.lm_head, mask_token_id)
