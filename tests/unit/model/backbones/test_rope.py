"""Contexts beyond the trained one: refused, or reached by stretching the rotary angles."""

from pathlib import Path

import pytest
import torch

from cdlm.model.config import CheckpointError, Manifest, TransformerConfig
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.rope import RotaryEmbedding, stretch
from tests.support.models.checkpoints import build_checkpoint
from tests.support.models.hf_checkpoints import build_dream

SHAPE = TransformerConfig(
    vocab_size=8, hidden_size=32, intermediate_size=8, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8
)
MANIFEST = Manifest(block_length=8, confidence_threshold=0.9, mask_token_id=7, stop_token_ids=(1,), max_model_len=256)


def test_the_slowest_angle_is_stretched_by_the_factor_and_the_fastest_stays() -> None:
    shape, manifest = stretch(SHAPE, MANIFEST, 4.0, None)
    assert manifest.max_model_len == 1024
    before, after = (RotaryEmbedding(8, each.rope_theta).inverse_frequency for each in (SHAPE, shape))
    assert after[0] == before[0] == 1.0
    torch.testing.assert_close(after[-1], before[-1] / 4)
    assert ((after[1:-1] < before[1:-1]) & (after[1:-1] > before[1:-1] / 4)).all()


def test_nothing_changes_unless_asked() -> None:
    assert stretch(SHAPE, MANIFEST, 1.0, None) == (SHAPE, MANIFEST)
    shape, manifest = stretch(SHAPE, MANIFEST, 1.0, 100)
    assert (shape, manifest.max_model_len) == (SHAPE, 100)


def test_a_length_beyond_the_weights_names_the_factor_that_would_do() -> None:
    with pytest.raises(CheckpointError, match=r"257 is more than the 256 .* rope_scaling_factor 1\.01 would do"):
        stretch(SHAPE, MANIFEST, 1.0, 257)
    with pytest.raises(CheckpointError, match=r"1000 is more than the 512 .* rope_scaling_factor 3\.91 would do"):
        stretch(SHAPE, MANIFEST, 2.0, 1000)
    assert stretch(SHAPE, MANIFEST, 3.91, 1000)[1].max_model_len == 1000
    with pytest.raises(CheckpointError, match="at least 1"):
        stretch(SHAPE, MANIFEST, 0.5, None)


def test_checkpoints_are_loaded_with_it(tmp_path: Path) -> None:
    native = load_checkpoint(build_checkpoint(tmp_path / "native"), rope_scaling_factor=2.0)
    plain = load_checkpoint(tmp_path / "native")
    assert native.manifest.max_model_len == 2 * plain.manifest.max_model_len
    assert native.transformer.rotary.theta > plain.transformer.rotary.theta
    assert not native.transformer.rotary.inverse_frequency.equal(plain.transformer.rotary.inverse_frequency)
    # Dream was trained on 2048 positions, whatever its configuration allows.
    dream = build_dream(tmp_path / "dream", max_position_embeddings=131072)
    assert load_checkpoint(dream).manifest.max_model_len == 2048
    with pytest.raises(CheckpointError, match="more than the 2048 positions"):
        load_checkpoint(dream, max_model_len=4096)
    assert load_checkpoint(dream, max_model_len=4096, rope_scaling_factor=2.0).manifest.max_model_len == 4096
