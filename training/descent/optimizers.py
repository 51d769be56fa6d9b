"""Optimizers, the learning rate schedule, and initial weights."""

import torch
from torch import nn

from cdlm.model.network.transformer import Transformer
from cdlm.training.config import DescentSection, OptimizationSection


def learning_rate_factor(step: int, section: DescentSection) -> float:
    """Warm up, stay, decay linearly to zero (warmup-stable-decay)."""
    decay_steps = max(1, round(section.steps * section.decay_fraction))
    return max(0.0, min(1.0, (step + 1) / section.warmup_steps, (section.steps - step) / decay_steps))


def make_optimizers(model: Transformer, section: OptimizationSection) -> list[torch.optim.Optimizer]:
    """Makes Muon (Jordan et al., 2024) for the layers' matrices and AdamW for the embedding and the vectors."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    muon = torch.optim.Muon(
        matrices, lr=section.learning_rate, weight_decay=section.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=section.embedding_learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def initialize(model: Transformer, seed: int) -> None:
    """Initializes weights as GPT-2 does: normal with deviation 0.02, residual outputs scaled down with depth."""
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * model.config.num_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            narrow = depth if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=0.02 * narrow, generator=generator)
