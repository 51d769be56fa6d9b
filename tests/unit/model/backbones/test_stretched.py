"""Stretched rotary angles and scaled queries are those of transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Ministral3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

from cdlm.model.config import CheckpointError, RotaryScaling
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.rope import RotaryEmbedding
from tests.support.models.checkpoints import AXES, build_checkpoint


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize(
    "keys",
    [
        {"factor": 16.0, "original_max_position_embeddings": 16384},
        {"factor": 0.25, "original_max_position_embeddings": 16384},  # Fewer positions than before.
        {"factor": 1.0, "original_max_position_embeddings": 4096},
        {"factor": 4.0, "original_max_position_embeddings": 100, "beta_fast": 3.0, "beta_slow": 2.9},
        {"factor": 4.0, "original_max_position_embeddings": 2048, "beta_fast": 8.0, "beta_slow": 0.5},
        {"factor": 4.0, "original_max_position_embeddings": 2048, "truncate": False},
    ],
)
def test_angles(keys: dict[str, Any], theta: float, dim: int) -> None:
    parameters = {"rope_type": "yarn", "rope_theta": theta, **keys}
    config = Ministral3Config(head_dim=dim, rope_parameters=parameters, max_position_embeddings=65536)
    expected, factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    scaling = RotaryScaling(
        factor=keys["factor"],
        positions=keys["original_max_position_embeddings"],
        attention_factor=factor,
        **{key: value for key, value in keys.items() if key in ("beta_fast", "beta_slow", "truncate")},
    )
    found = RotaryEmbedding(dim, theta, scaling)
    torch.testing.assert_close(found.inverse_frequency, expected, rtol=2e-6, atol=0)
    cos, sin = found(torch.tensor([3]))
    torch.testing.assert_close(cos[0, 0, : dim // 2], (3 * expected).cos() * factor)
    torch.testing.assert_close(sin[0, 0, dim // 2 :], (3 * expected).sin() * factor)


def test_scales_of_queries() -> None:
    positions = torch.tensor([0, 99, 100, 199, 200, 12345])
    scaling = RotaryScaling(factor=2.0, positions=100, query_beta=0.1)
    found = RotaryEmbedding(8, 1e4, scaling).query_scale(positions)
    assert found is not None
    torch.testing.assert_close(found, get_llama_4_attn_scale(positions[None], 0.1, 100).flatten())
    assert RotaryEmbedding(8, 1e4, replace(scaling, query_beta=0.0)).query_scale(positions) is None
    assert RotaryEmbedding(8, 1e4).query_scale(positions) is None


def test_what_makes_no_sense_is_refused_by_its_name(tmp_path: Path) -> None:
    for change in ({"factor": 0.0}, {"positions": 0}, {"beta_slow": 0.0}, {"attention_factor": -1.0}):
        with pytest.raises(CheckpointError, match=f"{next(iter(change))} must be positive"):
            RotaryScaling(**{"factor": 2.0, "positions": 100, **change})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="beta_fast 1 must exceed beta_slow 2"):
        RotaryScaling(factor=2.0, positions=100, beta_fast=1.0, beta_slow=2.0)
    directory = build_checkpoint(tmp_path, "stretched")
    assert load_checkpoint(directory).transformer.config.rotary_scaling == AXES["stretched"][0]["rotary_scaling"]
    with pytest.raises(CheckpointError, match="rope_scaling_factor: .* scaled already"):
        load_checkpoint(directory, rope_scaling_factor=2.0)
