"""Models of published shapes with random weights, made on the device."""

import torch

from cdlm.model.config import Manifest, TransformerConfig
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.network.transformer import Transformer

DREAM_7B = TransformerConfig(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28, num_kv_heads=4,
    head_dim=128, rope_theta=1e6, attention_bias=True,
)  # fmt: skip
TINY = TransformerConfig(
    vocab_size=300, hidden_size=64, intermediate_size=96, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=16
)


def random_model(device: torch.device, *, small: bool, block_length: int = 32) -> Checkpoint:
    """bfloat16 on a GPU, fp32 on a CPU. A block of one token makes it autoregressive."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16)
    try:
        with device:
            transformer = Transformer(TINY if small else DREAM_7B)
    finally:
        torch.set_default_dtype(before)
    transformer.rotary.reset(device)
    for parameter in transformer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.uniform_(parameter, -0.02, 0.02)
    transformer.eval().requires_grad_(False)
    alone = block_length == 1
    manifest = Manifest(
        block_length=block_length,
        confidence_threshold=1.0,  # One token per step, whatever the weights say.
        mask_token_id=7,
        stop_token_ids=(),
        max_model_len=256 if small else 16384,
        shift=True,
        block_origin="absolute" if alone else "prompt_end",
        prompt_attention="causal" if alone else "full",
        first_token="autoregressive" if alone else "masked",
    )
    return Checkpoint(transformer, manifest)
