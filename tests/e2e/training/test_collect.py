"""Collecting trajectories: what is recorded, resuming, and the whole stage."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.model.config import Manifest, TransformerConfig
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.training.config import CollectionSection, RecipeConfig, read_config
from cdlm.training.data.mixture import training_stream
from cdlm.training.decoding.full import decode_full
from cdlm.training.decoding.rules import EngineRule
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.tokenizer import EOS as EOS_TOKEN
from cdlm.training.pretraining.tokenizer import train_tokenizer
from cdlm.training.trajectories.collect import collect
from cdlm.training.trajectories.run import run_trajectories
from cdlm.training.trajectories.store import TrajectoryStore, tokenizer_fingerprint
from tests.support.models.checkpoints import EOS, build_checkpoint
from tests.support.places import ROOT

CONFIG = ROOT / "training/configs/nano.toml"
EXAMPLES = [([5, 1, 2][: 1 + n % 3], [n + 1, n + 2, EOS]) for n in range(5)]


def run_collect(checkpoint: Path, directory: Path, **changes: Any) -> None:
    loaded = load_checkpoint(checkpoint)
    asked = {name: changes.pop(name, default) for name, default in {"tokenizer": "words", "seed": 11}.items()}
    examples = changes.pop("examples", EXAMPLES)
    values: dict[str, Any] = {"temperatures": (0.0, 0.7), "generation_length": 8, "shard_size": 3, "batch_size": 2}
    section = CollectionSection(**{**values, **changes})
    collect(loaded.transformer, loaded.manifest, examples, directory, section, **asked)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_collected_trajectories_are_the_teachers_decodings(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path / "teacher", "shifted", block_length=4)
    run_collect(checkpoint, tmp_path / "store")
    store, loaded = (
        TrajectoryStore.open(tmp_path / "store", tokenizer_fingerprint="words", block_length=4, hidden_size=32),
        load_checkpoint(checkpoint),
    )
    expected = [(*example, temperature) for example in EXAMPLES for temperature in (0.0, 0.7)]
    assert [(item.prompt, item.truth, item.temperature) for item in store] == expected
    for index, found in enumerate(store):
        [wanted] = decode_full(
            loaded.transformer,
            loaded.manifest,
            [found.prompt],
            generation_length=8,
            rule=EngineRule("fixed_steps"),
            temperature=found.temperature,
            seeds=[(11 << 32) + index],
            early_stop=True,
            keep_hidden=True,
        )
        assert wanted.hidden is not None
        assert torch.equal(found.tokens, wanted.tokens)
        assert torch.equal(found.order, wanted.order)
        torch.testing.assert_close(found.hidden, wanted.hidden.bfloat16(), rtol=0.02, atol=0.02)


def test_quality_is_the_share_of_stopped_and_of_true_answers(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path / "teacher", block_length=4)
    loaded = load_checkpoint(checkpoint)
    rule = EngineRule("fixed_steps")
    [first, second] = decode_full(
        loaded.transformer, loaded.manifest, [[3], [4, 5]], generation_length=4, rule=rule, early_stop=False
    )
    assert EOS not in first.tokens.tolist() + second.tokens.tolist()
    common = set(first.tokens.tolist())
    stop = int(second.tokens[2])
    assert stop not in common
    changed = build_checkpoint(tmp_path / "stopping", block_length=4, stop_token_ids=(stop,))
    ids = second.tokens.tolist()
    truth = ids[: ids.index(stop) + 1]
    examples = [([3], [1, stop]), ([4, 5], truth), ([4, 5], truth[:-1] + [0, stop])]
    run_collect(changed, tmp_path / "store", examples=examples, temperatures=(0.0,), generation_length=4)
    quality = json.loads((tmp_path / "store/manifest.json").read_text())["quality"]
    assert quality == {"0.0": {"count": 3, "stopped": 0.6667, "exact": 0.3333}}


def test_a_killed_run_resumes_to_identical_files(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path / "teacher", "shifted", block_length=4)
    store = tmp_path / "store"
    run_collect(checkpoint, store)
    whole = files(store)
    assert len(whole) == 5  # Ten trajectories in four shards, and the manifest.
    (store / "manifest.json").unlink()
    (store / "shard-00002.safetensors").unlink()
    kept = (store / "shard-00001.safetensors").stat().st_mtime_ns
    run_collect(checkpoint, store)
    assert files(store) == whole
    assert (store / "shard-00001.safetensors").stat().st_mtime_ns == kept


def test_shards_of_other_runs_are_not_mixed_in(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path / "teacher", block_length=4)
    store = tmp_path / "store"
    run_collect(checkpoint, store)
    other = build_checkpoint(tmp_path / "other", block_length=4, seed=1)
    with pytest.raises(TrainingError, match=r"shard-00000\.safetensors was made by another teacher"):
        run_collect(other, store)
    with pytest.raises(TrainingError, match="or with other settings"):
        run_collect(checkpoint, store, seed=12)
    with pytest.raises(TrainingError, match=r"shard-00000\.safetensors holds trajectories of other problems"):
        run_collect(checkpoint, store, examples=EXAMPLES[::-1])
    with pytest.raises(TrainingError, match="no examples"):
        run_collect(checkpoint, store, examples=[])


def test_the_stage_collects_from_the_recipes_teacher(tmp_path: Path) -> None:
    values = read_config(CONFIG, RecipeConfig).model_dump()
    values["trajectories"].update(examples=4, generation_length=96, shard_size=8, batch_size=4)
    values["trajectories"]["temperatures"] = [0.0, 0.5]
    config = RecipeConfig.model_validate(values)
    with pytest.raises(TrainingError, match="run the teacher stage first"):
        run_trajectories(config, tmp_path)
    tokenizer = train_tokenizer(
        tmp_path / "teacher/checkpoint", vocab_size=500, samples=200, seed=0, weights={"words": 1.0}, max_length=64
    )
    shape = TransformerConfig(
        vocab_size=500, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4
    )
    manifest = Manifest(
        block_length=32,
        confidence_threshold=0.9,
        mask_token_id=int(tokenizer.mask_token_id),
        stop_token_ids=(int(tokenizer.eos_token_id),),
        max_model_len=1024,
        shift=True,
    )
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "teacher/checkpoint", Transformer(shape), manifest)
    run_trajectories(config, tmp_path)
    fingerprint = tokenizer_fingerprint(tokenizer)
    store = TrajectoryStore.open(
        tmp_path / "trajectories", tokenizer_fingerprint=fingerprint, block_length=32, hidden_size=8
    )
    drawn = [
        problem.completion
        for problem in islice(training_stream(f"{config.seed}/trajectories", dict(config.mixture)), 4)
    ]
    lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in drawn]
    fitting = [text + EOS_TOKEN for text, length in zip(drawn, lengths, strict=True) if length <= 96]
    assert 0 < len(fitting) < 4  # The teacher could not have finished the others.
    assert [tokenizer.decode(item.truth) for item in store] == [text for text in fitting for _ in range(2)]
    assert [item.temperature for item in store] == [0.0, 0.5] * len(fitting)
