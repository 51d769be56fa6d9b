"""Reads rotary angles that YaRN has stretched, and the scale of queries, with the keys of transformers."""

import math
from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.config import CheckpointError, RotaryScaling

_KINDS = ("default", "yarn")
_KNOWN = {
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "llama_4_scaling_beta",
    "max_position_embeddings",  # Repeats the key beside the section.
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
}


def read_rope(config: keys.Config, theta: float) -> tuple[float, RotaryScaling | None]:
    """Base of the rotary angles, ``theta`` if no key has it, and how they are scaled.

    Raises:
        CheckpointError: the section ``rope_parameters`` or ``rope_scaling`` is missing, or asks for something else than
            YaRN and a scale of queries; the message names the key.
    """
    found = {name: config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name) is not None}
    if not found:
        raise CheckpointError("config.json: rope_parameters is missing")
    name, section = next(iter(found.items()))
    if not all(isinstance(each, Mapping) and each == section for each in found.values()):
        raise CheckpointError(
            f"config.json: {' and '.join(found)} must be the same section, got {list(found.values())}"
        )
    kind = section.get("rope_type", section.get("type", "default"))
    if kind not in _KINDS:
        raise CheckpointError(f"config.json: {name} is {section!r}; only rope_type 'default' and 'yarn' can be run")
    for key in sorted(section.keys() - _KNOWN):
        if section[key] is not None and not (key == "partial_rotary_factor" and section[key] == 1):
            raise CheckpointError(f"config.json: {name}.{key} is {section[key]!r}, which is not implemented")
    base = keys.number({"rope_theta": section.get("rope_theta") or config.get("rope_theta")}, "rope_theta", theta)
    beta = keys.number(section, "llama_4_scaling_beta", 0.0)
    if kind == "default" and not beta:
        return base, None
    positions = keys.integer(section, "original_max_position_embeddings")
    if kind == "default":
        return base, RotaryScaling(factor=1.0, positions=positions, query_beta=beta)
    factor = keys.number(section, "factor", keys.positions(config) / positions if positions else None)
    return base, RotaryScaling(
        factor=factor,
        positions=positions,
        # As in transformers, 0 means the default.
        beta_fast=keys.number(section, "beta_fast", 32.0) or 32.0,
        beta_slow=keys.number(section, "beta_slow", 1.0) or 1.0,
        truncate=keys.flag(section, "truncate", True),
        attention_factor=_attention_factor(section, factor),
        query_beta=beta,
    )


def _attention_factor(section: Mapping[str, Any], factor: float) -> float:
    """What cosines and sines are multiplied by."""
    if section.get("attention_factor") is not None:
        return keys.number(section, "attention_factor")

    def growth(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = (keys.number(section, key, 0.0) for key in ("mscale", "mscale_all_dim"))
    return growth(above) / growth(below) if above and below else growth(1.0)
