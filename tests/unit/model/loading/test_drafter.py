"""A draft adapter that cannot draft for its base is refused at start, with the reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cdlm.model.backbones import BACKBONES
from cdlm.model.config import CheckpointError
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding, GatedDrafts
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from tests.support.drafts import DRAFT_MASK, WINDOW, build_draft_adapter, random_chain
from tests.support.models.checkpoints import VOCAB, build_checkpoint

AXIS = "autoregressive_without_mask"


def _decoding(**keys: object) -> Callable[[Path], object]:
    return lambda directory: (directory / "cdlm.json").write_text(json.dumps(keys))


def _chain(**shapes: tuple[int, int]) -> Callable[[Path], object]:
    tensors = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    return lambda directory: save_file(tensors, directory / "chain.safetensors")


SPOILT = {
    "not gated": (_decoding(block_length=1), "does not say that it is gated"),
    "no decoding": (lambda directory: (directory / "cdlm.json").unlink(), "does not say that it is gated"),
    "unknown mask": (_decoding(gated=True, mask_token_id=VOCAB, window=2), f"mask_token_id {VOCAB} is not below"),
    "no chain": (lambda directory: (directory / "chain.safetensors").unlink(), "chain.safetensors: missing"),
    "half a chain": (_chain(down=(4, 128)), "holds down.weight, not down.weight and up.weight"),
    "chain that does not fit itself": (_chain(down=(4, 128), up=(64, 5)), "(4, 128) and up.weight (64, 5) do not fit"),
    "chain of another base": (_chain(down=(4, 6), up=(3, 4)), "its chain is for a hidden_size of 3"),
    "chained in words": (
        _decoding(gated=True, mask_token_id=1, window=2, chained="yes"),
        "chained is 'yes', neither true nor false",
    ),
    "no adapter": (lambda directory: (directory / "adapter_config.json").unlink(), "adapter_config.json: missing"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_draft_adapter_is_refused(tmp_path: Path, case: str) -> None:
    base = build_checkpoint(tmp_path / "base", AXIS)
    adapter = build_draft_adapter(tmp_path / "drafts", base, chained=True)
    found = load_checkpoint(base, draft_adapter=adapter).drafter
    assert found is not None
    assert found.chain is not None
    assert (found.drafts.mask_token_id, found.drafts.window) == (DRAFT_MASK, WINDOW)
    spoil, message = SPOILT[case]
    spoil(adapter)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_checkpoint(base, draft_adapter=adapter)
    assert str(adapter) in str(caught.value)


@pytest.mark.parametrize("chained", [False, True])
def test_a_chain_is_written_exactly_if_drafts_are_chained(tmp_path: Path, chained: bool) -> None:
    lora = {"layers.0.self_attn.o_proj": (torch.ones(2, 8), torch.ones(8, 2))}
    decoding = AdapterDecoding(drafts=GatedDrafts(DRAFT_MASK, WINDOW, chained=chained))
    with pytest.raises(ValueError, match="a chain belongs to drafts that are chained"):
        write_adapter(
            tmp_path / "drafts", lora, backbone=BACKBONES["cdlm"], r=2, alpha=2, base="b", decoding=decoding,
            chain=None if chained else random_chain(8),
        )  # fmt: skip
    assert not (tmp_path / "drafts").exists()


def test_only_autoregressive_checkpoints_verify_drafts(tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base", "absolute_shifted")
    adapter = build_draft_adapter(tmp_path / "drafts", base)
    with pytest.raises(CheckpointError, match="the base is not autoregressive"):
        load_checkpoint(base, draft_adapter=adapter)


def test_a_gated_adapter_is_not_merged(tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base", AXIS)
    adapter = build_draft_adapter(tmp_path / "drafts", base)
    with pytest.raises(CheckpointError, match="load it as the draft adapter"):
        load_checkpoint(base, adapter=adapter)


def test_a_backend_that_cannot_draft_is_refused(tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base", AXIS)
    adapter = build_draft_adapter(tmp_path / "drafts", base)
    with pytest.raises(EngineStartError, match="attention_backend flex cannot draft"):
        Engine(EngineOptions(model=str(base), draft_adapter=str(adapter), attention_backend="flex"))
