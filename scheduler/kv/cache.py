"""The KV cache: allocates pages to requests, and caches the pages of prefixes for later requests.

What can be shared depends on the attention in prompts. If each token sees the whole prompt, one more token changes all
keys and values: only a whole, identical prompt can be reused. If tokens see only earlier blocks or earlier tokens, any
prefix of whole pages that ends at a block border can be reused, generated tokens included. If prompts and finished
blocks are causal, it need not end at one.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.scheduler.blocks import first_block_start
from cdlm.scheduler.kv.keys import Key, PrefixKeys
from cdlm.scheduler.kv.pool import PagePool
from cdlm.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from cdlm.scheduler.scoring.request import Scoring

# (source page, target page): copy keys and values of all layers.
Copy = tuple[int, int]

_WORTH_WAITING = 128  # Tokens; computing a shorter prefix is faster than waiting a step for it.


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cached prefix: its pages, and the hidden state that predicts the next position if one is read from there."""

    key: Key
    pages: tuple[int, ...]
    border: Tensor | None


class KVCache:
    """Page tables of requests, and cached prefixes by a cryptographic hash of their tokens.

    If prefixes of a prompt can be shared, there is one entry per unit (whole pages and, unless all is causal, whole
    blocks), which is useful only together with the entries before it. Entries are therefore evicted from the end: a
    request that holds an entry's pages also holds those of the entries before (``store`` ensures it), tables are
    released from their last page, and eviction is least recently released first. Entries in use are never evicted; each
    eviction frees pages.

    The class only does accounting: ``attach`` returns the page copies that the caller must make.

    Args:
        manifest: its attention and blocks decide what can be shared.
        num_pages: number of pages.
        page_size: positions per page.
        share: whether to cache prefixes.
        keeps_texts: whether scored texts are cached too; not if a guide model needs keys and values of its own, which
            scoring does not compute.
    """

    def __init__(
        self, manifest: Manifest, num_pages: int, page_size: int, *, share: bool, keeps_texts: bool = True
    ) -> None:
        self.manifest, self.pool = manifest, PagePool(num_pages)
        self.num_pages, self.page_size = num_pages, page_size
        self._whole = manifest.prompt_attention == "full"
        self._shares_texts = share
        self._keeps_texts = keeps_texts
        # A block's first token from the commit pass needs that pass, which a shared whole prompt would skip.
        self._shares = share and not (self._whole and manifest.first_token == "autoregressive")
        causal = manifest.commit_attention == "causal"
        self._unit = page_size if causal else math.lcm(page_size, manifest.block_length)
        self._keys = PrefixKeys(manifest, self._unit)
        self._entries: dict[Key, _Entry] = {}
        self._of_page: dict[int, _Entry] = {}
        self._coming: set[Key] = set()  # Prefixes that running sequences are computing,
        self._computes: dict[Sequence, Key] = {}  # and by which sequence.

    def pages_for(self, positions: int) -> int:
        """How many pages ``positions`` positions need."""
        return -(-positions // self.page_size)

    def allocate(self, table: list[int], positions: int) -> bool:
        """Extends a page table in place to ``positions`` positions; evicts unused entries if needed.

        Returns false, and changes no table, if there are too few pages.
        """
        needed = self.pages_for(positions) - len(table)
        if needed > self.pool.free + self.pool.cached:
            return False
        while needed > self.pool.free:
            self._give_up(self._of_page[self.pool.next_to_go])
        self.pool.take(table, needed)
        return True

    def match(self, sequence: Sequence) -> int:
        """How many leading tokens of a waiting sequence are cached; allocates nothing."""
        if not self._shares or sequence.guided:
            return 0
        if self._whole:
            return sequence.prompt_length if self._keys.of_prompt(sequence) in self._entries else 0
        # If there is a border state, the last token must be computed to get it.
        units = self._keys.extend(sequence, sequence.block_start - int(self.manifest.has_border))
        return self._unit * self._found(sequence.keys, units)

    def attach(self, sequence: Sequence) -> list[Copy] | None:
        """Gives a waiting sequence the cached pages of its prefix.

        Sets ``pages``, ``computed``, ``stored`` and ``border``. Guided sequences do not use the cache, which lacks the
        keys and values of their second pass.

        Returns:
            The page copies that must precede the next step, since other requests may write to the sources later;
            ``None`` if there are too few pages, and nothing changed.
        """
        found = self.match(sequence)
        if self._whole and found:
            return self._attach_whole(sequence)
        self._share(sequence.pages, sequence.keys[: found // self._unit])
        sequence.computed = sequence.stored = found
        return []

    def keeps_border(self, sequence: Sequence) -> bool:
        """Whether ``store`` needs the border state of the prompt now, before the row overwrites it."""
        return self.manifest.has_border and self._stores_whole(sequence)

    def store(self, sequence: Sequence, border: Tensor | None) -> None:
        """Caches what a running sequence has computed; ``border`` [hidden] is required if ``keeps_border``.

        If a prefix is cached already, the sequence switches to the cached pages and frees its own.
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
            self._keep(
                sequence.keys,
                sequence.pages,
                sequence.stored // self._unit,
                self._keys.extend(sequence, sequence.computed),
            )
            sequence.stored = sequence.computed // self._unit * self._unit
        self.withdraw(sequence)

    def attach_text(self, text: "Scoring", end: int) -> int:
        """Gives a text without pages the cached pages of its tokens below ``end``; returns the number of tokens."""
        if not self._shares_texts:
            return 0
        found = self._found(text.keys, self._keys.of_text(text, end))
        self._share(text.pages, text.keys[:found])
        return found * self._unit

    def store_text(self, text: "Scoring", start: int, end: int) -> None:
        """Caches a text's tokens in [start, end), which are computed; ``start`` is what ``attach_text`` returned."""
        if self._shares_texts and self._keeps_texts:
            self._keep(text.keys, text.pages, start // self._unit, self._keys.of_text(text, end))

    def expect(self, sequence: Sequence) -> None:
        """Registers that an admitted sequence will cache a prefix of its prompt, if it will."""
        if self._whole and sequence.block_start > sequence.prompt_length:
            return
        key = self._beginning(sequence)
        if key is not None and key not in self._entries and key not in self._coming:
            self._coming.add(key)
            self._computes[sequence] = key

    def withdraw(self, sequence: Sequence) -> None:
        """Undoes ``expect``: the sequence has stored its prefix, or will not."""
        if sequence in self._computes:
            self._coming.remove(self._computes.pop(sequence))

    def awaits(self, sequence: Sequence) -> Key | None:
        """The key of a prefix of a waiting sequence that another sequence is computing; ``None`` if there is none."""
        key = None if sequence.started else self._beginning(sequence)
        return key if key is not None and self.comes(key) else None

    def comes(self, key: Key) -> bool:
        """Whether a sequence is still computing the prefix ``key``, from ``awaits``."""
        return key in self._coming and key not in self._entries

    def check(self, tables: list[list[int]]) -> None:
        """Asserts that the accounting matches the page tables ``tables`` and the entries."""
        self.pool.check(tables, (page for entry in self._entries.values() for page in entry.pages))

    def _stores_whole(self, sequence: Sequence) -> bool:
        """Whether the sequence has computed a whole prompt that should be cached and is not cached yet."""
        length, size = sequence.prompt_length, self.page_size
        if not (self._shares and self._whole) or sequence.guided or sequence.stored or sequence.block_start != length:
            return False
        # A reader needs a copy of the last page if it is not full: without room for it, the entry would be useless.
        room = self.pages_for(length) + bool(length % size) <= self.num_pages
        return room and self._keys.of_prompt(sequence) not in self._entries

    def _attach_whole(self, sequence: Sequence) -> list[Copy] | None:
        entry = self._entries[self._keys.of_prompt(sequence)]
        # A last page that is not full is copied, not shared: the first block is written into it.
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
        """The key of the longest prefix that can be shared; ``None`` if it is too short to wait for."""
        if not self._shares or sequence.guided or sequence.prompt_length < _WORTH_WAITING:
            return None
        if self._whole:
            return self._keys.of_prompt(sequence)
        end = first_block_start(sequence.prompt_length, self.manifest) - int(self.manifest.has_border)
        units = self._keys.extend(sequence, end)
        return sequence.keys[units - 1] if units * self._unit >= _WORTH_WAITING else None

    def _found(self, keys: list[Key], units: int) -> int:
        """How many of the first ``units`` keys have entries; an entry exists only if all entries before it exist."""
        return bisect_left(keys, True, hi=units, key=lambda key: key not in self._entries)

    def _share(self, table: list[int], keys: list[Key]) -> None:
        for key in keys:
            self.pool.share(table, self._entries[key].pages)

    def _keep(self, keys: list[Key], table: list[int], first: int, end: int) -> None:
        """Makes entries of the units [first, end) of a page table; where there is one, the table takes its pages."""
        per_unit = self._unit // self.page_size
        for index in range(first, end):
            start, entry = index * per_unit, self._entries.get(keys[index])
            if entry is None:
                self._put(keys[index], table[start : start + per_unit], None)
                continue
            for offset, page in enumerate(entry.pages):
                self.pool.replace(table, start + offset, page)

    def _put(self, key: Key, pages: list[int], border: Tensor | None) -> None:
        self.pool.keep(pages)
        entry = self._entries[key] = _Entry(key, tuple(pages), border)
        self._of_page.update(dict.fromkeys(pages, entry))

    def _give_up(self, entry: _Entry) -> None:
        del self._entries[entry.key]
        for each in entry.pages:
            del self._of_page[each]
        self.pool.forget(entry.pages)
