"""Long prompts are computed in pieces: the same tokens come, and everyone else goes on meanwhile."""

from pathlib import Path

import pytest

from cdlm.model.forwards.staged import StagedForward
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.steps.batch import Batch
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import ONE_HALF, axes, build_checkpoint


def engine_of(directory: Path, **options: object) -> Engine:
    return Engine(EngineOptions(**{"model": str(directory), "page_size": 4, "max_prefill_tokens": 3, **options}))  # type: ignore[arg-type]


def request(name: str, length: int, max_tokens: int = 20) -> GenerateRequest:
    prompt = [(7 * position + length) % 50 for position in range(length)]
    return GenerateRequest(request_id=name, prompt_ids=prompt, max_tokens=max_tokens, ignore_eos=True)


def to_the_end(engine: Engine) -> list[BlockOutput]:
    outputs: list[BlockOutput] = []
    while engine.busy:
        outputs += engine.step().outputs
        engine.check()
    assert engine.cache.pool.active == 0
    return outputs


@axes(sample=ONE_HALF)
def test_mixed_batch_with_staged_prompts_equals_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    requests = random_requests(12, seed=6)
    assert_equal_to_oracle(directory, requests, run(engine_of(directory, max_num_seqs=8), requests, join_every=2))


@pytest.mark.parametrize("axis", ["plain", "shifted", "absolute_shifted"])
def test_preempted_while_staged_equals_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, max_model_len=96)
    requests = random_requests(8, seed=3)
    page = engine_of(directory).runner.cache.keys[:, :4].numel() * 2 * 4
    engine = engine_of(directory, kv_cache_memory=30 * page)
    assert_equal_to_oracle(directory, requests, run(engine, requests))
    assert engine.scheduler.preemptions > 0


def test_others_go_on_while_a_long_prompt_advances_by_pieces(tmp_path: Path) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "shifted"), max_prefill_tokens=20)
    engine.add(request("short", 2, max_tokens=200))
    engine.step()
    engine.add(request("long", 40))
    engine.add(request("later", 3))
    first = engine.step()
    assert first.stats.phase == "mixed"
    [long] = [sequence for sequence in engine.scheduler.running if sequence.request.request_id == "long"]
    assert long.staged is not None
    assert (long.staged.layer, long.staged.tokens, long.forwards) == (0, 40, 0)
    assert 0 < long.staged.row < 40
    beside = 8 + (3 + 8)
    # Half as much again, rounded up; less only by what another piece would be too much.
    assert beside * 1.5 - 20 / 8 <= first.stats.batch_tokens <= beside * 1.5 + 1
    steps = 1
    while long.staged is not None:
        engine.step()
        steps += 1
    # 40 tokens through both layers are as many tokens' work, and more for the keys they see; a step takes half of 16.
    assert 40 / 8 <= steps <= 3 * 40 / 8
    assert (long.computed, long.forwards) == (40, 1)
    assert {output.request_id for output in to_the_end(engine)} == {"short", "long", "later"}


def test_alone_a_long_prompt_takes_all_it_may(tmp_path: Path) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "shifted"), max_prefill_tokens=20)
    engine.add(request("long", 40))
    first = engine.step()
    assert 20 - 20 / 8 <= first.stats.batch_tokens <= 20


def test_an_equal_prompt_waits_for_the_one_that_is_staged_and_is_overtaken_meanwhile(tmp_path: Path) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "plain"))
    for name in ("first", "second"):
        engine.add(request(name, 150))
    engine.add(request("other", 3))
    report = engine.step()
    assert [sequence.request.request_id for sequence in engine.scheduler.running] == ["first", "other"]
    assert report.stats.waiting == 1
    cached = {output.request_id: output.cached_tokens for output in to_the_end(engine)}
    assert cached == {"first": 0, "second": 150, "other": 0}


def begun_by(engine: Engine) -> list[str]:
    """The ids of the requests that the engine says it begins with, as they come."""
    begun: list[str] = []
    schedule = engine.schedule

    def noting() -> Batch:
        batch = schedule()
        begun.extend(batch.begun)
        return batch

    engine.schedule = noting
    return begun


def test_long_prompts_wait_without_rows_and_pages_and_short_ones_pass_them(tmp_path: Path) -> None:
    """64 long prompts are begun one at a time, in order; nobody waits for all of them, and all are answered."""
    engine = engine_of(build_checkpoint(tmp_path, "plain"), max_num_seqs=8, max_prefill_tokens=20)
    begun = begun_by(engine)
    for number in range(64):
        engine.add(request(f"long{number}", 60 + number, max_tokens=8))
    engine.step()
    assert begun == ["long0"]
    assert engine.cache.pool.active == engine.cache.pages_for(60 + 8)
    for number in range(12):
        engine.add(request(f"short{number}", 2 + number, max_tokens=8))
    ended: list[str] = []
    while engine.busy:
        ended += [output.request_id for output in engine.step().outputs if output.finish_reason == "length"]
        engine.check()
        long = [each for each in engine.scheduler.running if each.block_start - each.computed > 20]
        assert len(long) <= 1
        assert all(each.row is None and not each.pages for each in engine.scheduler.waiting)
    assert len(ended) == len(set(ended)) == 76
    longs = [name for name in begun if name.startswith("long")]
    assert longs == [f"long{number}" for number in range(64)]
    shorts = [ended.index(f"short{number}") for number in range(12)]
    assert max(shorts) < 24  # Of 64 long ones that came before them, a few.


def test_short_prompts_that_keep_coming_do_not_starve_long_ones(tmp_path: Path) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "plain"), max_num_seqs=2, max_prefill_tokens=20)
    begun = begun_by(engine)
    for number in range(4):
        engine.add(request(f"long{number}", 60 + number, max_tokens=8))
    ended: list[str] = []
    for number in range(600):
        while len(engine.scheduler.waiting) < 8:
            engine.add(request(f"short{len(begun)}-{number}-{len(engine.sequences)}", 2 + number % 9, max_tokens=8))
        ended += [output.request_id for output in engine.step().outputs if output.finish_reason]
        if all(f"long{each}" in ended for each in range(4)):
            break
    else:
        pytest.fail("a long prompt starves")
    assert [name for name in begun if name.startswith("long")] == [f"long{each}" for each in range(4)]
    assert any(name.startswith("short") for name in ended)


def test_a_long_prompt_that_is_cached_is_not_kept_waiting_for_the_one_that_is_staged(tmp_path: Path) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "absolute"), max_prefill_tokens=20)
    engine.add(request("before", 100, max_tokens=8))
    to_the_end(engine)
    engine.add(request("staged", 160, max_tokens=8))
    engine.add(request("waits", 145, max_tokens=8))
    engine.add(request("cached", 100, max_tokens=8))
    report = engine.step()
    assert [sequence.request.request_id for sequence in engine.scheduler.running] == ["staged", "cached"]
    assert report.stats.cached_prompt_tokens == 96
    cached = {output.request_id: output.cached_tokens for output in to_the_end(engine)}
    assert cached == {"staged": 0, "waits": 0, "cached": 96}


@pytest.mark.parametrize("axis", ["plain", "absolute"])
def test_equal_prompts_wait_together_and_go_on_when_the_one_they_wait_for_leaves(tmp_path: Path, axis: str) -> None:
    engine = engine_of(build_checkpoint(tmp_path, axis), max_prefill_tokens=20, max_num_seqs=4)
    begun = begun_by(engine)
    for number in range(100):
        engine.add(request(f"same{number}", 160, max_tokens=8))
    engine.step()
    engine.step()
    assert begun == ["same0"]
    engine.abort("same0")
    engine.abort("same7")
    answered = {output.request_id for output in to_the_end(engine) if output.finish_reason == "length"}
    assert answered == {f"same{number}" for number in range(100)} - {"same0", "same7"}
    assert begun == ["same0", *(f"same{number}" for number in range(1, 100) if number != 7)]


def test_prompts_that_nothing_is_kept_of_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """With blocks from the prompt's end, and a prompt that is no whole number of them, no page ends at a border."""
    engine = engine_of(build_checkpoint(tmp_path, "block_causal_prompt_end"), max_prefill_tokens=200)
    for name in ("first", "second"):
        engine.add(request(name, 150, max_tokens=8))
    engine.step()
    assert len(engine.scheduler.running) == 2


def test_a_client_that_leaves_and_a_failure_end_a_staged_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "plain"))
    engine.add(request("gone", 40))
    engine.add(request("short", 2))
    engine.step()
    engine.abort("gone")
    engine.check()
    engine.add(request("failing", 40))
    with monkeypatch.context() as patch:
        patch.setattr(StagedForward, "advance", lambda _self, _work: 1 / 0)
        [failed] = [output for output in engine.step().outputs if output.finish_reason == "error"]
    assert (failed.request_id, failed.error) == ("failing", "ZeroDivisionError")
    engine.add(request("fine", 40))
    ended = {output.request_id for output in to_the_end(engine) if output.finish_reason == "length"}
    assert ended == {"short", "fine"}


def test_budgets_that_leave_no_room_fail_at_start(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain")
    with pytest.raises(EngineStartError, match="no room for 520 tokens .* max_prefill_tokens 512"):
        engine_of(directory, max_prefill_tokens=512, max_num_batched_tokens=1031)
    engine_of(directory, max_prefill_tokens=512, max_num_batched_tokens=1032)
