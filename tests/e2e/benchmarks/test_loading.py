"""Loading takes the model's memory and no more than one shard beside it; what was measured is so on a small scale."""

import sys
from pathlib import Path

import pytest

from benchmarks.loading.__main__ import BAR, probe
from benchmarks.loading.checkpoint import write_random_checkpoint
from tests.support.matrix import matrix

# What the allocator and the reader's own lists take; a thirteenth of what the weights do.
SLACK = 4 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """As large with experts, which are as many small matrices that become one."""
    experts: int = request.param
    return write_random_checkpoint(
        tmp_path_factory.mktemp("large"), layers=8, hidden_size=512, intermediate_size=48 if experts else 1536,
        vocab_size=4096, shards=8, experts=experts,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak is read from /proc")
@pytest.mark.parametrize(
    ("checkpoint", "dtype"), matrix([0, 32], ["bfloat16", "float32"], strength=1), indirect=["checkpoint"]
)
def test_the_peak_is_the_model_and_a_shard(checkpoint: Path, dtype: str) -> None:
    figures = probe(checkpoint, dtype)
    shard, model = figures["largest_shard_bytes"], figures["model_bytes"]
    assert figures["shards"] >= 6
    assert model >= 13 * SLACK
    assert model <= figures["peak_bytes"] + SLACK  # The measurement sees the weights at all.
    assert figures["peak_bytes"] <= model + BAR * shard + SLACK
    assert figures["peak_anonymous_bytes"] <= model + SLACK
