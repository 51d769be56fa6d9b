"""The stage on whole texts, end to end on a tiny model: what it leaves, how it resumes, and what stops it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.config import RecipeConfig
from cdlm.training.descent.loop import Loop
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.run import run_autoregressive
from cdlm.training.student.texts import run_text_student
from tests.support.recipes import tiny_recipe


def recipe(**texts: Any) -> RecipeConfig:
    values = tiny_recipe().model_dump()
    values["transformer"] = tiny_recipe().transformer
    return RecipeConfig.model_validate({**values, "texts": {**values["autoregressive"], "ratios": (0.3, 0.8), **texts}})


def test_a_run_leaves_a_student_whose_blocks_count_from_position_0_and_resumes(tmp_path: Path) -> None:
    config = recipe()
    run_autoregressive(config, tmp_path)
    run_text_student(config, tmp_path)
    checkpoint = load_checkpoint(tmp_path / "text-student" / "checkpoint")
    manifest = checkpoint.manifest
    assert (manifest.block_length, manifest.block_origin, manifest.prompt_attention) == (8, "absolute", "block_causal")
    assert (manifest.shift, manifest.first_token, manifest.bidirectional) == (True, "masked", False)
    entries = [json.loads(line) for line in (tmp_path / "text-student" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert {"loss", "accuracy", "development_loss", "development_accuracy"} < entries[0].keys()
    begin = load_checkpoint(tmp_path / "autoregressive" / "checkpoint").transformer.state_dict()
    trained = checkpoint.transformer.state_dict()
    assert any(not torch.equal(begin[name], trained[name]) for name in begin)

    whole = load_file(tmp_path / "text-student" / "state.safetensors")
    (tmp_path / "text-student").rename(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        steps, original = iter(range(100)), Loop.step

        def die_in_the_sixth_step(self: Loop[Any]) -> dict[str, float]:
            if next(steps) == 5:
                raise KeyboardInterrupt
            return original(self)

        patch.setattr(Loop, "step", die_in_the_sixth_step)
        with pytest.raises(KeyboardInterrupt):
            run_text_student(config, tmp_path)
    run_text_student(config, tmp_path)
    resumed = load_file(tmp_path / "text-student" / "state.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_missing_stage_or_section_stops_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the configuration has no \\[texts\\]"):
        run_text_student(tiny_recipe(), tmp_path)
    with pytest.raises(TrainingError, match=r"autoregressive.checkpoint is missing: run the autoregressive stage"):
        run_text_student(recipe(), tmp_path)
    for ratios in ((0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="two ascending numbers from 0 to 1"):
            recipe(ratios=ratios)
