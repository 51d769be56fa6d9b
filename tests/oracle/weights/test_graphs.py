"""Recorded forwards: padded to a power of two and copied into place they give what the forward itself gives."""

from pathlib import Path

import pytest
import torch

from cdlm.model.forwards.graphs import ForwardGraphs
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from tests.support.attention import CheckedVarlen
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import build_checkpoint


@pytest.mark.parametrize("axis", ["plain", "shifted"])
def test_padded_forwards_equal_oracle(tmp_path: Path, axis: str) -> None:
    """All but the recording, which only CUDA has."""
    directory = build_checkpoint(tmp_path, axis, seed=2)
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=8))
    runner, cache = engine.runner, engine.runner.cache
    scratch = cache.keys.shape[1]
    cache.keys, cache.values = (
        torch.cat((stored, torch.zeros_like(stored[:, : cache.page_size])), dim=1)
        for stored in (cache.keys, cache.values)
    )
    runner.attention = CheckedVarlen
    calls: list[int] = []
    graphs = ForwardGraphs(
        lambda layout: calls.append(len(layout.rows)) or runner.forward(layout),  # type: ignore[func-returns-value]
        cache, block_length=8, max_model_len=runner.manifest.max_model_len, attention=CheckedVarlen, record=False,
    )  # fmt: skip
    runner.graphs = graphs
    requests = random_requests(12, seed=2)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    assert {1, 2, 4} <= set(calls)
    # Rows that belong to nobody were there, and wrote where they should.
    assert cache.keys[:, scratch:].abs().sum() > 0


def test_graphs_need_a_kernel_that_takes_lengths_from_the_device(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="CUDA graphs need attention_backend varlen, not sdpa"):
        Engine(EngineOptions(model=str(build_checkpoint(tmp_path, "plain")), cuda_graphs=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_replayed_steps_give_the_tokens_of_plain_ones(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    requests = random_requests(12, seed=2)
    answers = []
    for cuda_graphs in (False, True):
        options = EngineOptions(
            model=str(directory), device="cuda", dtype="bfloat16", attention_backend="varlen", cuda_graphs=cuda_graphs
        )
        answers.append(run(Engine(options), requests))
    for name, plain in answers[0].items():
        assert answers[1][name].token_ids == plain.token_ids
