"""Accounting of KV cache pages: which are free, held by requests, or cached."""

from collections import Counter, OrderedDict
from collections.abc import Iterable


class PagePool:
    """A fixed number of pages with reference counts.

    Any number of requests can hold a page, and the prefix cache can keep it; otherwise it is free. ``free + active +
    cached`` is constant. Pages that only the cache keeps are evicted in the order of their last release; of one table,
    the last page first.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.releases = 0
        """Number of releases so far: a failed allocation need not be retried before it changes."""
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders: Counter[int] = Counter()  # Page -> number of requests.
        self._kept: set[int] = set()  # Kept by the prefix cache.
        self._idle: OrderedDict[int, None] = OrderedDict()  # Only kept, in order of eviction.

    @property
    def free(self) -> int:
        """Number of free pages."""
        return len(self._free)

    @property
    def active(self) -> int:
        """Number of pages that requests hold, cached or not."""
        return len(self._holders)

    @property
    def cached(self) -> int:
        """Number of pages that only the prefix cache keeps; they can be evicted."""
        return len(self._idle)

    @property
    def next_to_go(self) -> int:
        """The first page to evict."""
        return next(iter(self._idle))

    def take(self, table: list[int], count: int) -> None:
        """Appends ``count`` free pages to a table."""
        for _ in range(count):
            page = self._free.pop()
            self._holders[page] = 1
            table.append(page)

    def share(self, table: list[int], pages: Iterable[int]) -> None:
        """Appends pages that are held or cached to a table."""
        for page in pages:
            assert page in self._holders or page in self._kept, "a shared page is free"
            self._holders[page] += 1
            self._idle.pop(page, None)
            table.append(page)

    def release(self, table: list[int]) -> None:
        """Takes back all pages of a table and empties it."""
        self.releases += bool(table)
        for page in reversed(table):
            self._let_go(page)
        table.clear()

    def replace(self, table: list[int], index: int, page: int) -> None:
        """Replaces a table's page by a cached page with the same keys and values."""
        assert page in self._kept, "a shared page is not kept"
        own, table[index] = table[index], page
        self._holders[page] += 1
        self._idle.pop(page, None)
        self.releases += 1
        self._let_go(own)

    def keep(self, pages: Iterable[int]) -> None:
        """Marks pages, which requests must hold, as cached."""
        for page in pages:
            assert page in self._holders, "a page to be kept is held by nobody"
            assert page not in self._kept, "a page is kept already"
            self._kept.add(page)

    def forget(self, pages: Iterable[int]) -> None:
        """Marks pages as no longer cached."""
        for page in pages:
            self._kept.remove(page)
            if page not in self._holders:
                del self._idle[page]
                self._free.append(page)

    def _let_go(self, page: int) -> None:
        if page not in self._holders:
            raise KeyError(f"page {page} is released more often than it was taken")
        self._holders[page] -= 1
        if not self._holders[page]:
            del self._holders[page]
            if page in self._kept:
                self._idle[page] = None
            else:
                self._free.append(page)

    def check(self, tables: list[list[int]], kept: Iterable[int] = ()) -> None:
        """Asserts that the accounting matches the tables and ``kept``, the pages of the prefix cache."""
        for table in tables:
            assert len(table) == len(set(table)), "a table lists a page twice"
        held = Counter(page for table in tables for page in table)
        assert dict(held) == dict(self._holders), "a held page belongs to no request"
        assert sorted(kept) == sorted(self._kept), "a kept page belongs to no entry"
        assert self._idle.keys() == self._kept - self._holders.keys(), "a page that is only kept is not to be given up"
        owned = self._holders.keys() | self._kept
        free = set(self._free)
        assert not owned & free, "a free page has an owner"
        assert len(owned) + len(free) == self.num_pages, "a page is lost"
