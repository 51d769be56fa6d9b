"""How an attention backend computes the layers of a transformer."""

from cdlm.model.config import AttentionBackend
from cdlm.model.network.transformer import Transformer


def use_backend(transformer: Transformer, backend: AttentionBackend, positions: int) -> None:
    """Prepares a transformer to run on a resolved backend, for positions below ``positions``."""
    transformer.fuse()
    transformer.kernels = None
    if backend == "triton":
        # Triton is there on Linux only.
        from cdlm.model.forwards.kernel_layers import KernelLayers

        transformer.kernels = KernelLayers(transformer, positions)
