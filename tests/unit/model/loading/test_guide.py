"""A guide model that cannot guide is refused at start, by name and with the reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.model.attention.backends import resolve_graphs
from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import describe_checkpoint, load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from tests.support.drafts import build_draft_adapter
from tests.support.guides import build_guide
from tests.support.models.checkpoints import MASK, VOCAB, build_checkpoint

WORDS = {f"w{ident}": ident for ident in range(MASK)}


def write_tokens(directory: Path, vocabulary: dict[str, int], **added: int) -> Path:
    """A tokenizer's files, as far as a start compares them."""
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "added_tokens.json").write_text(json.dumps(added))
    return directory


@pytest.mark.parametrize(
    ("vocabulary", "added", "message"),
    [
        (WORDS | {"w7": 8, "w8": 7}, {}, "token 7 is 'w7', and id 8 in the guide"),
        (WORDS | {"w5": 62, "w62": 5}, {}, "token 5 is 'w5', and id 62 in the guide"),
        ({text: ident for text, ident in WORDS.items() if ident != 40}, {}, "it lacks token 40, 'w40'"),
        (
            {text: ident for text, ident in WORDS.items() if ident != 40} | {"v": 40},
            {},
            "token 40 is 'w40', and 'v' in",
        ),
        (WORDS, {"end": 61}, "token 61 is 'w61', and 'end' in the guide"),
    ],
)
def test_another_tokenizer_is_refused(
    tmp_path: Path, vocabulary: dict[str, int], added: dict[str, int], message: str
) -> None:
    model = write_tokens(build_checkpoint(tmp_path / "model"), WORDS, mask=MASK)
    guide = write_tokens(build_guide(tmp_path / "guide"), vocabulary, **added)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        describe_checkpoint(model, guide_model=guide)
    assert f"guide_model {guide}: has another tokenizer" in str(caught.value)


@pytest.mark.parametrize("vocab_size", [MASK, VOCAB, VOCAB + 16])
def test_the_mask_padding_and_added_tokens_may_differ(tmp_path: Path, vocab_size: int) -> None:
    model = write_tokens(build_checkpoint(tmp_path / "model"), WORDS, mask=MASK)
    extra = {"other": vocab_size - 1} if vocab_size > MASK else {}
    guide = write_tokens(build_guide(tmp_path / "guide", vocab_size=vocab_size), WORDS, **extra)
    found = load_checkpoint(model, guide_model=guide).guide
    assert found is not None
    whole = load_checkpoint(guide).transformer
    rows = min(VOCAB, vocab_size)
    assert found.config.vocab_size == found.lm_head.out_features == rows
    assert torch.equal(found.embed_tokens.weight, whole.embed_tokens.weight[:rows])
    assert torch.equal(found.logits(torch.ones(2, 32)), whole.logits(torch.ones(2, 32))[:, :rows])


@pytest.mark.parametrize("known", ["model", "guide"])
def test_tokens_that_cannot_be_compared_are_refused(tmp_path: Path, known: str) -> None:
    model, guide = build_checkpoint(tmp_path / "model"), build_guide(tmp_path / "guide")
    write_tokens(tmp_path / known, WORDS)
    with pytest.raises(CheckpointError, match="the tokens cannot be compared"):
        describe_checkpoint(model, guide_model=guide)


@pytest.mark.parametrize("axis", ["plain", "shifted", "absolute_shifted", "causal_prompt"])
def test_a_guide_that_is_no_next_token_model_is_refused(tmp_path: Path, axis: str) -> None:
    model, guide = build_checkpoint(tmp_path / "model"), build_checkpoint(tmp_path / "guide", axis)
    with pytest.raises(CheckpointError, match=re.escape(f"guide_model {guide}: is not a next-token model")):
        describe_checkpoint(model, guide_model=guide)


def test_an_autoregressive_model_has_nothing_to_guide(tmp_path: Path) -> None:
    model = build_checkpoint(tmp_path / "model", "autoregressive_without_mask")
    guide = build_guide(tmp_path / "guide")
    with pytest.raises(CheckpointError, match="decides one token per step, there is nothing to guide"):
        describe_checkpoint(model, guide_model=guide)


def test_a_guide_has_to_know_all_positions(tmp_path: Path) -> None:
    model = build_checkpoint(tmp_path / "model", max_model_len=256)
    guide = build_guide(tmp_path / "guide", max_model_len=128)
    message = f"guide_model {guide}: was trained for 128 positions, fewer than the max_model_len 256"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        describe_checkpoint(model, guide_model=guide)
    assert describe_checkpoint(model, guide_model=guide, max_model_len=128).guide is not None


def test_damaged_weights_of_a_guide_are_found_before_any_are_loaded(tmp_path: Path) -> None:
    model, guide = build_checkpoint(tmp_path / "model"), build_guide(tmp_path / "guide")
    config = json.loads((guide / "config.json").read_text())
    config["transformer"]["intermediate_size"] += 2
    (guide / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=re.escape(str(guide))):
        describe_checkpoint(model, guide_model=guide).check_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_adapter": True}, "guide_model .* and draft_adapter .* exclude each other"),
        ({"guide_model": None, "decoding": "guide"}, "decoding guide needs guide_model"),
        ({"guide_model": "nowhere"}, "nowhere"),
    ],
    ids=["drafts", "none", "missing"],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    model, guide = build_checkpoint(tmp_path / "model"), build_guide(tmp_path / "guide")
    if "draft_adapter" in options:
        options = {"draft_adapter": str(build_draft_adapter(tmp_path / "drafts", guide))}
    given = {"model": str(model), "guide_model": str(guide), **options}
    with pytest.raises(EngineStartError, match=message):
        Engine(EngineOptions.model_validate(given))


def test_cuda_graphs_that_are_asked_for_are_refused() -> None:
    cuda = torch.device("cuda")
    assert not resolve_graphs(None, "triton", cuda, shared=False, guided=True)
    with pytest.raises(CheckpointError, match="cuda_graphs cannot record a step in which guide_model"):
        resolve_graphs(True, "triton", cuda, shared=False, guided=True)
