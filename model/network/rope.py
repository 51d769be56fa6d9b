"""Rotary positions, and their scaling to contexts longer than in training."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from cdlm.model.config import CheckpointError, Manifest, RotaryScaling, TransformerConfig


class RotaryEmbedding(nn.Module):
    """Half-split rotary position embedding (Su et al., 2021, arXiv 2104.09864), angles in fp32.

    Args:
        dim: how many dimensions of a head turn.
        theta: the base of the angles.
    """

    inverse_frequency: Tensor

    def __init__(self, dim: int, theta: float, scaling: RotaryScaling | None = None) -> None:
        super().__init__()
        self.dim, self.theta, self.scaling = dim, theta, scaling
        self.attention_factor = scaling.attention_factor if scaling else 1.0
        self.reset(torch.get_default_device())

    def reset(self, device: torch.device) -> None:
        """Computes the frequencies on ``device``; checkpoints do not store them."""
        if device.type == "meta":  # Arithmetic on meta tensors imports torch's compiler, which takes seconds.
            frequency = torch.empty(self.dim // 2, device=device)
        else:
            exponent = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
            frequency = self.theta**-exponent
            if self.scaling:
                frequency = _stretched(frequency, self.theta, self.scaling)
        self.register_buffer("inverse_frequency", frequency, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [...] int64 -> cos and signed sin [..., 1, dim] fp32, broadcast over heads.

        The sine of the first half is negated, as ``rotate`` expects.
        """
        angles = positions[..., None, None].float() * self.inverse_frequency
        cos, sin = angles.cos(), angles.sin()
        if self.attention_factor != 1.0:
            cos, sin = cos * self.attention_factor, sin * self.attention_factor
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def query_scale(self, positions: Tensor) -> Tensor | None:
        """positions [...] int64 -> what queries are multiplied by, [...] fp32; ``None`` if nothing."""
        if self.scaling is None or not self.scaling.query_beta:
            return None
        return 1 + self.scaling.query_beta * torch.log1p((positions // self.scaling.positions).float())


def _stretched(frequency: Tensor, theta: float, scaling: RotaryScaling) -> Tensor:
    """The frequencies [head_dim / 2] of YaRN, from those that the weights knew before."""
    pairs = len(frequency)

    def pair(turns: float) -> float:
        """The pair, a fraction, whose angle makes so many turns within the known positions."""
        return pairs * math.log(scaling.positions / (turns * 2 * math.pi)) / math.log(theta)

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    if first == last:
        last += 0.001  # A step instead of a ramp.
    numbers = torch.arange(pairs, dtype=torch.float32, device=frequency.device)
    share = ((numbers - first) / (last - first)).clamp(0, 1)
    return frequency * (1 - share) + frequency / scaling.factor * share


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [..., heads, head_dim] by the angles of ``RotaryEmbedding``; dtype of x is kept.

    With fewer angles than dimensions, the last dimensions stay as they are.
    """
    turned = cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], cos, sin), x[..., turned:]), dim=-1)
    wide = x.float()
    swapped = wide.roll(wide.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, swapped, sin).to(x.dtype)


def stretch(
    shape: TransformerConfig, manifest: Manifest, factor: float, max_model_len: int | None
) -> tuple[TransformerConfig, Manifest]:
    """Returns shape and manifest for ``factor`` times as many positions as the weights know.

    The base of the rotary angles becomes theta * factor ^ (d / (d - 2)), where d dimensions of a head turn: the slowest
    angle is stretched by the factor, the fastest stays (NTK-aware scaling, which LongLLaDA, arXiv 2506.14429, applies
    to diffusion models without training). ``max_model_len`` defaults to the manifest's value times the factor.

    Raises:
        CheckpointError: the factor is below 1, or ``max_model_len`` exceeds the scaled positions.
    """
    if factor < 1.0:
        raise CheckpointError(f"rope_scaling_factor must be at least 1, got {factor:g}")
    known = int((manifest.trained_len or manifest.max_model_len) * factor)
    length = int(manifest.max_model_len * factor) if max_model_len is None else max_model_len
    if length > known:
        reach = "reach so" if factor > 1.0 else "were trained for"
        raise CheckpointError(
            f"max_model_len {length} is more than the {known} positions that the weights {reach};"
            f" rope_scaling_factor {math.ceil(length / known * factor * 100) / 100:g} would do"
        )
    if factor > 1.0:
        if shape.rotary_scaling:
            raise CheckpointError("rope_scaling_factor: the checkpoint's rotary angles are scaled already")
        if shape.rotary_dim <= 2:
            raise CheckpointError("rope_scaling_factor: a head of width 2 has one angle, which cannot be scaled")
        theta = shape.rope_theta * factor ** (shape.rotary_dim / (shape.rotary_dim - 2))
        shape = replace(shape, rope_theta=theta)
    return shape, replace(manifest, max_model_len=length)
