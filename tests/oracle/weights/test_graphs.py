"""Steps for graphs: padded and copied into place they give what the forward itself gives. Only CUDA records them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from cdlm.model.forwards.graphs import ForwardGraphs
from cdlm.model.forwards.layout import StepLayout
from cdlm.model.uploads import Uploads
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.matrix import some
from tests.support.models.checkpoints import build_checkpoint


def padding_engine(directory: Path, forwards: list[StepLayout]) -> Engine:
    """An engine on the CPU that pads its steps as if they were recorded; ``forwards`` gets the layout of each."""
    options = EngineOptions(model=str(directory), page_size=4, max_num_seqs=8, attention_backend="triton")
    engine = Engine(options)
    runner = engine.runner
    runner.cache.keys, runner.cache.values = (
        torch.cat((stored, torch.zeros_like(stored[:, : runner.cache.page_size])), dim=1)
        for stored in (runner.cache.keys, runner.cache.values)
    )
    runner.uploads = Uploads(torch.device("cpu"))
    runner.graphs = runner._make_graphs(record=False)
    forward = runner.graphs._forward
    runner.graphs._forward = lambda layout: forwards.append(layout) or forward(layout)  # type: ignore[func-returns-value]
    return engine


def short(requests: list[Any], prompt: int, answer: int) -> list[Any]:
    """Interpreted kernels take milliseconds per token and layer; prompts may be of more than one part."""
    return [
        msgspec.structs.replace(each, prompt_ids=each.prompt_ids[:prompt], max_tokens=min(each.max_tokens, answer))
        for each in requests
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")
@pytest.mark.parametrize(("axis", "ahead"), some([("plain", True), ("shifted", False)], every=2))
def test_padded_steps_equal_oracle(tmp_path: Path, axis: str, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys that are shared among programs, and those that are not, in one shape; launched ahead or not."""
    monkeypatch.setattr("cdlm.model.attention.triton.PART", 16)
    monkeypatch.setattr("cdlm.model.forwards.graphs.PART", 16)
    directory = build_checkpoint(tmp_path, axis, seed=2, num_layers=1, block_length=4 if ahead else 8)
    forwards: list[StepLayout] = []
    engine = padding_engine(directory, forwards)
    engine.runner.run_ahead = ahead
    scratch = engine.runner.cache.keys.shape[1] - engine.runner.cache.page_size
    requests = short(random_requests(5, seed=2), *((18, 9) if ahead else (37, 18)))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=1 if ahead else 2))
    shapes = {(len(layout.rows), layout.clean_count) for layout in forwards}
    assert len({rows for rows, _ in shapes}) >= 3
    assert {clean > 0 for _, clean in shapes} == {False, True}
    # Rows that belong to nobody were there, and wrote where they should.
    assert engine.runner.cache.keys[:, scratch:].abs().sum() > 0
    assert isinstance(engine.runner.graphs, ForwardGraphs)
    assert len(engine.runner.graphs._graphs) == len({id(layout) for layout in forwards})


@pytest.mark.whole
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")
def test_padded_steps_of_blocks_that_are_committed_by_themselves(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "causal_commit", seed=2, num_layers=1, block_length=4)
    forwards: list[StepLayout] = []
    engine = padding_engine(directory, forwards)
    requests = short(random_requests(5, seed=2), 9, 9)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    assert {layout.clean_count for layout in forwards} == {0}
    assert len({len(layout.rows) for layout in forwards}) > 1


def test_every_shape_is_recorded_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    engine = padding_engine(directory, [])
    graphs = engine.runner.graphs
    assert graphs is not None
    listed = graphs.shapes()
    assert len(listed) == len(set(listed))
    assert listed[0].rows == max(shape.rows for shape in listed)
    assert {shape.parts for shape in listed} == {1}  # Of 256 positions.
    forwards: list[StepLayout] = []
    monkeypatch.setattr(graphs, "_forward", forwards.append)
    assert engine.runner.record_graphs() == len(listed) == len(forwards)
    sizes = [len(layout.rows) * 8 + layout.clean_count for layout in forwards]
    assert sizes[0] == max(sizes)
    assert set(graphs._graphs) == set(listed)


def test_graphs_need_the_kernels_that_take_lengths_from_the_device(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="cuda_graphs needs attention_backend triton, not sdpa"):
        Engine(EngineOptions(model=str(build_checkpoint(tmp_path, "plain")), cuda_graphs=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_replayed_steps_give_the_tokens_of_plain_ones(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    requests = random_requests(12, seed=2)
    answers = []
    for cuda_graphs in (False, True):
        options = EngineOptions(model=str(directory), device="cuda", dtype="bfloat16", cuda_graphs=cuda_graphs)
        answers.append(run(Engine(options), requests))
    for name, plain in answers[0].items():
        assert answers[1][name].token_ids == plain.token_ids
