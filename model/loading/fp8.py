"""Weights and activations in float8: the tensor cores of newer GPUs multiply them twice as fast as 16-bit numbers."""

import logging

import torch
from torch import Tensor

from cdlm.model.config import CheckpointError
from cdlm.model.loading.packing import ProductLinear, forget
from cdlm.model.network.mlp import MLP
from cdlm.model.network.product import Product
from cdlm.model.network.transformer import Layer, Transformer

logger = logging.getLogger(__name__)

# The first GPUs with such products: Ada and Hopper.
OLDEST = (8, 9)
_TYPE = torch.float8_e4m3fn
_LARGEST = torch.finfo(_TYPE).max
# Weights have no smaller scale than this, nor activations: what is all zero stays so.
_LEAST_SCALE = 1e-12
# The products ask that outputs and inputs are multiples of this.
_STEP = 16


def check_fp8(device: torch.device, dtype: torch.dtype, ranks: int) -> None:
    """Raises ``CheckpointError`` if products in float8 cannot run there."""
    if device.type != "cuda":
        raise CheckpointError(f"quantization fp8 needs an NVIDIA GPU of compute capability 8.9 or newer, got {device}")
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(device)
        raise CheckpointError(
            f"quantization fp8 needs compute capability 8.9 or newer; {name} has {capability[0]}.{capability[1]}"
        )
    if dtype != torch.bfloat16:
        raise CheckpointError(f"quantization fp8 gives bfloat16, not {str(dtype).removeprefix('torch.')}")
    if ranks > 1:
        raise CheckpointError(f"quantization fp8 runs on one device, not with tensor_parallel_size {ranks}")


def scaled(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds values [rows, columns] to float8, with a scale per row [rows, 1] fp32.

    A row that is not finite gives NaN.
    """
    wide = values.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_(min=_LEAST_SCALE * _LARGEST).div_(_LARGEST)
    return (wide / scale).clamp_(-_LARGEST, _LARGEST).to(_TYPE), scale


class Fp8Product:
    """The product x @ weight.T + bias: weights with a scale per output, activations with a scale per token.

    A token's result therefore does not depend on which others there are.

    Args:
        weight: [out, in] float8.
        scale: [out, 1] fp32.
        bias: [out] bf16 or ``None``.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> "Fp8Product":
        """Rounds ``weight`` [out, in]."""
        return cls(*scaled(weight), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], both bf16."""
        rows = x.flatten(0, -2)
        if not len(rows):
            return x.new_empty(*x.shape[:-1], len(self.weight))
        rounded, scale = scaled(rows)
        out: Tensor = torch._scaled_mm(
            rounded, self.weight.t(), scale, self.scale.t(), bias=self.bias, out_dtype=torch.bfloat16
        )
        return out.view(*x.shape[:-1], len(self.weight))

    def since(self, first: int) -> "Fp8Product":
        """The product for outputs from ``first`` on; shares memory with this one."""
        return Fp8Product(self.weight[first:], self.scale[first:], None if self.bias is None else self.bias[first:])


@torch.inference_mode()
def round_layers(transformer: Transformer) -> None:
    """Rounds the layers' matrices to float8, layer by layer, and frees the others; not embedding, norms and LM head.

    Fuses the transformer, which can only run inference afterwards. Matrices whose sizes are no multiples of 16 stay,
    which the log says.
    """
    transformer.fuse()
    kept: set[str] = set()
    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        attention, mlp = layer.self_attn, layer.mlp
        queries = attention.q_proj.out_features
        assert isinstance(attention.fused, Product)
        assert isinstance(mlp, MLP)
        assert isinstance(mlp.fused, Product)
        if _fits(attention.fused.weight) and queries % _STEP == 0:
            product = Fp8Product.of(attention.fused.weight, attention.fused.bias)
            attention.fused, attention.written = product, product.since(queries)
            forget(attention.q_proj, attention.k_proj, attention.v_proj)
        else:
            kept.add("q_proj, k_proj, v_proj")
        if _fits(mlp.fused.weight):
            mlp.fused = Fp8Product.of(mlp.fused.weight)
            forget(mlp.gate_proj, mlp.up_proj)
        else:
            kept.add("gate_proj, up_proj")
        for owner, name in ((attention, "o_proj"), (mlp, "down_proj")):
            linear = getattr(owner, name)
            if _fits(linear.weight):
                setattr(owner, name, ProductLinear(linear, Fp8Product.of(linear.weight.data)))
            else:
                kept.add(name)
    if kept:
        logger.warning(
            "quantization fp8: sizes that are no multiples of %d keep these in 16 bits: %s",
            _STEP,
            ", ".join(sorted(kept)),
        )


def _fits(weight: Tensor) -> bool:
    return all(size % _STEP == 0 for size in weight.shape)
