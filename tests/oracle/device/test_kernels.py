"""The engine with Triton kernels, interpreted, equals the slow decoder token for token."""

from pathlib import Path

import msgspec
import pytest
import torch

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import AXES, axes, build_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")


def short_requests(count: int) -> list[GenerateRequest]:
    """Interpreted kernels take milliseconds per token and layer: prompts and answers of little more than a block."""
    return [
        msgspec.structs.replace(each, prompt_ids=each.prompt_ids[: 6 + index], max_tokens=5 + index)
        for index, each in enumerate(random_requests(count, seed=5))
    ]


# With biases, stretched positions and causal prompts, experts, no mask: whatever takes another way through a kernel.
# The next test has norms.
DIFFERENT = ("shifted", "causal_commit", "experts", "autoregressive_without_mask")


@axes(sample=DIFFERENT)
def test_every_axis_equals_oracle(tmp_path: Path, axis: str) -> None:
    """In one layer and blocks of four tokens, in two where the first has no experts; the next test has two layers."""
    block_length = AXES[axis][1].get("block_length", 4)
    directory = build_checkpoint(tmp_path, axis, seed=5, num_layers=1 + (axis == "experts"), block_length=block_length)
    requests = short_requests(3)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=3, page_size=4, attention_backend="triton"))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@axes("plain", "qk_norm_tied", sample=("qk_norm_tied",))
def test_prompts_in_pieces_equal_oracle(tmp_path: Path, axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys and values are written for themselves."""
    monkeypatch.setattr("cdlm.model.attention.triton.PART", 16)
    directory = build_checkpoint(tmp_path, axis, seed=5, block_length=4)
    # Of more positions than one part has.
    requests = [
        msgspec.structs.replace(each, prompt_ids=each.prompt_ids[:14], max_tokens=5 + index)
        for index, each in enumerate(random_requests(2, seed=5))
    ]
    assert max(len(each.prompt_ids) for each in requests) == 14
    options = EngineOptions(model=str(directory), page_size=4, attention_backend="triton", max_prefill_tokens=9)
    engine = Engine(options)
    kernels = engine.runner.transformer.kernels
    assert kernels is not None
    written: list[int] = []
    write = kernels.write
    monkeypatch.setattr(kernels, "write", lambda x, *rest: written.append(len(x)) or write(x, *rest))  # type: ignore[func-returns-value]
    assert_equal_to_oracle(directory, requests, run(engine, requests))
    assert written


def test_draws_equal_the_oracle_and_filtered_ones_those_of_sdpa(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=5, num_layers=1, block_length=4)
    ways = [
        DecodingParams(temperature=0.8, seed=3),
        DecodingParams(decoding="entropy_bound", entropy_bound=1.0, temperature=1.3, seed=-4),
        DecodingParams(),
        DecodingParams(temperature=1.1, seed=5, top_k=7, top_p=0.8),
        DecodingParams(temperature=1.1, seed=6, min_p=0.1, presence_penalty=0.5),
    ]
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=[5, 9, 2 + index], max_tokens=6, params=params)
        for index, params in enumerate(ways)
    ]
    answers = []
    for backend in ("sdpa", "triton"):
        options = EngineOptions(model=str(directory), page_size=4, attention_backend=backend)  # type: ignore[arg-type]
        answers.append(run(Engine(options), requests))
    assert_equal_to_oracle(directory, requests[:3], answers[1])
    assert {name: answer.token_ids for name, answer in answers[1].items()} == {
        name: answer.token_ids for name, answer in answers[0].items()
    }
