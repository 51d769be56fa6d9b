"""Who waits is admitted fairly between clients, and in order within one."""

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from model.config import Manifest
from scheduler.engine import Engine
from scheduler.fair_queue import FairQueue
from scheduler.messages import GenerateRequest
from scheduler.options import EngineOptions
from scheduler.sequence import Sequence
from tests.checkpoints import build_checkpoint

MANIFEST = Manifest(block_length=8, confidence_threshold=0.5, mask_token_id=63, stop_token_ids=(), max_model_len=64)
OPTIONS = EngineOptions(model="")


def sequence(name: str, client: str = "", prompt: int = 4) -> Sequence:
    request = GenerateRequest(request_id=name, prompt_ids=[1] * prompt, max_tokens=4, client=client)
    return Sequence.from_request(request, MANIFEST, OPTIONS)


def order(queue: FairQueue) -> list[str]:
    return [each.request.request_id for each in queue]


def test_one_client_is_served_in_order() -> None:
    queue = FairQueue()
    for number in range(5):
        queue.append(sequence(str(number)))
        queue.charge("", answer_tokens=100 * number)
    assert order(queue) == list("01234")
    assert len(queue) == 5


def test_clients_take_turns_and_what_they_were_served_counts() -> None:
    queue = FairQueue()
    for number in range(4):
        queue.append(sequence(f"a{number}", "a"))
    for number in range(2):
        queue.append(sequence(f"b{number}", "b"))
    assert order(queue) == ["a0", "b0", "a1", "b1", "a2", "a3"]
    queue.charge("a", answer_tokens=4)
    assert order(queue) == ["b0", "b1", "a0", "a1", "a2", "a3"]


def test_a_pause_saves_nothing_up() -> None:
    queue = FairQueue()
    busy = [sequence(f"a{number}", "a") for number in range(3)]
    for each in busy:
        queue.append(each)
    queue.charge("a", answer_tokens=1000)
    queue.append(sequence("b0", "b"))
    queue.append(sequence("b1", "b"))
    assert order(queue) == ["a0", "b0", "a1", "b1", "a2"]
    for each in list(queue):
        queue.remove(each)
    assert len(queue) == 0
    queue.append(sequence("c", "c"))
    queue.append(sequence("a", "a"))
    assert order(queue) == ["c", "a"]


def test_preempted_ones_come_first() -> None:
    queue = FairQueue()
    queue.append(sequence("a", "a"))
    queue.appendleft(sequence("x", "b"))
    assert queue.resuming
    assert order(queue) == ["x", "a"]
    queue.remove(next(iter(queue)))
    assert not queue.resuming


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20), st.booleans()), max_size=40))
def test_nobody_is_lost_while_the_first_ones_are_taken(steps: list[tuple[str, int, bool]]) -> None:
    """Taking some of those that are yielded, as the scheduler does, yields every other one once and in order."""
    queue, expected = FairQueue(), []
    for index, (client, prompt, _) in enumerate(steps):
        queue.append(sequence(str(index), client, prompt))
        expected.append(str(index))
    seen = []
    for each, (_, _, taken) in zip(queue, steps, strict=True):
        seen.append(each.request.request_id)
        if taken:
            queue.remove(each)
            queue.charge(each.request.client, prompt_tokens=each.prompt_length)
    assert sorted(seen, key=int) == expected
    left = [name for name, (_, _, taken) in zip(seen, steps, strict=True) if not taken]
    assert sorted(order(queue)) == sorted(left)
    for client in "abc":
        mine = [name for name in seen if steps[int(name)][0] == client]
        assert mine == sorted(mine, key=int)


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
