"""The engine with Triton kernels, interpreted, equals the slow decoder token for token."""

from pathlib import Path

import msgspec
import pytest
import torch

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import AXES, build_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")


def short_requests() -> list[GenerateRequest]:
    """Interpreted kernels are slow: answers of one block and a part of the next."""
    requests = random_requests(3, seed=5)
    return [msgspec.structs.replace(each, max_tokens=9 + index) for index, each in enumerate(requests)]


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_equals_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5)
    requests = short_requests()
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=3, page_size=4, attention_backend="triton"))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.parametrize("axis", ["plain", "qk_norm_tied"])
def test_prompts_in_pieces_equal_oracle(tmp_path: Path, axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys and values are written for themselves."""
    monkeypatch.setattr("cdlm.model.attention.triton.PART", 16)
    directory = build_checkpoint(tmp_path, axis, seed=5)
    requests = short_requests()
    options = EngineOptions(model=str(directory), page_size=4, attention_backend="triton", max_prefill_tokens=9)
    engine = Engine(options)
    kernels = engine.runner.transformer.kernels
    assert kernels is not None
    written: list[int] = []
    write = kernels.write
    monkeypatch.setattr(kernels, "write", lambda x, *rest: written.append(len(x)) or write(x, *rest))  # type: ignore[func-returns-value]
    assert_equal_to_oracle(directory, requests, run(engine, requests))
    assert written
