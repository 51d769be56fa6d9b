"""One rank's transformer: a share of each layer's heads and hidden units, and of the vocabulary."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cdlm.model.attention.paged import PagedAttention
from cdlm.model.config import CheckpointError, TransformerConfig
from cdlm.model.network.gate import UpdatedLinear
from cdlm.model.network.head import LmHead, Peaks, Search
from cdlm.model.network.mixture import GroupedProduct, Mixture, gated, grouped_product
from cdlm.model.network.mlp import MLP
from cdlm.model.network.transformer import Attention, Layer, Transformer
from cdlm.model.parallel.followers import Followers
from cdlm.model.parallel.messages import FindPeaks, Predict, RunLayers, WriteLayer
from cdlm.model.parallel.peaks import combined, packed, peaks_of_share

# Module -> dimension of its weight that is split (Shoeybi et al., 2019, arXiv 1909.08053): first products of a pair by
# output, second products by input, so that a pair needs one all-reduce.
_CUT = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 0, "up_proj": 0, "o_proj": 1, "down_proj": 1, "lm_head": 0}


class SummedLinear(UpdatedLinear):
    """A linear layer whose inputs are split over the ranks; sums the ranks' products (row-parallel)."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in / ranks] -> [..., out], the same on every rank."""
        out = super().forward(x)
        dist.all_reduce(out)
        return out


class SummedMixture(Mixture):
    """A mixture whose hidden units are split over the ranks: all choose the same experts, and sum the outputs."""

    def forward(
        self, x: Tensor, product: GroupedProduct = grouped_product, gate: Callable[[Tensor], Tensor] = gated
    ) -> Tensor:
        """x [..., hidden_size] -> same shape, the same on every rank."""
        out = super().forward(x, product, gate)
        dist.all_reduce(out)
        return out


def share_config(config: TransformerConfig, size: int) -> TransformerConfig:
    """The shape of one rank's share if the transformer is split over ``size`` ranks.

    Raises:
        CheckpointError: ``size`` does not divide the heads or hidden units.
    """
    for name, value in _divided(config).items():
        if value % size:
            raise CheckpointError(f"tensor_parallel_size {size} does not divide the checkpoint's {name} {value}")
    return _resized(config, {name: value // size for name, value in _divided(config).items()})


def whole_config(share: TransformerConfig, size: int) -> TransformerConfig:
    """The shape of the transformer of which ``share`` is one of ``size`` shares."""
    return _resized(share, {name: value * size for name, value in _divided(share).items()})


def _divided(config: TransformerConfig) -> dict[str, int]:
    """The sizes that ranks divide, those of experts as ``mixture.width``."""
    sizes = {name: getattr(config, name) for name in ("num_heads", "num_kv_heads", "intermediate_size")}
    if config.mixture is not None:
        sizes |= {f"mixture.{name}": getattr(config.mixture, name) for name in ("width", "shared_width")}
    return sizes


def _resized(config: TransformerConfig, sizes: Mapping[str, int]) -> TransformerConfig:
    own: dict[str, Any] = {name: value for name, value in sizes.items() if "." not in name}
    of_mixture: dict[str, Any] = {name.partition(".")[2]: value for name, value in sizes.items() if "." in name}
    mixture = config.mixture and replace(config.mixture, **of_mixture)
    return replace(config, mixture=mixture, **own)


class RankTransformer(Transformer):
    """One rank's share of the transformer that ``config`` describes; rank 0 also holds the whole embedding.

    ``self.config`` is the share's shape. On the leader, ``followers`` run the same calls.

    Raises:
        CheckpointError: the transformer cannot be split evenly over ``size`` ranks.
    """

    def __init__(self, config: TransformerConfig, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.vocab_rows = -(-config.vocab_size // size)  # The last rank may have fewer.
        self.followers: Followers | None = None
        share = share_config(config, size)
        with torch.device("meta"):
            self._whole = Transformer(config).stored_shapes()
        super().__init__(share)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.self_attn.o_proj = SummedLinear(share.num_heads * share.head_dim, share.hidden_size, bias=False)
            if share.mixture is not None and isinstance(layer.mlp, Mixture):
                layer.mlp = SummedMixture(share.hidden_size, share.mixture)
            elif isinstance(layer.mlp, MLP):
                layer.mlp.down_proj = SummedLinear(share.intermediate_size, share.hidden_size, bias=False)
        self.lm_head = LmHead(share.hidden_size, self.vocab_rows, bias=False)
        if rank:
            # With weights, since to draw them would import the compiler of torch.
            self.embed_tokens = nn.Embedding(0, share.hidden_size, _weight=torch.empty(0, share.hidden_size))

    def tie_weights(self) -> None:
        """On the leader, ties its rows of the LM head to its embedding if the configuration says so."""
        if self.config.tie_word_embeddings and self.rank == 0:
            self.lm_head.weight.data = self.embed_tokens.weight.data[: self.vocab_rows]

    def stored_shapes(self) -> dict[str, torch.Size]:
        """Parameter name -> shape in the whole transformer."""
        return self._whole

    def parts(self, name: str, whole: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Like ``Transformer.parts``, for this rank's share of a whole parameter or update."""
        module = name.split(".")[-2]  # Of an expert too: its matrices are called as a feed-forward's.
        if name == "embed_tokens.weight":
            if self.rank == 0:
                yield self.embed_tokens.weight.data, whole
            if not self.config.tie_word_embeddings or self.rank == 0:
                return
            name, module = "lm_head.weight", "lm_head"
        kept = self.memory(name)
        if module == "lm_head":
            part = whole[self.rank * self.vocab_rows : (self.rank + 1) * self.vocab_rows]
            yield kept[: len(part)], part
        elif module in _CUT:
            yield kept, whole.tensor_split(self.size, dim=_CUT[module])[self.rank]
        else:
            yield kept, whole

    def share(self, name: str, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Like ``Transformer.share``: those rows of ``up`` or columns of ``down`` that belong to this rank's weight."""
        cut = _CUT.get(name.rpartition(".")[2])
        if cut == 0:
            up = up.tensor_split(self.size)[self.rank]
        elif cut == 1:
            down = down.tensor_split(self.size, dim=1)[self.rank]
        return down, up

    def run_layers(
        self, x: Tensor, positions: Tensor, attention: Attention, first: int = 0, last: int | None = None
    ) -> Tensor:
        """Like ``Transformer.run_layers``; the leader's call makes its followers run the same layers."""
        if self.followers is None:
            return super().run_layers(x, positions, attention, first, last)
        end = len(self.layers) if last is None else last
        with self.followers.together():
            number = self.followers.number(attention)
            gated = None if self.gate is None else self.gate.first
            self.followers.send(RunLayers(attention=number, tokens=len(x), first=first, last=end, gated=gated))
            dist.broadcast(x, src=0)
            return super().run_layers(x, positions, attention, first, end)

    def write_layer(self, x: Tensor, positions: Tensor, attention: PagedAttention, layer: int) -> None:
        """Like ``Transformer.write_layer``; the leader's call makes its followers write their heads."""
        if self.followers is not None:
            with self.followers.together():
                number = self.followers.number(attention)
                self.followers.send(WriteLayer(attention=number, tokens=len(x), layer=layer))
                dist.broadcast(x, src=0)
        super().write_layer(x, positions, attention, layer)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [rows, hidden_size] -> logits [rows, vocab_size] on the leader, this rank's columns on followers."""
        if self.followers is None:
            part = super().logits(hidden)
            dist.gather(part, dst=0)
            return part
        with self.followers.together():
            hidden = hidden.contiguous()
            self.followers.send(Predict(rows=len(hidden)))
            dist.broadcast(hidden, src=0)
            part = super().logits(hidden)
            columns = [torch.empty_like(part) for _ in range(self.size)]
            dist.gather(part, columns, dst=0)
            return torch.cat(columns, dim=-1)[:, : self.config.vocab_size]

    def peaks(self, hidden: Tensor, search: Search, mask_token_id: int) -> Peaks:
        """Like ``Transformer.peaks`` on the leader; those among this rank's tokens on followers.

        Each rank sends three numbers per row.
        """
        if self.followers is None:
            found = self._own_peaks(hidden, search, mask_token_id)
            dist.gather(packed(found), dst=0)
            return found
        with self.followers.together():
            hidden = hidden.contiguous()
            self.followers.send(FindPeaks(rows=len(hidden), mask_token_id=mask_token_id))
            dist.broadcast(hidden, src=0)
            part = packed(self._own_peaks(hidden, search, mask_token_id))
            parts = [torch.empty_like(part) for _ in range(self.size)]
            dist.gather(part, parts, dst=0)
            return combined(parts)

    def _own_peaks(self, hidden: Tensor, search: Search, mask_token_id: int) -> Peaks:
        assert isinstance(self.lm_head, LmHead)
        first = self.rank * self.vocab_rows
        count = min(self.vocab_rows, self.config.vocab_size - first)
        return peaks_of_share(hidden, self.lm_head, search, mask_token_id, first, count)
