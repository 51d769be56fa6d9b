"""The draft adapter's training on a tiny next-token model: what it learns and writes, and how it resumes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.backbones import BACKBONES
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts, read_decoding
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.config import LoraSection
from cdlm.training.backbone.lora import adapter_weights, add_adapter, trainable
from cdlm.training.config import read_config
from cdlm.training.drafts.config import DraftAdapterConfig
from cdlm.training.drafts.objective import DraftObjective
from cdlm.training.drafts.stream import DraftStream
from cdlm.training.drafts.train import train_draft_adapter
from cdlm.training.errors import TrainingError
from cdlm.training.natural.config import TaskAdapterConfig
from tests.support.models.next_token import write_answers, write_base

TASKS = """
seed = 1
model = "nowhere"
chat_tokens = 64
divergence = 1.0
[answers]
chat = 30
[mixture]
words = 0.5
sums = 0.5
[lora]
r = 4
alpha = 8
[optimization]
steps = 1
warmup_steps = 1
decay_fraction = 0.5
tokens_per_batch = 640
learning_rate = 1e-3
"""


OPTIMIZATION = {
    "steps": 8,
    "warmup_steps": 1,
    "decay_fraction": 0.5,
    "tokens_per_batch": 512,
    "learning_rate": 1e-2,
    "log_every": 1,
    "checkpoint_every": 4,
}


def config(place: Path, **changes: Any) -> DraftAdapterConfig:
    return DraftAdapterConfig.model_validate(
        {
            "seed": 1,
            "model": place / "base",
            "mask_token": "<|mask|>",
            "window": 4,
            "groups": 6,
            "tasks": place / "tasks.toml",
            "answers": place / "answers",
            "task_share": 0.5,
            "longest": 160,
            "losses": {"distillation": 1.0, "consistency": 0.3, "dlm": 0.1},
            "lora": {"r": 4, "alpha": 8},
            "optimization": OPTIMIZATION,
            **changes,
        }
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base, answers of it, and a configuration of a task adapter."""
    write_base(tmp_path / "base", std=0.3)
    write_answers(tmp_path / "answers")
    (tmp_path / "tasks.toml").write_text(TASKS)
    return tmp_path


def test_training_writes_a_gated_adapter_and_resumes_where_it_was_killed(place: Path) -> None:
    settings, run = config(place), place / "run"
    train_draft_adapter(settings, run)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert sum(line["distillation"] for line in lines[-3:]) < sum(line["distillation"] for line in lines[:3]) - 0.1
    names = {f"{kept}agreement_{offset}" for kept in ("", "kept_") for offset in range(1, 5)}
    for line in lines:
        assert line.keys() == {"step", "seconds", "loss", "distillation", "consistency", "dlm", "kept_tokens", *names}
        assert all(0 <= line[name] <= 1 for name in names)
        assert 1 <= line["kept_tokens"] <= 5

    _train_until(settings, place / "killed", 4)
    train_draft_adapter(settings, place / "killed")
    whole, resumed = (load_file(place / name / "adapter" / "adapter_model.safetensors") for name in ("run", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}
    assert any(bool(tensor.any()) for name, tensor in whole.items() if "lora_B" in name)

    mask_id = load_tokenizer(settings.model).get_vocab()["<|mask|>"]
    cdlm = json.loads((run / "adapter" / "cdlm.json").read_text())
    assert cdlm == {"gated": True, "mask_token_id": mask_id, "window": 4}
    assert read_decoding(run / "adapter") == AdapterDecoding(drafts=GatedDrafts(mask_token_id=mask_id, window=4))


def test_a_chain_is_trained_with_the_adapter_and_started_from(place: Path) -> None:
    settings = config(place, chain=16)
    train_draft_adapter(settings, place / "run")
    adapter = place / "run" / "adapter"
    assert json.loads((adapter / "cdlm.json").read_text())["chained"] is True
    first = load_file(adapter / "chain.safetensors")
    assert first["up.weight"].dtype == torch.bfloat16
    assert first["up.weight"].any()
    _train_until(settings, place / "killed", 4)
    train_draft_adapter(settings, place / "killed")
    resumed = load_file(place / "killed" / "adapter" / "chain.safetensors")
    assert all(torch.equal(first[name], resumed[name]) for name in first)

    begun = config(place, chain=16, start=adapter, optimization={**OPTIMIZATION, "learning_rate": 1e-9})
    train_draft_adapter(begun, place / "begun")
    kept = load_file(place / "begun" / "adapter" / "chain.safetensors")
    assert all(torch.allclose(first[name].float(), kept[name].float(), atol=1e-4) for name in first)
    with pytest.raises(TrainingError, match="start: its chain has a width of 16, not 8"):
        train_draft_adapter(config(place, chain=8, start=adapter), place / "other")


def _train_until(settings: DraftAdapterConfig, directory: Path, step: int) -> None:
    """Trains and is killed behind the checkpoint of ``step``."""
    original, calls = DraftObjective.__call__, 0

    def killed(self: DraftObjective, rows: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KeyboardInterrupt
        return original(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DraftObjective, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train_draft_adapter(settings, directory)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_the_precision_is_that_of_the_model_and_its_products(place: Path, precision: str, dtype: torch.dtype) -> None:
    original, seen = DraftObjective.draft, set()

    def draft(self: DraftObjective, rows: Any) -> Any:
        found = original(self, rows)
        seen.update({found.logits.dtype, found.verified.dtype, self.transformer.embed_tokens.weight.dtype})
        return found

    settings = config(place, chain=8, optimization={**OPTIMIZATION, "steps": 2, "mixed_precision": precision})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DraftObjective, "draft", draft)
        train_draft_adapter(settings, place / "run")
    assert seen == {dtype}


def test_an_adapter_is_merged_before(place: Path) -> None:
    """The drafts learn the adapted model: its distribution is another one, and so is the loss of the first step."""
    base = load_checkpoint(place / "base", device=torch.device("cpu"), dtype=torch.float32).transformer
    add_adapter(base, LoraSection(r=4, alpha=8))
    torch.manual_seed(0)
    for parameter in trainable(base).values():
        torch.nn.init.normal_(parameter, std=1.0)
    write_adapter(
        place / "tasks", adapter_weights(base), backbone=BACKBONES["llama"], r=4, alpha=8, base="",
        decoding=AdapterDecoding(),
    )  # fmt: skip
    for name, adapter in (("without", None), ("with", place / "tasks")):
        settings = config(place, adapter=adapter)
        steps = settings.optimization.model_copy(update={"steps": 1})
        train_draft_adapter(settings.model_copy(update={"optimization": steps}), place / name)
    first, second = (json.loads((place / name / "log.jsonl").read_text()) for name in ("without", "with"))
    assert abs(first["distillation"] - second["distillation"]) > 0.05


def test_the_stream_repeats_itself_skips_and_keeps_texts_back(place: Path) -> None:
    settings = config(place)
    stream = DraftStream(settings, load_tokenizer(settings.model))
    first = [batch for _, batch in zip(range(6), stream.batches(0, 0), strict=False)]
    pool, index, again = next(stream.batches(0, 5))
    assert (pool, index) == first[5][:2]
    assert torch.equal(again.token_ids, first[5][2].token_ids)
    assert torch.equal(again.known, first[5][2].known)
    assert next(stream.batches(1, 0))[0] == 1
    for _, _, rows in first:
        assert rows.token_ids.numel() + rows.asked.numel() <= 512
    kept = stream.kept()
    assert torch.equal(kept.token_ids, stream.kept().token_ids)
    texts = {tuple(row.tolist()) for _, _, rows in first for row in rows.token_ids}
    assert not texts & {tuple(row.tolist()) for row in kept.token_ids}
    tasks = DraftStream(config(place, task_share=1.0), load_tokenizer(settings.model))
    answers = DraftStream(config(place, task_share=0.0), load_tokenizer(settings.model))
    mean = [
        sum(len(row) for _, (_, _, rows) in zip(range(6), each.batches(0, 0), strict=False) for row in rows.token_ids)
        / sum(len(rows.token_ids) for _, (_, _, rows) in zip(range(6), each.batches(0, 0), strict=False))
        for each in (tasks, answers)
    ]
    assert mean[0] > mean[1] + 10  # Word problems are longer than the 30 answers.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_token": "<mask>"}, r"mask_token '<mask>' is not in the vocabulary of .*base"),
        ({"groups": 126}, "tokens_per_batch has no room for a text of 16 tokens and its groups"),
        ({"longest": 16}, "no answer in .*answers is of 2 to 16 tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused(place: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_draft_adapter(config(place, **changes), place / "run")


def test_a_block_causal_base_is_refused(place: Path) -> None:
    from tests.support.models.hf_block_checkpoints import build

    shutil.rmtree(place / "base")
    build(place / "base", "sdar")
    with pytest.raises(TrainingError, match="base is not a next-token model"):
        train_draft_adapter(config(place), place / "run")


def test_the_configuration_that_ships_is_valid() -> None:
    settings = read_config(Path("training/configs/smol-drafts.toml"), DraftAdapterConfig)
    tasks = read_config(settings.tasks, TaskAdapterConfig)
    assert settings.model == tasks.model
    assert settings.adapter is not None
    assert read_decoding(settings.adapter).drafts is None  # It is there, and can be merged.
    assert (settings.adapter / "adapter_model.safetensors").exists()
    assert settings.answers == Path("runs/smol")
    with pytest.raises(ValueError, match="multiple of 2"):
        DraftAdapterConfig.model_validate({**settings.model_dump(), "groups": 3})
