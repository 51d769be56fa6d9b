"""A reader of logits with a Triton kernel, which reads each row once."""

import itertools

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.logits.confidence import joined
from cdlm.model.decoding.logits.reader import LOGITS_BYTES, DrawSettings, LogitReader
from cdlm.model.decoding.logits.sampling import Filters, bounded
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.kernels.statistics import row_statistics
from cdlm.model.network.head import LmHead, Peaks
from cdlm.model.row import RowWork
from cdlm.model.uploads import Place


class KernelLogitReader(LogitReader):
    """For CUDA, and for Triton's interpreter."""

    waits = False

    def peaks(self, hidden: Tensor, head: LmHead, mask_token_id: int) -> Peaks:
        """See ``LogitReader``; some rows at a time, all of the vocabulary."""
        rows = max(1, LOGITS_BYTES // (hidden.element_size() * head.out_features))
        return joined([row_statistics(head(part), mask_token_id)[0] for part in torch.split(hidden, rows)])

    def statistics(
        self, logits: Tensor, mask_token_id: int, *, needs_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See ``LogitReader``."""
        if mask_token_id < logits.shape[-1]:
            logits[:, mask_token_id].fill_(float("-inf"))
        found, entropies, _ = row_statistics(logits, mask_token_id, entropy=needs_entropy)
        return found.confidence, found.token, entropies

    def draw_settings(self, works: list[RowWork], place: Place) -> DrawSettings | None:
        """See ``LogitReader``."""
        rows = [work.sampling for work in works]
        if all(row is None for row in rows):
            return None
        temperatures = [1.0 if row is None else bounded(row.temperature) for row in rows]
        return DrawSettings(
            drawn=place(np.array([row is not None for row in rows])),
            temperatures=place(np.array(temperatures, dtype=np.float32)),
            seeds=place(np.array([0 if row is None or row.seed is None else row.seed for row in rows])),
            starts=place(np.array([work.block_start for work in works])),
            filters=Filters.of(rows, place),
            filtered=place(np.array([row is not None and row.filtered for row in rows])),
        )

    def draw(self, step: Step, settings: DrawSettings | None, block_length: int) -> None:
        """See ``LogitReader``; all rows that draw do so in one launch."""
        if settings is None:
            return
        works, counts = step.works, step.counts
        owner = (step.chosen // block_length).clamp_(max=len(works) - 1)
        at = _positions(settings.drawn[owner], _sum(counts, [work.sampling is not None for work in works]))
        of = owner.index_select(0, at)
        logits = step.logits.index_select(0, at)
        if settings.filters is not None:
            filtered = [work.sampling is not None and work.sampling.filtered for work in works]
            here = _positions(settings.filtered[of], _sum(counts, filtered))
            for part in torch.split(here, max(1, LOGITS_BYTES // (16 * logits.shape[-1]))):
                rows = of.index_select(0, part)
                wide = logits.index_select(0, part).float() / settings.temperatures[rows, None]
                left_out = settings.filters.of_rows(rows).apply(wide).isneginf()
                logits[part] = logits.index_select(0, part).masked_fill_(left_out, float("-inf"))
        positions = settings.starts[of] + step.chosen.index_select(0, at) % block_length
        draw = settings.temperatures[of], settings.seeds[of], positions
        _, _, found = row_statistics(logits, logits.shape[-1], draw=draw)
        assert found is not None
        # A row of which nothing is masked any more may be the first.
        found = torch.where(settings.drawn[of], found, step.token.index_select(0, at))
        step.token.index_copy_(0, at, found)


def _sum(counts: list[int], of: list[bool]) -> int:
    return sum(itertools.compress(counts, of))


def _positions(flags: Tensor, at_most: int) -> Tensor:
    """[at_most] int64: where ``flags`` [positions] are true; the first of them again if they are fewer."""
    found = torch.nonzero_static(flags, size=at_most, fill_value=-1)[:, 0]
    return torch.where(found < 0, found[:1], found).clamp_(min=0)
