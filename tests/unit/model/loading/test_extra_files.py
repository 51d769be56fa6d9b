"""What lies beside the weights of a Hugging Face checkpoint, or among them, and is neither weight nor shape."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.hf_checkpoints import build_dream


def test_stored_rotary_frequencies_are_passed_over(tmp_path: Path) -> None:
    directory = build_dream(tmp_path)
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, directory / "model.safetensors")
    load_checkpoint(directory)
    weights["model.layers.0.self_attn.rotary_emb.other"] = torch.ones(4)
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"rotary_emb\.other' is not part of this architecture"):
        load_checkpoint(directory)


@pytest.mark.parametrize(("stated", "added"), [([3, 5], (3, 5)), (4, (4,)), ([], ())])
def test_end_tokens_of_the_generation_config_are_added(
    tmp_path: Path, stated: list[int] | int, added: tuple[int, ...]
) -> None:
    directory = build_dream(tmp_path)
    before = load_checkpoint(directory).manifest.stop_token_ids
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stated, "temperature": 0.2}))
    assert load_checkpoint(directory).manifest.stop_token_ids == before + added
    (directory / "generation_config.json").write_text('{"eos_token_id": null}')
    assert load_checkpoint(directory).manifest.stop_token_ids == before


@pytest.mark.parametrize("stated", ["end", [3, None], True])
def test_an_end_token_that_is_none_is_refused(tmp_path: Path, stated: object) -> None:
    directory = build_dream(tmp_path)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id is"):
        load_checkpoint(directory)


@pytest.mark.parametrize("stated", [-1, [10**9, 3]])
def test_an_end_token_that_cannot_be_generated_is_left_out(
    tmp_path: Path, stated: object, caplog: pytest.LogCaptureFixture
) -> None:
    directory = build_dream(tmp_path)
    before = load_checkpoint(directory).manifest.stop_token_ids
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    assert load_checkpoint(directory).manifest.stop_token_ids == before + ((3,) if isinstance(stated, list) else ())
    assert "are not in the vocabulary of 264" in caplog.text
