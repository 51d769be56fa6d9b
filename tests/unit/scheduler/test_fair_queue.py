"""Who waits is admitted fairly between clients, and in order within one."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdlm.model.config import Manifest
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.waiting.queue import OLDEST_EVERY, FairQueue

MANIFEST = Manifest(block_length=8, confidence_threshold=0.5, mask_token_id=63, stop_token_ids=(), max_model_len=64)
OPTIONS = EngineOptions(model="")


def sequence(name: str, client: str = "", prompt: int = 4, priority: int = 0) -> Sequence:
    request = GenerateRequest(request_id=name, prompt_ids=[1] * prompt, max_tokens=4, client=client, priority=priority)
    return Sequence.from_request(request, MANIFEST, OPTIONS)


def take(queue: FairQueue[Sequence], *, long: bool = True) -> Sequence | None:
    """Admits the next one, as the scheduler does."""
    item = queue.first(long=long)
    if item is not None:
        queue.take(item, long=long)
        queue.charge(item.request.client, prompt_tokens=item.prompt_length)
    return item


def order(queue: FairQueue[Sequence]) -> list[str]:
    """Empties a queue."""
    names = []
    while (item := take(queue)) is not None:
        names.append(item.request.request_id)
    return names


def test_one_client_is_served_in_order() -> None:
    queue: FairQueue[Sequence] = FairQueue()
    for number in range(5):
        queue.append(sequence(str(number)))
        queue.charge("", answer_tokens=100 * number)
    assert len(queue) == 5
    assert order(queue) == list("01234")
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("answered", "expected"), [(0, ["a0", "b0", "a1", "b1", "a2", "a3"]), (4, ["b0", "b1", "a0", "a1", "a2", "a3"])]
)
def test_clients_take_turns_and_what_they_were_served_counts(answered: int, expected: list[str]) -> None:
    queue: FairQueue[Sequence] = FairQueue()
    for number in range(4):
        queue.append(sequence(f"a{number}", "a"))
    for number in range(2):
        queue.append(sequence(f"b{number}", "b"))
    queue.charge("a", answer_tokens=answered)
    assert order(queue) == expected


def test_a_pause_saves_nothing_up() -> None:
    queue: FairQueue[Sequence] = FairQueue()
    for number in range(3):
        queue.append(sequence(f"a{number}", "a"))
    queue.charge("a", answer_tokens=1000)
    queue.append(sequence("b0", "b"))
    queue.append(sequence("b1", "b"))
    assert order(queue) == ["a0", "b0", "a1", "b1", "a2"]
    queue.append(sequence("c", "c"))
    queue.append(sequence("a", "a"))
    assert order(queue) == ["c", "a"]


def test_preempted_ones_come_first() -> None:
    queue: FairQueue[Sequence] = FairQueue()
    queue.append(sequence("a", "a"))
    queue.charge("a")
    first = sequence("x", "a", priority=9)
    queue.appendleft(first)
    assert queue.resuming
    assert queue.first() is first
    queue.remove(first)
    assert not queue.resuming
    assert order(queue) == ["a"]


def test_a_lower_priority_value_is_first_and_equal_ones_keep_their_order() -> None:
    queue: FairQueue[Sequence] = FairQueue()
    for name, priority in (("d", 5), ("b", 0), ("e", 5), ("a", -3), ("c", 0)):
        queue.append(sequence(name, priority=priority))
    assert order(queue) == list("abcde")


def test_a_request_of_the_last_priority_is_admitted_under_a_flood_of_urgent_ones() -> None:
    queue: FairQueue[Sequence] = FairQueue()
    for number in range(3):
        queue.append(sequence(f"last{number}", priority=2**31 - 1))
    ended = []
    for number in range(40):
        queue.append(sequence(f"urgent{number}", priority=-(2**31)))
        ended.append(take(queue).request.request_id)
    places = [ended.index(f"last{number}") for number in range(3)]
    assert places == [OLDEST_EVERY - 1, 2 * OLDEST_EVERY - 1, 3 * OLDEST_EVERY - 1]
    assert [name for name in ended if name.startswith("urgent")] == [f"urgent{number}" for number in range(37)]


def test_priorities_do_not_touch_the_share_of_another_client() -> None:
    shares = {}
    for priority in (0, -1000, 1000):
        queue: FairQueue[Sequence] = FairQueue()
        for number in range(30):
            queue.append(sequence(f"a{number}", "a", priority=priority))
            queue.append(sequence(f"b{number}", "b"))
        shares[priority] = [take(queue).request.client for _ in range(40)]
    assert shares[0] == shares[-1000] == shares[1000]
    assert Counter(shares[0]) == {"a": 20, "b": 20}


class Model:
    """The queue's definition, by walking over everything."""

    def __init__(self) -> None:
        self.waiting: list[Sequence] = []
        self.resumed: list[Sequence] = []
        self.aside: set[Sequence] = set()
        self.long: set[Sequence] = set()
        self.served: dict[str, int] = {}
        self.since_oldest: Counter[str] = Counter()
        self.level = 0

    def append(self, item: Sequence) -> None:
        client = item.request.client
        if client not in {each.request.client for each in self.waiting}:
            others = {each.request.client for each in self.waiting if each not in self.aside}
            level = min((self.served[other] for other in others), default=self.level)
            self.served[client] = max(self.served.get(client, 0), level)
        self.waiting.append(item)

    def ready(self, long: bool) -> list[Sequence]:
        return [each for each in self.waiting if each not in self.aside and (long or each not in self.long)]

    def first(self, long: bool) -> Sequence | None:
        for each in self.resumed:
            if long or each not in self.long:
                return each
        ready = self.ready(long)
        if not ready:
            return None
        joined = list(self.served)
        name = min({each.request.client for each in ready}, key=lambda name: (self.served[name], joined.index(name)))
        mine = [each for each in ready if each.request.client == name]
        if self.since_oldest[name] >= OLDEST_EVERY - 1:
            return mine[0]
        return min(mine, key=lambda each: each.request.priority)  # The first of equals is the oldest.

    def take(self, item: Sequence, long: bool) -> None:
        name = item.request.client
        if item in self.waiting:
            oldest = next(each for each in self.ready(long) if each.request.client == name)
            self.since_oldest[name] = 0 if oldest is item else self.since_oldest[name] + 1
        self.remove(item)
        self.served[name] += item.prompt_length

    def remove(self, item: Sequence) -> None:
        self.aside.discard(item)
        self.long.discard(item)
        if item in self.resumed:
            self.resumed.remove(item)
            return
        self.waiting.remove(item)
        if item.request.client not in {each.request.client for each in self.waiting}:
            self.since_oldest[item.request.client] = 0
            self.level = self.served[item.request.client]


class QueueMachine(RuleBasedStateMachine):
    """The queue names the same request as its definition, whatever happened before."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Sequence] = FairQueue()
        self.model = Model()
        self.begun: list[Sequence] = []
        self.count = 0

    def pick(self, number: int, among: list[Sequence]) -> Sequence | None:
        return among[number % len(among)] if among else None

    @rule(
        client=st.sampled_from("abc"), prompt=st.integers(1, 20), priority=st.integers(-2, 2), times=st.integers(1, 4)
    )
    def append(self, client: str, prompt: int, priority: int, times: int) -> None:
        for _ in range(times):
            self.count += 1
            item = sequence(str(self.count), client, prompt, priority)
            self.queue.append(item)
            self.model.append(item)

    @rule(long=st.booleans(), times=st.integers(1, 12))
    def take(self, long: bool, times: int) -> None:
        for _ in range(times):
            item = take(self.queue, long=long)
            assert item is self.model.first(long)
            if item is None:
                return
            self.model.take(item, long)
            self.begun.append(item)

    @rule(number=st.integers(0, 99))
    def preempt(self, number: int) -> None:
        item = self.pick(number, self.begun)
        if item is not None:
            self.begun.remove(item)
            self.queue.appendleft(item)
            self.model.resumed.insert(0, item)

    @rule(number=st.integers(0, 99))
    def remove(self, number: int) -> None:
        item = self.pick(number, list(self.queue))
        if item is not None:
            self.queue.remove(item)
            self.model.remove(item)

    @rule(number=st.integers(0, 99))
    def set_aside(self, number: int) -> None:
        item = self.pick(number, [each for each in self.model.waiting if each not in self.model.aside])
        if item is not None:
            self.queue.set_aside(item)
            self.model.aside.add(item)
            self.model.long.discard(item)

    @rule(number=st.integers(0, 99))
    def put_back(self, number: int) -> None:
        item = self.pick(number, [each for each in self.model.waiting if each in self.model.aside])
        if item is not None:
            self.queue.put_back(item)
            self.model.aside.discard(item)

    @rule(number=st.integers(0, 99))
    def mark_long(self, number: int) -> None:
        item = self.pick(number, [each for each in self.queue if each not in self.model.aside])
        if item is not None:
            self.queue.mark_long(item)
            self.model.long.add(item)

    @rule(client=st.sampled_from("abc"), tokens=st.integers(1, 50))
    def charge(self, client: str, tokens: int) -> None:
        if client in self.model.served:
            self.queue.charge(client, answer_tokens=tokens)
            self.model.served[client] += 2 * tokens

    @invariant()
    def holds_the_same(self) -> None:
        assert list(self.queue) == [*self.model.resumed, *self.model.waiting]
        assert len(self.queue) == len(self.model.resumed) + len(self.model.waiting)
        assert self.queue.resuming == bool(self.model.resumed)
        for long in (False, True):
            assert self.queue.first(long=long) is self.model.first(long)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), min_size=1, max_size=120))
def test_no_priority_makes_anybody_wait_longer_than_promised(arrivals: list[tuple[int, int]]) -> None:
    """Each arrives, then so many are admitted; who finds n waiting is admitted after at most 8 * (n + 1)."""
    queue: FairQueue[Sequence] = FairQueue()
    promised: dict[str, int] = {}
    admitted = 0

    def admit() -> None:
        nonlocal admitted
        item = take(queue)
        if item is not None:
            admitted += 1
            assert admitted <= promised[item.request.request_id]

    for number, (priority, times) in enumerate(arrivals):
        promised[str(number)] = admitted + OLDEST_EVERY * (len(queue) + 1)
        queue.append(sequence(str(number), priority=priority))
        for _ in range(times):
            admit()
    while len(queue):
        admit()
    assert admitted == len(arrivals)
