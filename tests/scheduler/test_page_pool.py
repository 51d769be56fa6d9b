import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.page_pool import PagePool


def test_grow_is_all_or_nothing() -> None:
    pool = PagePool(3, page_size=4)
    table: list[int] = []
    assert pool.grow(table, 5)
    assert len(table) == 2
    other: list[int] = []
    assert not pool.grow(other, 8)
    assert other == []
    assert (pool.free, pool.active) == (1, 2)


def test_growing_to_what_is_there_takes_nothing() -> None:
    pool = PagePool(3, page_size=4)
    table: list[int] = []
    assert pool.grow(table, 3)
    assert pool.grow(table, 4)
    assert len(table) == 1


def test_a_page_released_twice_is_noticed() -> None:
    pool = PagePool(2, page_size=4)
    table: list[int] = []
    pool.grow(table, 4)
    copy = list(table)
    pool.release(table)
    with pytest.raises(KeyError):
        pool.release(copy)


def test_check_notices_a_lost_page() -> None:
    pool = PagePool(2, page_size=4)
    table: list[int] = []
    pool.grow(table, 8)
    with pytest.raises(AssertionError, match="belongs to no request"):
        pool.check([table[:1]])


class PoolMachine(RuleBasedStateMachine):
    """Random growth and release: no page is lost, none has two owners."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(10, page_size=4)
        self.tables: list[list[int]] = [[] for _ in range(4)]

    @rule(owner=st.integers(0, 3), positions=st.integers(0, 50))
    def grow(self, owner: int, positions: int) -> None:
        table = self.tables[owner]
        before = list(table)
        if self.pool.grow(table, positions):
            assert len(table) * 4 >= positions
        else:
            assert table == before

    @rule(owner=st.integers(0, 3))
    def release(self, owner: int) -> None:
        self.pool.release(self.tables[owner])
        assert self.tables[owner] == []

    @invariant()
    def intact(self) -> None:
        self.pool.check(self.tables)


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPagePool = PoolMachine.TestCase
