"""Fair admission as the engine has it."""

from collections import Counter
from pathlib import Path

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import build_checkpoint


def test_a_client_that_floods_the_engine_does_not_hold_up_another(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4, max_num_seqs=2))
    for number in range(20):
        engine.add(
            GenerateRequest(request_id=f"a{number}", prompt_ids=[1, 2], max_tokens=16, ignore_eos=True, client="a")
        )
    for _ in range(3):
        engine.step()
    for number in range(3):
        engine.add(
            GenerateRequest(request_id=f"b{number}", prompt_ids=[1, 2], max_tokens=16, ignore_eos=True, client="b")
        )
    ended: list[str] = []
    tokens: Counter[str] = Counter()
    while engine.busy:
        for output in engine.step().outputs:
            tokens[output.request_id] += len(output.token_ids)
            ended += [output.request_id] if output.finish_reason else []
        engine.check()
    assert ended.index("b2") < 10
    assert set(tokens.values()) == {16}
    assert len(tokens) == 23


def test_priority_decides_which_request_of_a_client_is_next_in_the_engine(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4, max_num_seqs=1))
    for name, priority in (("late", 3), ("soon", 1), ("first", -1), ("soon too", 1)):
        engine.add(
            GenerateRequest(request_id=name, prompt_ids=[1, 2], max_tokens=8, ignore_eos=True, priority=priority)
        )
    ended = [output.request_id for _ in range(200) if engine.busy for output in engine.step().outputs]
    assert ended == ["first", "soon", "soon too", "late"]


def test_scores_are_admitted_fairly_and_by_priority(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4, max_num_seqs=1))
    for number in range(4):
        engine.add(ScoreRequest(request_id=f"a{number}", prompt_ids=[1, 2, 3], client="a", priority=-number))
    engine.add(ScoreRequest(request_id="b", prompt_ids=[1, 2, 3], client="b", priority=9))
    engine.abort("a1")
    engine.abort("a1")
    ended = [output.request_id for _ in range(200) if engine.busy for output in engine.step().outputs]
    assert ended == ["a3", "b", "a2", "a0"]
