"""Generation in the caller's process: order, counts, and what is left behind when something fails."""

from pathlib import Path

import pytest

from cdlm.scheduler.errors import EngineError, RequestError
from cdlm.scheduler.messages import EngineStats, GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import build_checkpoint


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return build_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def llm(directory: Path) -> OfflineEngine:
    return OfflineEngine(EngineOptions(model=str(directory), max_num_seqs=2, page_size=4))


def request(name: str, prompt: int, max_tokens: int = 20) -> GenerateRequest:
    return GenerateRequest(request_id=name, prompt_ids=list(range(prompt)), max_tokens=max_tokens, ignore_eos=True)


def test_completions_come_in_the_order_of_the_requests_and_are_counted(llm: OfflineEngine) -> None:
    steps: list[EngineStats] = []
    done = llm.generate([request("long", 5, 40), request("short", 3, 2), request("third", 4, 9)], steps.append)
    assert [len(completion.token_ids) for completion in done] == [40, 2, 9]
    assert [completion.blocks for completion in done] == [5, 1, 2]
    assert all(completion.finish_reason == "length" for completion in done)
    assert all(completion.denoise_steps >= completion.blocks for completion in done)
    # Two rows at the most take part in a step, and a step of a row is one forward pass.
    assert sum(stats.batch_rows for stats in steps) == sum(completion.forward_passes for completion in done)
    alone = llm.generate([request("again", 3, 2)])
    assert alone[0].token_ids == done[1].token_ids


def test_a_request_that_cannot_be_served_leaves_the_others_unrun(llm: OfflineEngine) -> None:
    with pytest.raises(RequestError, match="prompt is empty"):
        llm.generate([request("fine", 5), request("empty", 0)])
    assert not llm.busy
    with pytest.raises(RequestError, match="already in flight"):
        llm.generate([request("twice", 5), request("twice", 6)])
    assert not llm.busy


def test_a_step_that_fails_frees_everything(llm: OfflineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(works: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(llm.runner, "step", fail)
        with pytest.raises(EngineError, match="MemoryError"):
            llm.generate([request(name, 5) for name in "abc"])
    assert not llm.busy
    assert llm.cache.pool.active == 0
    assert len(llm.generate([request("after", 5)])[0].token_ids) == 20
