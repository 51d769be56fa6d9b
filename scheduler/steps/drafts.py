"""Which requests draft in a step, and how far."""

from cdlm.model.row import Draft
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.sequence import Sequence


class DraftPlanner:
    """Plans verified drafts: candidates to verify, and masked rows behind the tokens that may turn out to be the last.

    Masked rows hang behind every candidate, so that one forward verifies and drafts wherever the candidates cease to
    agree. Their keys take slots behind the request's last token; without free pages for them a request drafts less.
    Requests decode without drafts if a step has many of them, since a forward is then limited by its computation, which
    drafts multiply.

    Args:
        window: most candidates, and most masked rows behind a token.
        max_rows: most requests in a step that drafts.
        cache: allocates the pages.
    """

    def __init__(self, window: int, max_rows: int, cache: KVCache) -> None:
        self.window, self.max_rows, self._cache = window, max_rows, cache

    def reserve(self, sequences: list[Sequence]) -> None:
        """Allocates pages for the drafts of a step's requests, as far as pages are free."""
        if len(sequences) > self.max_rows:
            return
        for sequence in sequences:
            if self._drafts(sequence):
                end = sequence.block_start + self._wish(sequence).tokens
                if self._cache.pages_for(end) - len(sequence.pages) <= self._cache.pool.free:
                    self._cache.allocate(sequence.pages, end)

    def plan(self, sequence: Sequence, rows: int) -> Draft | None:
        """What a request verifies and drafts in a step of ``rows`` requests; its pages are those of its table."""
        if rows > self.max_rows or not self._drafts(sequence):
            return None
        wish = self._wish(sequence)
        room = len(sequence.pages) * self._cache.page_size - sequence.block_start
        candidates = wish.candidates[:room]
        room -= len(candidates)
        behind: list[int] = []
        for length in wish.behind[: len(candidates) + 1]:
            behind.append(min(length, room))
            room -= behind[-1]
        draft = Draft(candidates, behind)
        return draft if draft.tokens else None

    def tokens(self, sequence: Sequence) -> int:
        """Most tokens that drafts add to a request's forward."""
        return self._wish(sequence).tokens if self._drafts(sequence) else 0

    def _drafts(self, sequence: Sequence) -> bool:
        """Whether a request can draft: its canvas is not shown, and no second pass belongs to it."""
        return sequence.wanted > 1 and not sequence.guided and not sequence.request.stream_canvas

    def _wish(self, sequence: Sequence) -> Draft:
        """The draft for a request with room for it. Nothing is drafted behind the end of the answer."""
        most = sequence.wanted - 1
        candidates = sequence.drafted[: min(self.window, most)]
        return Draft(candidates, [max(0, min(self.window, most - 1 - place)) for place in range(len(candidates) + 1)])
