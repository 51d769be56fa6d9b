"""Accounting of the key-value pages: who holds which, and that none is lost."""


class PagePool:
    """A fixed number of pages of ``page_size`` positions each.

    A page is free or held by exactly one owner. ``free + active`` is constant.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs pages and positions, got {num_pages} of {page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        """Pages nobody holds."""
        return len(self._free)

    @property
    def active(self) -> int:
        """Pages held by requests."""
        return len(self._held)

    def pages_for(self, positions: int) -> int:
        """How many pages hold that many positions."""
        return -(-positions // self.page_size)

    def grow(self, table: list[int], positions: int) -> bool:
        """Extends a page table in place until it holds ``positions``; all or nothing."""
        needed = self.pages_for(positions) - len(table)
        if needed > len(self._free):
            return False
        for _ in range(needed):
            page = self._free.pop()
            self._held.add(page)
            table.append(page)
        return True

    def release(self, table: list[int]) -> None:
        """Takes back all pages of a table and empties it."""
        for page in reversed(table):
            self._held.remove(page)
            self._free.append(page)
        table.clear()

    def check(self, tables: list[list[int]]) -> None:
        """Asserts that exactly the pages of ``tables`` are held, each once."""
        listed = [page for table in tables for page in table]
        assert len(listed) == len(set(listed)), "a page has two owners"
        assert set(listed) == self._held, "a held page belongs to no request"
        assert self.free + self.active == self.num_pages, "a page is lost"
