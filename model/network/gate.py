"""Gated low-rank updates: layers add them to the outputs of a forward's masked rows only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdlm.model.network.mlp import MLP
from cdlm.model.network.transformer import Gate, SelfAttention, Transformer

MakeProduct = Callable[[Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """An update ``scale * up @ down`` of a weight [out, in]; down (LoRA's A) is [r, in], up (B) is [out, r]."""

    down: Tensor
    up: Tensor
    scale: float


class GatedUpdate:
    """Adds low-rank updates to the output of a product, in rows for which the gate is open.

    Args:
        gate: shared by all layers.
        updates: of the layers whose outputs the product concatenates; ``None`` for a layer without one.
        widths: output features of these layers.
        make: makes the product with a matrix [out, in] fp32.
    """

    def __init__(self, gate: Gate, updates: list[LowRankUpdate | None], widths: list[int], make: MakeProduct) -> None:
        self._gate = gate
        given = [update for update in updates if update is not None]
        # Layers that share their input share one product down; each has its own columns of the product up.
        down = torch.cat([update.down.float() for update in given])
        up = torch.zeros(sum(widths), len(down))
        row, column = 0, 0
        for update, width in zip(updates, widths, strict=True):
            if update is not None:
                rank = len(update.down)
                up[row : row + width, column : column + rank] = update.scale * update.up.float()
                column += rank
            row += width
        self._down, self._up = make(down), make(up)

    def add(self, x: Tensor, out: Tensor) -> Tensor:
        """Adds the update of the masked rows of x [T, in] to out [T, out], in place."""
        first = self._gate.first
        if first is not None:
            out[first:] += self._up(self._down(x[first:]))
        return out


class UpdatedLinear(nn.Linear):
    """A linear layer that adds a gated update to its product by itself, since more happens to its output after that."""

    update: GatedUpdate | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]; x is [T, in] if there is an update."""
        out = super().forward(x)
        return out if self.update is None else self.update.add(x, out)


def attach(transformer: Transformer, updates: Mapping[str, LowRankUpdate], make: MakeProduct) -> None:
    """Adds gated updates to a transformer that is ready to run: fused, packed or quantized; sets its gate.

    Args:
        updates: by names of the transformer's linear layers; none is the LM head.
        make: makes the product with a matrix [out, in] fp32, which is to be computed in the dtype of the layers.
    """
    gate = Gate()
    for name, module in transformer.named_modules():
        if not isinstance(module, SelfAttention | MLP):
            continue
        for group in _groups(module):
            found = [updates.get(f"{name}.{each}") for each in group]
            if not any(found):
                continue
            layers = [module.get_submodule(each) for each in group]
            widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
            update = GatedUpdate(gate, found, widths, make)
            if len(group) > 1:
                assert module.fused is not None
                module.fused = _gated(module.fused, update)
            elif isinstance(layers[0], UpdatedLinear):
                layers[0].update = update
            else:
                layers[0].register_forward_hook(_hook(update))
    transformer.gate = gate


def _groups(module: SelfAttention | MLP) -> list[tuple[str, ...]]:
    """The module's linear layers, those together whose product is fused."""
    together, alone = (
        (("q_proj", "k_proj", "v_proj"), "o_proj")
        if isinstance(module, SelfAttention)
        else (("gate_proj", "up_proj"), "down_proj")
    )
    fused = [together] if module.fused is not None else [(each,) for each in together]
    return [*fused, (alone,)]


def _gated(product: Callable[[Tensor], Tensor], update: GatedUpdate) -> Callable[[Tensor], Tensor]:
    return lambda x: update.add(x, product(x))


def _hook(update: GatedUpdate) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _module, inputs, out: update.add(inputs[0], out)
