import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdlm.scheduler.kv.pool import PagePool


def test_a_table_takes_free_pages() -> None:
    pool = PagePool(3)
    table: list[int] = []
    pool.take(table, 2)
    assert len(set(table)) == 2
    assert (pool.free, pool.active) == (1, 2)


def test_a_page_released_twice_is_noticed() -> None:
    pool = PagePool(2)
    table: list[int] = []
    pool.take(table, 1)
    copy = list(table)
    pool.release(table)
    with pytest.raises(KeyError, match="more often than it was taken"):
        pool.release(copy)


def test_check_notices_a_lost_page() -> None:
    pool = PagePool(2)
    table: list[int] = []
    pool.take(table, 2)
    with pytest.raises(AssertionError, match="belongs to no request"):
        pool.check([table[:1]])


def test_a_shared_page_is_free_when_its_last_holder_lets_go() -> None:
    pool = PagePool(2)
    table: list[int] = []
    pool.take(table, 1)
    other: list[int] = []
    pool.share(other, table)
    pool.keep(other)
    pool.release(table)
    assert (pool.free, pool.active, pool.cached) == (1, 1, 0)
    kept = list(other)
    pool.release(other)
    assert (pool.free, pool.active, pool.cached) == (1, 0, 1)
    pool.check([], kept)
    pool.forget(kept)
    assert (pool.free, pool.active, pool.cached) == (2, 0, 0)


def test_a_page_that_is_cached_no_longer_stays_with_its_holder() -> None:
    pool = PagePool(3)
    first: list[int] = []
    pool.take(first, 2)
    kept, other = list(first), []
    pool.keep(kept)
    pool.share(other, kept[:1])
    pool.release(first)
    assert (pool.active, pool.cached) == (1, 1)
    pool.forget(kept)
    pool.check([other])
    assert (other, pool.free, pool.active, pool.cached) == (kept[:1], 2, 1, 0)
    pool.release(other)
    pool.check([])
    assert pool.free == 3


def test_kept_pages_go_in_the_order_in_which_they_were_let_go_of() -> None:
    pool = PagePool(4)
    first: list[int] = []
    second: list[int] = []
    pool.take(first, 3)
    pool.take(second, 1)
    kept, later = list(first), list(second)
    pool.keep(kept + later)
    pool.release(first)
    pool.release(second)
    order = []
    while pool.cached:
        order.append(pool.next_to_go)
        pool.forget([order[-1]])
    assert order == kept[::-1] + later  # The end of a table goes before what it was computed from.
    assert (pool.free, pool.active, pool.cached) == (4, 0, 0)


def test_a_table_takes_a_kept_page_in_the_place_of_its_own() -> None:
    pool = PagePool(3)
    first: list[int] = []
    other: list[int] = []
    pool.take(first, 1)
    pool.take(other, 2)
    pool.keep(first)
    kept = list(first)
    pool.release(first)
    before = pool.releases
    pool.replace(other, 0, kept[0])
    assert pool.releases > before
    assert (other[0], pool.free, pool.active, pool.cached) == (kept[0], 1, 2, 0)
    pool.check([other], kept)


class PoolMachine(RuleBasedStateMachine):
    """Random taking, sharing, keeping, giving up and release: no page is lost, none is free and owned."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(10)
        self.tables: list[list[int]] = [[] for _ in range(4)]
        self.kept: list[list[int]] = []

    @rule(owner=st.integers(0, 3), count=st.integers(0, 12))
    def take(self, owner: int, count: int) -> None:
        count = min(count, self.pool.free)
        table = self.tables[owner]
        before = list(table)
        self.pool.take(table, count)
        assert table[: len(before)] == before
        assert len(table) == len(before) + count

    @rule()
    def give_up(self) -> None:
        if self.pool.cached:
            page = self.pool.next_to_go
            assert not any(page in table for table in self.tables)
            [entry] = [pages for pages in self.kept if page in pages]
            self.kept.remove(entry)
            self.pool.forget(entry)

    @rule(owner=st.integers(0, 3), other=st.integers(0, 3), count=st.integers(1, 4))
    def share(self, owner: int, other: int, count: int) -> None:
        pages = [page for page in self.tables[other][:count] if page not in self.tables[owner]]
        self.pool.share(self.tables[owner], pages)

    @rule(owner=st.integers(0, 3), count=st.integers(1, 4))
    def keep(self, owner: int, count: int) -> None:
        already = {page for pages in self.kept for page in pages}
        self.kept.append([page for page in self.tables[owner][:count] if page not in already])
        self.pool.keep(self.kept[-1])

    @rule(owner=st.integers(0, 3), index=st.integers(0, 9), which=st.integers(0, 9))
    def replace(self, owner: int, index: int, which: int) -> None:
        table = self.tables[owner]
        others = [page for pages in self.kept for page in pages if page not in table]
        if index < len(table) and others:
            self.pool.replace(table, index, others[which % len(others)])

    @rule(owner=st.integers(0, 3))
    def release(self, owner: int) -> None:
        self.pool.release(self.tables[owner])
        assert self.tables[owner] == []

    @invariant()
    def intact(self) -> None:
        self.pool.check(self.tables, [page for pages in self.kept for page in pages])
        assert self.pool.free + self.pool.active + self.pool.cached == 10


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPagePool = PoolMachine.TestCase
