"""The owner of the key-value pages: gives them to requests, and keeps those of prompts for requests that begin alike.

What may be shared follows from who sees whom. Where a prompt's rows see the whole prompt, one more token changes
all of them: only an identical prompt can be reused, as a whole. Where they see earlier blocks or earlier rows
alone, every run of whole pages that ends at a block's border can be, and what was generated as well.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.scheduler.blocks import first_block_start
from cdlm.scheduler.kv.keys import Key, PrefixKeys
from cdlm.scheduler.kv.pool import PagePool
from cdlm.scheduler.sequence import Sequence

# A page whose keys and values another page is to have too.
Copy = tuple[int, int]

_WORTH_WAITING = 128  # Tokens of a prompt; a shorter one is computed sooner than a step is waited for.


@dataclass(frozen=True, slots=True)
class _Entry:
    """``pages`` hold the keys and values; ``border`` predicts the position after them (shifted backbones)."""

    key: Key
    pages: tuple[int, ...]
    border: Tensor | None


class KVCache:
    """Pages, and entries that keep some of them by a cryptographic hash of the tokens before and in them.

    Where prompts are cut into units of pages there is an entry for each unit, and it is of use only together with
    those of the units before. So they are given up from the end: whoever holds an entry's pages holds those of the
    entries before it too (``store`` sees to that), tables are released from their last page on, and what was released
    first goes first. No entry goes that requests hold, and with each one pages become free.

    It never touches keys and values: where a page is to be copied, ``attach`` says so.

    Args:
        manifest: decides what can be shared.
        num_pages: how many there are.
        page_size: positions of a page.
        share: false keeps nothing for other requests.
    """

    def __init__(self, manifest: Manifest, num_pages: int, page_size: int, *, share: bool) -> None:
        self.manifest, self.pool = manifest, PagePool(num_pages)
        self.num_pages, self.page_size = num_pages, page_size
        self._whole = manifest.prompt_attention == "full"
        # The first token of a block that comes from the commit pass needs that pass to be made.
        self._shares = share and not (self._whole and manifest.first_token == "autoregressive")
        self._unit = math.lcm(page_size, manifest.block_length)
        self._keys = PrefixKeys(manifest, self._unit)
        self._entries: dict[Key, _Entry] = {}
        self._of_page: dict[int, _Entry] = {}
        self._coming: set[Key] = set()  # What running sequences are computing,
        self._computes: dict[Sequence, Key] = {}  # and who.

    def pages_for(self, positions: int) -> int:
        """How many pages hold that many positions."""
        return -(-positions // self.page_size)

    def allocate(self, table: list[int], positions: int) -> bool:
        """Extends a page table in place until it holds ``positions``; all or nothing.

        Where too few pages are free, entries that nobody holds are given up.
        """
        needed = self.pages_for(positions) - len(table)
        if needed > self.pool.free + self.pool.cached:
            return False
        while needed > self.pool.free:
            self._give_up(self._of_page[self.pool.next_to_go])
        self.pool.take(table, needed)
        return True

    def release(self, table: list[int]) -> None:
        """Takes back all pages of a table and empties it."""
        self.pool.release(table)

    @property
    def kept(self) -> Iterator[int]:
        """Every page of every entry."""
        return (page for entry in self._entries.values() for page in entry.pages)

    def match(self, sequence: Sequence) -> int:
        """How many of the tokens of a waiting sequence are computed already; it is given nothing."""
        if not self._shares or sequence.guided:
            return 0
        if self._whole:
            return sequence.prompt_length if self._keys.of_prompt(sequence) in self._entries else 0
        # Where a border is needed, the row whose state it is must remain to be computed.
        units = self._keys.extend(sequence, sequence.block_start - int(self.manifest.shift))
        # An entry is there only if those before it are.
        return self._unit * bisect_left(sequence.keys, True, hi=units, key=lambda key: key not in self._entries)

    def attach(self, sequence: Sequence) -> list[Copy] | None:
        """Gives a waiting sequence the pages of what is already computed of its tokens.

        Sets ``pages``, ``computed``, ``stored`` and ``border``. A guided sequence takes and leaves nothing: its second
        pass would need the same.

        Returns:
            The copies of pages that the next step is to begin with: later others may write to their sources. ``None``:
            there are too few pages; nothing changed.
        """
        found = self.match(sequence)
        if self._whole and found:
            return self._attach_whole(sequence)
        for key in sequence.keys[: found // self._unit]:
            self.pool.share(sequence.pages, self._entries[key].pages)
        sequence.computed = sequence.stored = found
        return []

    def keeps_border(self, sequence: Sequence) -> bool:
        """Whether ``store`` keeps the border state of the sequence's row, which later on is no longer the prompt's."""
        return self.manifest.shift and self._stores_whole(sequence)

    def store(self, sequence: Sequence, border: Tensor | None) -> None:
        """Keeps what a running sequence has computed; ``border`` is given where ``keeps_border``.

        Where others have left the same before, the sequence gets their pages, and its own become free.
        """
        if not self._shares or sequence.guided:
            return
        if self._whole:
            if self._stores_whole(sequence):
                pages = sequence.pages[: self.pages_for(sequence.prompt_length)]
                self._put(self._keys.of_prompt(sequence), pages, border)
            if sequence.block_start == sequence.prompt_length:
                sequence.stored = sequence.prompt_length
        elif sequence.computed - sequence.stored >= self._unit:
            per_unit = self._unit // self.page_size
            for index in range(sequence.stored // self._unit, self._keys.extend(sequence, sequence.computed)):
                first, entry = index * per_unit, self._entries.get(sequence.keys[index])
                if entry is None:
                    self._put(sequence.keys[index], sequence.pages[first : first + per_unit], None)
                    continue
                for offset, page in enumerate(entry.pages):
                    self.pool.replace(sequence.pages, first + offset, page)
            sequence.stored = sequence.computed // self._unit * self._unit
        self.withdraw(sequence)

    def expect(self, sequence: Sequence) -> None:
        """Notes that a sequence that is admitted will leave the beginning of its prompt, if it will."""
        if self._whole and sequence.block_start > sequence.prompt_length:
            return
        key = self._beginning(sequence)
        if key is not None and key not in self._entries and key not in self._coming:
            self._coming.add(key)
            self._computes[sequence] = key

    def withdraw(self, sequence: Sequence) -> None:
        """Ends what ``expect`` began: the sequence has stored its prompt, or will not."""
        if sequence in self._computes:
            self._coming.remove(self._computes.pop(sequence))

    def awaits(self, sequence: Sequence) -> Key | None:
        """The beginning of a waiting sequence's prompt that another is computing now, if there is one."""
        key = None if sequence.started else self._beginning(sequence)
        return key if key is not None and self.comes(key) else None

    def comes(self, key: Key) -> bool:
        """Whether somebody is computing what ``awaits`` named."""
        return key in self._coming and key not in self._entries

    def check(self, tables: list[list[int]]) -> None:
        """Asserts that pages are held by ``tables`` and kept by entries exactly as counted."""
        self.pool.check(tables, self.kept)

    def _stores_whole(self, sequence: Sequence) -> bool:
        """Whether the sequence has computed a whole prompt that is to be kept, and that nobody has left before."""
        length, size = sequence.prompt_length, self.page_size
        if not (self._shares and self._whole) or sequence.guided or sequence.stored or sequence.block_start != length:
            return False
        # Whoever attaches it needs a copy of a last page that it does not fill; without room for that nobody could.
        room = self.pages_for(length) + bool(length % size) <= self.num_pages
        return room and self._keys.of_prompt(sequence) not in self._entries

    def _attach_whole(self, sequence: Sequence) -> list[Copy] | None:
        entry = self._entries[self._keys.of_prompt(sequence)]
        # A last page that the prompt does not fill is shared with nobody: the first block is written into it.
        whole = sequence.prompt_length // self.page_size
        self.pool.share(sequence.pages, entry.pages[:whole])
        copies: list[Copy] = []
        if whole < len(entry.pages):
            source: list[int] = []
            self.pool.share(source, entry.pages[whole:])
            allocated = self.allocate(sequence.pages, sequence.prompt_length)
            copies = list(zip(source, sequence.pages[whole:], strict=False))
            self.pool.release(source)
            if not allocated:
                self.pool.release(sequence.pages)
                return None
        sequence.computed = sequence.stored = sequence.prompt_length
        sequence.border = entry.border
        return copies

    def _beginning(self, sequence: Sequence) -> Key | None:
        """The key of as much of its prompt as can be shared, if that is enough to be waited for."""
        if not self._shares or sequence.guided or sequence.prompt_length < _WORTH_WAITING:
            return None
        if self._whole:
            return self._keys.of_prompt(sequence)
        end = first_block_start(sequence.prompt_length, self.manifest) - int(self.manifest.shift)
        units = self._keys.extend(sequence, end)
        return sequence.keys[units - 1] if units * self._unit >= _WORTH_WAITING else None

    def _put(self, key: Key, pages: list[int], border: Tensor | None) -> None:
        self.pool.keep(pages)
        entry = self._entries[key] = _Entry(key, tuple(pages), border)
        self._of_page.update(dict.fromkeys(pages, entry))

    def _give_up(self, entry: _Entry) -> None:
        del self._entries[entry.key]
        for each in entry.pages:
            del self._of_page[each]
        self.pool.forget(entry.pages)
