"""Before a GPU is ready: the largest step that there may be, and what the device computes in."""

from pathlib import Path

import pytest
import torch

from cdlm.model.config import CheckpointError
from cdlm.model.device import resolve_dtype
from cdlm.model.row import RowWork
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.warm_up import largest_step
from tests.support.engines import assert_equal_to_oracle, run
from tests.support.models.checkpoints import AXES, build_checkpoint


@pytest.mark.parametrize("axis", AXES)
def test_the_largest_step_takes_as_many_rows_and_tokens_as_may_be(
    tmp_path: Path, axis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = build_checkpoint(tmp_path, axis)
    options = EngineOptions(
        model=str(directory), page_size=4, max_num_seqs=4, max_num_batched_tokens=150, max_prefill_tokens=20
    )
    engine = Engine(options)
    runner, asked = engine.runner, list[RowWork]()
    step = runner.step
    monkeypatch.setattr(runner, "step", lambda works: asked.extend(works) or step(works))  # type: ignore[func-returns-value]
    assert [result.error for result in largest_step(runner, options)] == [None] * 4
    block = runner.manifest.block_length
    tokens = sum(work.tokens(block) for work in asked)
    assert tokens == 150 if runner.manifest.first_token == "masked" else tokens >= 150 - 4 * block
    # Nothing is left of it.
    engine.check()
    request = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=12, ignore_eos=True)
    assert_equal_to_oracle(directory, [request], run(engine, [request]))


def test_the_type_is_one_that_the_gpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch would say of a GPU is told to it."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    assert resolve_dtype("auto", cuda) == resolve_dtype("bfloat16", cuda) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    assert resolve_dtype("auto", cuda) == torch.float16
    assert resolve_dtype("float32", cuda) == torch.float32
    with pytest.raises(CheckpointError, match="dtype bfloat16: Tesla T4 does not compute in it; use float16"):
        resolve_dtype("bfloat16", cuda)
    with pytest.raises(CheckpointError, match="dtype 'half' is not known"):
        resolve_dtype("half", cuda)
