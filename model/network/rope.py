"""Contexts longer than the weights were trained for."""

import math
from dataclasses import replace

from cdlm.model.config import CheckpointError, Manifest, TransformerConfig


def stretch(
    shape: TransformerConfig, manifest: Manifest, factor: float, max_model_len: int | None
) -> tuple[TransformerConfig, Manifest]:
    """Shape and manifest for positions up to ``factor`` times those the weights know.

    The base of the rotary angles grows to theta * factor ^ (d / (d - 2)), d the width of a head: the slowest angle is
    stretched by the factor, the fastest stays (NTK-aware scaling, which LongLLaDA, arXiv 2506.14429, applies to
    diffusion models without training). ``max_model_len`` ``None`` takes the manifest's value times the factor.

    Raises:
        CheckpointError: the factor is below 1, or ``max_model_len`` is more than the stretched positions.
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
        if shape.head_dim <= 2:
            raise CheckpointError("rope_scaling_factor: a head of width 2 has one angle, which cannot be scaled")
        theta = shape.rope_theta * factor ** (shape.head_dim / (shape.head_dim - 2))
        shape = replace(shape, rope_theta=theta)
    return shape, replace(manifest, max_model_len=length)
