"""Quantized weights: int8 for storage alone, with torchao, and fp8 for products too."""

import torch

from cdlm.model.config import CheckpointError, Quantization, TransformerConfig
from cdlm.model.loading.fp8 import check_fp8, round_layers
from cdlm.model.network.transformer import Transformer


def check_quantized_shape(name: Quantization, shape: TransformerConfig) -> None:
    """Raises ``CheckpointError`` if ``name`` does not reach most of the weights: experts stay in 16 or 32 bits."""
    if name != "none" and shape.mixture is not None:
        raise CheckpointError(
            f"quantization {name} has no products for the {shape.mixture.experts} experts of a layer, which are most of"
            " the weights; use none, with dtype bfloat16"
        )


def check_quantization(name: Quantization, device: torch.device, dtype: torch.dtype, ranks: int) -> None:
    """Raises ``CheckpointError`` if ``name`` cannot be had: torchao is not installed, or the device has no fp8."""
    if name == "fp8":
        check_fp8(device, dtype, ranks)
    if name != "int8":
        return
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"quantization {name} needs torchao: pip install 'cdlm-serve[quantization]'") from error


def quantize(transformer: Transformer, name: Quantization) -> None:
    """Quantizes the weights of the layers' projections in place; not those of embedding, norms and LM head.

    ``int8`` stores one signed byte per weight and one scale per output row: symmetric, rounded to nearest. Products
    read the quantized weights: projections that share an input cannot be fused afterwards. ``fp8``: see ``fp8.py``.
    Call ``check_quantization`` before.
    """
    if name == "fp8":
        round_layers(transformer)
    elif name == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(transformer.layers, Int8WeightOnlyConfig())
