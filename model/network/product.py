"""Matrix products of linear layers, prepared for inference."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Product:
    """A linear layer for inference: weight [out, in], and bias [out] or ``None``."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return nn.functional.linear(x, self.weight, self.bias)

    def since(self, first: int) -> "Product":
        """The product for outputs from ``first`` on; shares memory with this one."""
        return Product(self.weight[first:], None if self.bias is None else self.bias[first:])


def fused(layers: Sequence[nn.Linear]) -> Product:
    """Fuses linear layers with the same input into one product, whose outputs are concatenated.

    The layers' parameters become slices of one tensor: names and total memory do not change.
    """
    weight = torch.cat([layer.weight.data for layer in layers])
    biases = [layer.bias.data for layer in layers if layer.bias is not None]
    bias = torch.cat(biases) if biases else None
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight.data = weight[start:end]
        if bias is not None:
            layer.bias.data = bias[start:end]
        start = end
    return Product(weight, bias)


def quantized(module: nn.Module) -> bool:
    """Whether a weight of the module is not a plain tensor."""
    return any(type(parameter.data) is not Tensor for parameter in module.parameters())
