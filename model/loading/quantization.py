"""Weight-only quantization: smaller weights in memory, the arithmetic stays in the model's type (torchao)."""

from cdlm.model.config import CheckpointError, Quantization
from cdlm.model.network.transformer import Transformer


def check_quantization(name: Quantization) -> None:
    """Raises ``CheckpointError`` where torchao, which does it, is needed and is not installed."""
    if name == "none":
        return
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"quantization {name} needs torchao: pip install 'cdlm-serve[quantization]'") from error


def quantize(transformer: Transformer, name: Quantization) -> None:
    """Replaces the layers' weights in place; embedding, norms and LM head keep theirs.

    ``int8`` stores a signed byte a weight and one scale an output row, symmetric, rounded to nearest. Each product
    reads its weights as they are stored, so the projections that share an input cannot be fused any more.

    Raises:
        CheckpointError: torchao, which does it, is not installed.
    """
    check_quantization(name)
    if name == "none":
        return
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(transformer.layers, Int8WeightOnlyConfig())
