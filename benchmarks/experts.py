"""Mixtures of experts of published shapes with random weights, and what their products need."""

import torch
from torch import nn

from cdlm.model.config import MixtureConfig
from cdlm.model.network.mixture import Mixture

MODELS = ("llada2-mini", "sdar-30b-a3b")


def random_mixture(hidden_size: int, config: MixtureConfig, device: torch.device, dtype: torch.dtype) -> Mixture:
    """Every weight is written: memory that never was is one page, which stays in the cache."""
    with torch.device("meta"):
        mixture = Mixture(hidden_size, config).to(dtype)
    mixture.to_empty(device=device).requires_grad_(False)
    for name, parameter in mixture.named_parameters():
        nn.init.uniform_(parameter, -0.02, 0.02) if "bias" not in name else nn.init.zeros_(parameter)
    if mixture.shared_experts is not None:
        mixture.shared_experts.fuse()
    return mixture


def read_bytes(mixture: Mixture, used: int) -> int:
    """Bytes of all weights, but of the experts only ``used``."""
    stacks = mixture.experts.gate_up, mixture.experts.down
    others = sum(parameter.nbytes for parameter in mixture.parameters()) - sum(stack.nbytes for stack in stacks)
    return others + used * sum(stack[0].nbytes for stack in stacks)


def weights_per_token(hidden_size: int, config: MixtureConfig) -> int:
    """Weights that a token is multiplied with."""
    return hidden_size * (config.experts + 3 * (config.experts_per_token * config.width + config.shared_width))
