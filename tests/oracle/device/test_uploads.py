"""What a step copies: its arrays together, whatever opens or leaves, and nothing that asks the device."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.uploads import Uploads
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import build_checkpoint

# What waits for the device: a value is read, or a size depends on one.
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique", "aten::equal")


class Recorded(TorchDispatchMode):
    """Counts the operators of a step that wait, and the values of the host that torch makes tensors of."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        # ``torch.tensor`` and ``torch.from_numpy``, and an index that is a mask.
        masked = name in ("aten::index", "aten::index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        if name in WAITING or name == "aten::lift_fresh" or masked:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def engine_with_uploads(directory: Path) -> Engine:
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=8))
    engine.runner.uploads = Uploads(torch.device("cpu"))
    return engine


@pytest.mark.parametrize("axis", ["plain", "shifted", "first_token_autoregressive", "absolute"])
def test_uploaded_steps_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=2)
    engine, requests = engine_with_uploads(directory), random_requests(8, seed=2)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_is_one_copy_whatever_opens_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """One more where the first step after a commit is launched ahead, none where a later one is."""
    engine = engine_with_uploads(build_checkpoint(tmp_path, "shifted", seed=2))
    engine.runner.run_ahead = ahead
    uploads = engine.runner.uploads
    assert uploads is not None
    sent: list[int] = []
    send = uploads.send
    monkeypatch.setattr(uploads, "send", lambda: sent.append(uploads._used - uploads._sent) or send())  # type: ignore[func-returns-value]
    placed: list[None] = []
    place = uploads.place
    monkeypatch.setattr(uploads, "place", lambda array: placed.append(None) or place(array))  # type: ignore[func-returns-value]
    queue = [
        GenerateRequest(
            request_id=str(index), prompt_ids=[5, 9, 2 + index], max_tokens=12 + 9 * index, ignore_eos=True,
            params=DecodingParams(confidence_threshold=0.3),
        )
        for index in range(4)
    ]  # fmt: skip
    copies: list[int] = []
    for step in range(60):
        if queue and step % 2 == 0:
            engine.add(queue.pop(0))
        if not engine.busy:
            break
        sent.clear()
        placed.clear()
        with Recorded() as recorded:
            engine.step()
        copies.append(len([size for size in sent if size]))
        # Each array of the host that torch sees is one that was placed.
        assert recorded.waits == {"aten::lift_fresh": len(placed)}, (step, recorded.waits)
    assert not engine.busy
    assert set(copies) <= {0, 1, 2} if ahead else set(copies) == {1}


def test_rows_with_edits_guidance_and_logprobs_add_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a block; where one begins, its edited row counts the tokens of the one before."""
    engine = engine_with_uploads(build_checkpoint(tmp_path, "shifted", seed=2))
    uploads = engine.runner.uploads
    assert uploads is not None
    placed: list[None] = []
    place = uploads.place
    monkeypatch.setattr(uploads, "place", lambda array: placed.append(None) or place(array))  # type: ignore[func-returns-value]
    ways = [
        DecodingParams(confidence_threshold=1.0, frequency_penalty=0.5, min_tokens=9, logit_bias={4: 1.0}),
        DecodingParams(confidence_threshold=1.0, guidance_scale=1.5),
        DecodingParams(confidence_threshold=1.0),
    ]
    for index, params in enumerate(ways):
        engine.add(
            GenerateRequest(
                request_id=str(index), prompt_ids=[5, 9, 2 + index], max_tokens=20, ignore_eos=True,
                params=params, logprobs=2 if index == 2 else None,
            )
        )  # fmt: skip
    steady = 0
    while engine.busy:
        within = all(sequence.block_open for sequence in engine.sequences.values())
        placed.clear()
        with Recorded() as recorded:
            engine.step()
        if within and len(engine.scheduler.running) == len(ways):
            steady += 1
            assert recorded.waits == {"aten::lift_fresh": len(placed)}, recorded.waits
    assert steady > 8


def test_a_step_larger_than_its_buffer_is_copied_in_two(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    engine, requests = engine_with_uploads(directory), random_requests(4, seed=2)
    engine.runner.uploads = Uploads(torch.device("cpu"), capacity=256)
    assert_equal_to_oracle(directory, requests, run(engine, requests))
    assert engine.runner.uploads.capacity > 256
