"""What the prefix cache gives up, and what a look-up finds, against a definition in plain words."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdlm.model.config import Manifest
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.sequence import Sequence

OPTIONS = EngineOptions(model="")
PAGES = 14

Prefix = tuple[str, tuple[int, ...]]  # A salt, and tokens.


def manifest(block_length: int, prompt_attention: str) -> Manifest:
    return Manifest(
        block_length=block_length, confidence_threshold=0.5, mask_token_id=63, stop_token_ids=(), max_model_len=64,
        block_origin="prompt_end" if prompt_attention == "full" else "absolute",
        prompt_attention=prompt_attention,  # type: ignore[arg-type]
    )  # fmt: skip


@dataclass
class Model:
    """Which prefixes are kept, when each was last let go of, and by how many requests each is held."""

    unit: int
    last: dict[Prefix, int] = field(default_factory=dict)
    held: dict[Prefix, int] = field(default_factory=dict)
    clock: int = 0

    def units(self, salt: str, tokens: list[int], end: int) -> list[Prefix]:
        """The prefixes that end at a unit's border at or below ``end``, the shortest first."""
        return [(salt, tuple(tokens[:stop])) for stop in range(self.unit, end + 1, self.unit)]

    def found(self, salt: str, tokens: list[int], end: int) -> int:
        count = 0
        for prefix in self.units(salt, tokens, end):
            if prefix not in self.last:
                break
            count += 1
        return count * self.unit

    def hold(self, prefixes: list[Prefix]) -> None:
        for prefix in prefixes:
            self.last.setdefault(prefix, 0)
            self.held[prefix] = self.held.get(prefix, 0) + 1

    def release(self, prefixes: list[Prefix]) -> None:
        self.clock += 1
        for prefix in prefixes:
            self.held[prefix] -= 1
            if not self.held[prefix]:
                del self.held[prefix]
                self.last[prefix] = self.clock

    def next_to_go(self) -> Prefix:
        """Of the leaves that nobody holds, the one that was let go of longest ago."""
        parents = {(salt, tokens[: -self.unit]) for salt, tokens in self.last}
        leaves = [prefix for prefix in self.last if prefix not in parents and prefix not in self.held]
        return min(leaves, key=lambda prefix: self.last[prefix])


class ChainMachine(RuleBasedStateMachine):
    """Conversations of two tokens and two salts come, compute, leave and come back; pages are short."""

    block_length, page_size = 2, 2
    prompt_attention = "block_causal"

    def __init__(self) -> None:
        super().__init__()
        self.manifest = manifest(self.block_length, self.prompt_attention)
        self.cache = KVCache(self.manifest, PAGES, self.page_size, share=True)
        self.pool = self.cache.pool
        self.unit = max(self.block_length, self.page_size)
        self.model = Model(self.unit)
        self.running: list[Sequence] = []
        self.holds: dict[Sequence, list[Prefix]] = {}
        self.count = 0
        forget = self.cache._give_up

        def give_up(entry: object) -> None:
            expected = self.model.next_to_go()
            del self.model.last[expected]
            free = self.pool.free
            forget(entry)
            assert self.pool.free > free, "an entry was given up for nothing"
            assert self.kept_prefixes() == set(self.model.last)

        self.cache._give_up = give_up

    def kept_prefixes(self) -> set[Prefix]:
        """The entries of the cache, by what their keys stand for."""
        known = {key: prefix for sequence in self.seen for key, prefix in self.prefixes_of(sequence).items()}
        return {known[key] for key in self.cache._entries}

    def prefixes_of(self, sequence: Sequence) -> dict[bytes, Prefix]:
        units = self.model.units(sequence.request.cache_salt, sequence.token_ids, len(sequence.token_ids))
        return dict(zip(sequence.keys, units, strict=False))

    @property
    def seen(self) -> list[Sequence]:
        if not hasattr(self, "_seen"):
            self._seen: list[Sequence] = []
        return self._seen

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=16), salt=st.sampled_from(("", "", "a")))
    def come(self, tokens: list[int], salt: str) -> None:
        self.count += 1
        request = GenerateRequest(request_id=str(self.count), prompt_ids=tokens, max_tokens=8, cache_salt=salt)
        sequence = Sequence.from_request(request, self.manifest, OPTIONS)
        self.seen.append(sequence)
        expected = self.model.found(salt, tokens, sequence.block_start)
        assert self.cache.match(sequence) == expected
        assert self.cache.attach(sequence) == []
        assert sequence.computed == sequence.stored == expected
        prefixes = self.model.units(salt, tokens, expected)
        self.model.hold(prefixes)
        if not self.cache.allocate(sequence.pages, sequence.block_start + self.block_length):
            self.pool.release(sequence.pages)
            self.model.release(prefixes)
            return
        self.running.append(sequence)
        self.holds[sequence] = prefixes

    @rule(number=st.integers(0, 9), block=st.lists(st.integers(0, 1), min_size=4, max_size=4))
    def compute(self, number: int, block: list[int]) -> None:
        """A step in which the tokens before the block are computed and the block is finished."""
        if not self.running:
            return
        sequence = self.running[number % len(self.running)]
        if not self.cache.allocate(sequence.pages, sequence.block_start + self.block_length):
            return
        sequence.computed = sequence.block_start
        self.cache.store(sequence, None)
        salt, mine = sequence.request.cache_salt, self.holds[sequence]
        fresh = self.model.units(salt, sequence.token_ids, sequence.computed)[len(mine) :]
        self.model.hold(fresh)
        mine += fresh
        sequence.token_ids = sequence.token_ids[: sequence.block_start] + block[: self.block_length]
        sequence.block_start += self.block_length

    @rule(number=st.integers(0, 9))
    def leave(self, number: int) -> None:
        if self.running:
            sequence = self.running.pop(number % len(self.running))
            self.pool.release(sequence.pages)
            self.model.release(self.holds.pop(sequence))

    @rule(pages=st.integers(1, PAGES))
    def need_pages(self, pages: int) -> None:
        """Whoever needs pages gets all that are free or only kept."""
        table: list[int] = []
        possible = pages <= self.pool.free + self.pool.cached
        assert self.cache.allocate(table, pages * self.page_size) == possible
        self.pool.release(table)

    @invariant()
    def every_entry_can_be_reached(self) -> None:
        kept = self.kept_prefixes()
        assert kept == set(self.model.last)
        for salt, tokens in kept:
            assert len(tokens) == self.unit or (salt, tokens[: -self.unit]) in kept

    @invariant()
    def pages_add_up(self) -> None:
        self.cache.check([sequence.pages for sequence in self.running])
        per_unit = self.unit // self.page_size
        only_kept = len(self.model.last) - len(self.model.held)
        assert self.pool.cached == per_unit * only_kept


class LargeBlocks(ChainMachine):
    """A unit is two pages."""

    block_length, page_size = 4, 2


class SingleTokens(ChainMachine):
    """A unit is two blocks."""

    block_length, page_size = 1, 2
    prompt_attention = "causal"


class SmallBlocks(ChainMachine):
    """A unit is two blocks of more than one token."""

    block_length, page_size = 2, 4


def case(machine: type[RuleBasedStateMachine]) -> type:
    made = machine.TestCase
    made.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    return made


TestChain, TestLargeBlocks, TestSingleTokens, TestSmallBlocks = map(
    case, (ChainMachine, LargeBlocks, SingleTokens, SmallBlocks)
)


def test_allocation_is_all_or_nothing() -> None:
    cache = KVCache(manifest(8, "block_causal"), 3, 4, share=True)
    table: list[int] = []
    assert cache.allocate(table, 5)
    assert len(table) == 2
    assert cache.allocate(table, 3)
    assert cache.allocate(table, 8)
    assert len(table) == 2  # What is there is enough.
    other: list[int] = []
    assert not cache.allocate(other, 8)
    assert other == []
    assert (cache.pool.free, cache.pool.active) == (1, 2)


def conversation(tokens: int, name: str = "a") -> Sequence:
    request = GenerateRequest(request_id=name, prompt_ids=list(range(tokens)), max_tokens=4)
    return Sequence.from_request(request, manifest(8, "block_causal"), OPTIONS)


def leave_behind(cache: KVCache, sequence: Sequence) -> None:
    assert cache.attach(sequence) == []
    assert cache.allocate(sequence.pages, sequence.block_start + 8)
    sequence.computed = sequence.block_start
    cache.store(sequence, None)
    cache.pool.release(sequence.pages)


def test_what_a_conversation_has_in_common_with_the_next_turn_stays_longest() -> None:
    cache = KVCache(manifest(8, "block_causal"), 5, 8, share=True)
    leave_behind(cache, conversation(32))
    assert cache.match(conversation(32)) == 32
    for taken, left in ((2, 24), (3, 16), (4, 8), (5, 0)):
        table: list[int] = []
        assert cache.allocate(table, taken * 8)
        assert cache.match(conversation(32)) == left
        cache.pool.release(table)


def test_a_prompt_that_is_in_use_is_not_given_up_for_its_copied_end() -> None:
    """An entry of which one page is free to go is given up for that page; one that frees nothing stays."""
    full = manifest(8, "full")
    cache = KVCache(full, 8, 8, share=True)
    request = GenerateRequest(request_id="a", prompt_ids=list(range(16)), max_tokens=4)
    first = Sequence.from_request(request, full, OPTIONS)
    assert cache.allocate(first.pages, 24)
    first.computed = 16
    cache.store(first, None)
    assert cache.pool.cached == 0  # Held all of it, so there is nothing to give up.
    table: list[int] = []
    assert not cache.allocate(table, 6 * 8)
    assert cache.allocate(table, 5 * 8)
    assert cache.match(Sequence.from_request(request, full, OPTIONS)) == 16


@pytest.mark.parametrize("tokens", [20, 64])
def test_each_token_is_hashed_once(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    hashed: list[int] = []
    from cdlm.scheduler.kv import keys

    digest = keys._digest
    monkeypatch.setattr(keys, "_digest", lambda before, ids: hashed.append(len(ids)) or digest(before, ids))
    cache = KVCache(manifest(8, "block_causal"), 20, 8, share=True)
    sequence = conversation(tokens)
    for _ in range(3):
        cache.match(sequence)
        cache.awaits(sequence)
        leave_behind(cache, sequence)
        sequence.computed = sequence.stored = 0
    assert sum(hashed) == tokens // 8 * 8
