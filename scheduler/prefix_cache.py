"""Keys and values of prompts that were computed before, shared by requests that begin alike.

What may be shared follows from who sees whom. Where a prompt's rows see the whole prompt, one more token changes
all of them: only an identical prompt can be reused, as a whole. Where they see earlier blocks or earlier rows
alone, every run of whole pages that ends at a block's border can be, and what was generated as well.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from model.config import Manifest
from scheduler.blocks import first_block_start
from scheduler.page_pool import PagePool
from scheduler.sequence import Sequence

Key = bytes

_WORTH_WAITING = 128  # Tokens of a prompt; a shorter one is computed sooner than a step is waited for.


@dataclass(frozen=True, slots=True)
class _Entry:
    """``pages`` hold the keys and values; ``border`` predicts the position after them (shifted backbones)."""

    pages: tuple[int, ...]
    border: Tensor | None


class PrefixCache:
    """Entries by a cryptographic hash of the tokens before and in them; the least recently used go first.

    Requests with different ``cache_salt`` have different hashes from the first token on, so they never share a page.

    Args:
        manifest: decides what can be shared.
        pool: whose pages are kept.
        copy_page: copies the keys and values of one page to another.
        enabled: false finds and stores nothing.
    """

    def __init__(
        self, manifest: Manifest, pool: PagePool, copy_page: Callable[[int, int], None], *, enabled: bool
    ) -> None:
        self.manifest, self.pool, self._copy_page = manifest, pool, copy_page
        self._whole = manifest.prompt_attention == "full"
        # The first token of a block that comes from the commit pass needs that pass to be made.
        self.enabled = enabled and not (self._whole and manifest.first_token == "autoregressive")
        self._unit = math.lcm(pool.page_size, manifest.block_length)
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        pool.reclaim = self._evict

    @property
    def kept(self) -> Iterator[int]:
        """Every page of every entry."""
        return (page for entry in self._entries.values() for page in entry.pages)

    def attach(self, sequence: Sequence) -> bool:
        """Gives a waiting sequence the pages of what is already computed of its tokens.

        Sets ``pages``, ``computed``, ``stored`` and ``border``. False: there are too few pages; nothing changed.
        A guided sequence takes and leaves nothing: its second pass would need the same.
        """
        if not self.enabled or sequence.guided:
            return True
        if self._whole:
            return self._attach_whole(sequence)
        # Where a border is needed, the row whose state it is must remain to be computed.
        for key in self._chain(sequence, sequence.block_start - int(self.manifest.shift)):
            entry = self._find(key)
            if entry is None:
                break
            self.pool.share(sequence.pages, entry.pages)
            sequence.computed += self._unit
        sequence.stored = sequence.computed
        return True

    def store(self, sequence: Sequence, border: Callable[[], Tensor]) -> None:
        """Keeps what a running sequence has computed; ``border`` reads its row's border state."""
        if not self.enabled or sequence.guided:
            return
        if self._whole:
            # Later on the row's border state is no longer the prompt's.
            if not sequence.stored and sequence.block_start == sequence.prompt_length:
                pages = sequence.pages[: self.pool.pages_for(sequence.prompt_length)]
                self._put(self._prompt_key(sequence), pages, border() if self.manifest.shift else None)
                sequence.stored = sequence.prompt_length
            return
        if sequence.computed - sequence.stored < self._unit:
            return
        per_unit = self._unit // self.pool.page_size
        for index, key in enumerate(self._chain(sequence, sequence.computed)):
            self._put(key, sequence.pages[index * per_unit : (index + 1) * per_unit], None)
        sequence.stored = sequence.computed // self._unit * self._unit

    def awaits(self, sequence: Sequence, others: list[Sequence]) -> bool:
        """Whether one of ``others``, about to be computed, will leave the very prompt that ``sequence`` begins with."""
        prompt, salt = sequence.request.prompt_ids, sequence.request.cache_salt
        if not self.enabled or sequence.guided or len(prompt) < _WORTH_WAITING or sequence.started:
            return False
        storing = (other for other in others if (other.computed == 0 or other.fresh) and not other.guided)
        return any(other.request.prompt_ids == prompt and other.request.cache_salt == salt for other in storing)

    def _attach_whole(self, sequence: Sequence) -> bool:
        entry = self._find(self._prompt_key(sequence))
        if entry is None:
            return True
        # A last page that the prompt does not fill is shared with nobody: the first block is written into it.
        whole = sequence.prompt_length // self.pool.page_size
        self.pool.share(sequence.pages, entry.pages[:whole])
        if whole < len(entry.pages):
            source: list[int] = []
            self.pool.share(source, entry.pages[whole:])
            try:
                grown = self.pool.grow(sequence.pages, sequence.prompt_length)
                if grown:
                    self._copy_page(source[0], sequence.pages[-1])
            finally:
                self.pool.release(source)
            if not grown:
                self.pool.release(sequence.pages)
                return False
        sequence.computed = sequence.stored = sequence.prompt_length
        sequence.border = entry.border
        return True

    def _find(self, key: Key) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _put(self, key: Key, pages: list[int], border: Tensor | None) -> None:
        if key in self._entries:
            self._entries.move_to_end(key)
        else:
            self.pool.keep(pages)
            self._entries[key] = _Entry(tuple(pages), border)

    def _evict(self) -> bool:
        if not self._entries:
            return False
        _, entry = self._entries.popitem(last=False)
        self.pool.forget(entry.pages)
        return True

    def _prompt_key(self, sequence: Sequence) -> Key:
        return _digest(_root(b"whole", sequence), sequence.request.prompt_ids)

    def _chain(self, sequence: Sequence, end: int) -> Iterator[Key]:
        """A key for every unit of pages that lies below ``end``; each stands for all tokens up to its end."""
        manifest = self.manifest
        if manifest.prompt_attention == "causal" and manifest.block_length > 1:
            # What a block's rows saw, the rows of a causal prompt do not see.
            end = min(end, first_block_start(sequence.prompt_length, manifest))
        elif manifest.block_origin == "prompt_end" and sequence.prompt_length % manifest.block_length:
            return  # No page ends at a border.
        key = _root(b"chain", sequence)
        for start in range(0, end - self._unit + 1, self._unit):
            key = _digest(key, sequence.token_ids[start : start + self._unit])
            yield key


def _root(kind: bytes, sequence: Sequence) -> Key:
    salt = sequence.request.cache_salt.encode(errors="surrogatepass")
    return hashlib.sha256(kind + salt).digest()


def _digest(before: bytes, token_ids: list[int]) -> Key:
    # Cryptographic, because whoever could make two prompts collide would read the other's cache.
    return hashlib.sha256(before + np.array(token_ids, dtype=np.int64).tobytes()).digest()
