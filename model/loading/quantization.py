"""Weight-only quantization with torchao: smaller weights, arithmetic in the model's dtype."""

from cdlm.model.config import CheckpointError, Quantization
from cdlm.model.network.transformer import Transformer


def check_quantization(name: Quantization) -> None:
    """Raises ``CheckpointError`` if ``name`` needs torchao and torchao is not installed."""
    if name == "none":
        return
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"quantization {name} needs torchao: pip install 'cdlm-serve[quantization]'") from error


def quantize(transformer: Transformer, name: Quantization) -> None:
    """Quantizes the weights of the layers' projections in place; not those of embedding, norms and LM head.

    ``int8`` stores one signed byte per weight and one scale per output row: symmetric, rounded to nearest. Products
    read the quantized weights: projections that share an input cannot be fused afterwards.

    Raises:
        CheckpointError: torchao is not installed.
    """
    check_quantization(name)
    if name == "none":
        return
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(transformer.layers, Int8WeightOnlyConfig())
