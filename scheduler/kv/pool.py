"""Accounting of the key-value pages: who holds which, and that none is lost."""

from collections import Counter, OrderedDict
from collections.abc import Iterable


class PagePool:
    """A fixed number of pages.

    Any number of requests hold a page, and the prefix cache may keep it; it is free when nobody does either.
    ``free + active + cached`` is constant. Pages that are kept and not held are given up in the order in which the last
    holder let go of them, and of one table's the last first.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.releases = 0
        """How many times a table was taken back; whoever did not get pages need not ask again before that changes."""
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders: Counter[int] = Counter()  # Requests, by page.
        self._kept: set[int] = set()  # By the prefix cache.
        self._idle: OrderedDict[int, None] = OrderedDict()  # Kept and held by nobody, in the order of giving up.

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
        return len(self._idle)

    @property
    def next_to_go(self) -> int:
        """Of the pages that are only kept, the one that is to be forgotten first."""
        return next(iter(self._idle))

    def take(self, table: list[int], count: int) -> None:
        """Appends free pages to a table."""
        for _ in range(count):
            page = self._free.pop()
            self._holders[page] = 1
            table.append(page)

    def share(self, table: list[int], pages: Iterable[int]) -> None:
        """Appends pages that somebody holds or keeps to a table."""
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
        """Lets a table hold a kept page with the same keys and values instead of its own one."""
        assert page in self._kept, "a shared page is not kept"
        own, table[index] = table[index], page
        self._holders[page] += 1
        self._idle.pop(page, None)
        self.releases += 1
        self._let_go(own)

    def keep(self, pages: Iterable[int]) -> None:
        """The prefix cache keeps pages that requests hold, and that it does not keep yet."""
        for page in pages:
            assert page in self._holders, "a page to be kept is held by nobody"
            assert page not in self._kept, "a page is kept already"
            self._kept.add(page)

    def forget(self, pages: Iterable[int]) -> None:
        """The prefix cache keeps them no longer."""
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
        """Asserts that pages are held by ``tables`` and kept by the cache's ``kept`` exactly as counted."""
        for table in tables:
            assert len(table) == len(set(table)), "a table lists a page twice"
        held = Counter(page for table in tables for page in table)
        assert held == self._holders, "a held page belongs to no request"
        assert Counter(kept) == Counter(self._kept), "a kept page belongs to no entry"
        assert self._idle.keys() == self._kept - self._holders.keys(), "a page that is only kept is not to be given up"
        owned = self._holders.keys() | self._kept
        assert not owned & set(self._free), "a free page has an owner"
        assert len(owned) + len(set(self._free)) == self.num_pages, "a page is lost"
