"""Rows that replace tokens on the engine's other ways: ranks, steps launched ahead, one copy a step, padded steps."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
import torch

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.forwards.layout import StepLayout
from cdlm.model.readback import Readback
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.oracle.device.test_ahead import engine_ahead, steps  # noqa: F401
from tests.oracle.device.test_uploads import Recorded, engine_with_uploads
from tests.oracle.weights.test_graphs import padding_engine, short
from tests.oracle.weights.test_ranks import ranked
from tests.support.engines import assert_equal_to_oracle, run
from tests.support.guides import build_guide, guided_engine, oracle_guide
from tests.support.models.checkpoints import build_checkpoint
from tests.support.replacing import replaced, replacing_requests


def test_two_ranks_equal_oracle(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "absolute", seed=8, vocab_size=65)
    requests = replacing_requests(6, 8)
    with ranked(directory) as engine:
        assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    assert replaced(directory, requests) > 10


@pytest.mark.parametrize("axis", ["plain", "shifted", "absolute"])
def test_steps_launched_ahead_equal_oracle(tmp_path: Path, axis: str, steps: Counter[str]) -> None:  # noqa: F811
    """Beside rows that replace nothing, of which the host knows an upper bound of the masked positions only."""
    directory = build_checkpoint(tmp_path, axis, seed=2)
    ways = DecodingParams(confidence_threshold=0.9), DecodingParams(decoding="entropy_bound", entropy_bound=0.1)
    requests = replacing_requests(8, 2, *ways)
    assert_equal_to_oracle(directory, requests, run(engine_ahead(directory), requests, join_every=2))
    assert steps["ahead"] > 10
    assert replaced(directory, requests) > 10


def test_a_step_is_one_copy_to_the_device_and_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with_uploads(build_checkpoint(tmp_path, "shifted", seed=2))
    uploads = engine.runner.uploads
    assert uploads is not None
    sent: list[int] = []
    placed: list[None] = []
    read: list[None] = []
    send, place, back = uploads.send, uploads.place, Readback.read
    monkeypatch.setattr(uploads, "send", lambda: sent.append(uploads._used - uploads._sent) or send())  # type: ignore[func-returns-value]
    monkeypatch.setattr(uploads, "place", lambda array: placed.append(None) or place(array))  # type: ignore[func-returns-value]
    monkeypatch.setattr(Readback, "read", lambda self: read.append(None) or back(self))  # type: ignore[func-returns-value]
    queue = [
        GenerateRequest(
            request_id=str(index), prompt_ids=[5, 9, 2 + index], max_tokens=12 + 9 * index, ignore_eos=True,
            params=DecodingParams(edit_threshold=(0.1, None)[index % 2], confidence_threshold=0.3),
        )
        for index in range(4)
    ]  # fmt: skip
    count = written_again = 0
    while queue or engine.busy:
        if queue and count % 2 == 0:
            engine.add(queue.pop(0))
        sent.clear()
        placed.clear()
        read.clear()
        with Recorded() as recorded:
            written_again += engine.step().stats.replaced_tokens
        count += 1
        assert (len([size for size in sent if size]), len(read)) == (1, 1)
        assert recorded.waits == {"aten::lift_fresh": len(placed)}, recorded.waits
    assert written_again > 5


@pytest.mark.whole
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")
def test_padded_steps_of_graphs_equal_oracle(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=2, num_layers=1, block_length=4)
    forwards: list[StepLayout] = []
    engine = padding_engine(directory, forwards)
    engine.runner.run_ahead = True
    requests = short(replacing_requests(3, 2), 5, 5)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    assert len(forwards) > 5
    assert replaced(directory, requests) > 1


def test_rows_beside_ones_that_a_guide_model_leads_equal_oracle(tmp_path: Path) -> None:
    model = build_checkpoint(tmp_path / "model", "absolute", seed=4)
    guide = build_guide(tmp_path / "guide")
    requests = replacing_requests(8, 4, DecodingParams(confidence_threshold=0.5), DecodingParams(decoding="factor"))
    requests = [
        msgspec.structs.replace(request, params=DecodingParams()) if index % 4 == 3 else request
        for index, request in enumerate(requests)
    ]
    answers = run(guided_engine(model, guide, max_num_seqs=6), requests, join_every=2)
    assert_equal_to_oracle(model, requests, answers, oracle_guide(guide))
    assert replaced(model, [request for request in requests if request.params.replaces]) > 5


def test_a_default_gives_way_to_a_guide_model(tmp_path: Path) -> None:
    """A checkpoint's edit threshold has no effect on requests whose tokens the guide decides."""
    model = build_checkpoint(tmp_path / "model", "absolute", seed=4, edit_threshold=0.05)
    guide = build_guide(tmp_path / "guide")
    request = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=30, ignore_eos=True, step_map=True)
    answers = run(guided_engine(model, guide), [request])
    assert_equal_to_oracle(model, [request], answers, oracle_guide(guide))
    alone = run(Engine(EngineOptions(model=str(model), page_size=4)), [request])
    named = msgspec.structs.replace(request, params=DecodingParams(edit_threshold=0.05))
    assert_equal_to_oracle(model, [named], alone)
    assert replaced(model, [named]) > 2
