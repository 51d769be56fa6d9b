"""Accounting of the key-value pages: who holds which, and that none is lost."""

from collections import Counter
from collections.abc import Callable, Iterable


class PagePool:
    """A fixed number of pages of ``page_size`` positions each.

    A page has any number of holders, requests or the prefix cache, and is free when it has none.
    ``free + active + cached`` is constant.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs pages and positions, got {num_pages} of {page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        self.reclaim: Callable[[], bool] = lambda: False
        """Asked for pages when none are free: drops something from the prefix cache, or says that nothing is left."""
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders: Counter[int] = Counter()  # Requests, by page.
        self._kept: Counter[int] = Counter()  # Entries of the prefix cache, by page.

    @property
    def free(self) -> int:
        """Pages nobody holds."""
        return len(self._free)

    @property
    def active(self) -> int:
        """Pages held by requests, whether the prefix cache keeps them too or not."""
        return len(self._holders)

    @property
    def cached(self) -> int:
        """Pages that only the prefix cache keeps; they are there for whoever needs them."""
        return self.num_pages - self.free - self.active

    def pages_for(self, positions: int) -> int:
        """How many pages hold that many positions."""
        return -(-positions // self.page_size)

    def grow(self, table: list[int], positions: int) -> bool:
        """Extends a page table in place until it holds ``positions``; all or nothing."""
        needed = self.pages_for(positions) - len(table)
        if needed > self.free + self.cached:
            return False
        while needed > len(self._free):
            if not self.reclaim():
                return False
        for _ in range(needed):
            page = self._free.pop()
            self._holders[page] = 1
            table.append(page)
        return True

    def share(self, table: list[int], pages: Iterable[int]) -> None:
        """Appends pages that somebody holds or keeps to a table."""
        for page in pages:
            assert page in self._holders or page in self._kept, "a shared page is free"
            self._holders[page] += 1
            table.append(page)

    def release(self, table: list[int]) -> None:
        """Takes back all pages of a table and empties it."""
        for page in reversed(table):
            self._drop(self._holders, page)
        table.clear()

    def keep(self, pages: Iterable[int]) -> None:
        """The prefix cache keeps pages that requests hold."""
        for page in pages:
            self._kept[page] += 1

    def forget(self, pages: Iterable[int]) -> None:
        """The prefix cache keeps them no longer."""
        for page in pages:
            self._drop(self._kept, page)

    def _drop(self, owners: "Counter[int]", page: int) -> None:
        if owners[page] <= 0:
            del owners[page]
            raise KeyError(f"page {page} is released more often than it was taken")
        owners[page] -= 1
        if not owners[page]:
            del owners[page]
            if page not in self._holders and page not in self._kept:
                self._free.append(page)

    def check(self, tables: list[list[int]], kept: Iterable[int] = ()) -> None:
        """Asserts that pages are held by ``tables`` and kept by the cache's ``kept`` exactly as counted."""
        for table in tables:
            assert len(table) == len(set(table)), "a table lists a page twice"
        held = Counter(page for table in tables for page in table)
        assert held == self._holders, "a held page belongs to no request"
        assert Counter(kept) == self._kept, "a kept page belongs to no entry"
        owned = self._holders.keys() | self._kept.keys()
        assert not owned & set(self._free), "a free page has an owner"
        assert len(owned) + len(set(self._free)) == self.num_pages, "a page is lost"
