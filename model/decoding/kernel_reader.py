"""A reader of logits with a Triton kernel, which reads each row once."""

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.reader import LogitReader
from cdlm.model.decoding.sampling import COLDEST, HOTTEST, filter_logits
from cdlm.model.kernels.statistics import Draw, row_statistics
from cdlm.model.network.head import Head
from cdlm.model.row import RowWork

# Logits of so many bytes are held at once.
_PART_BYTES = 512 * 2**20


class KernelLogitReader(LogitReader):
    """For CUDA, and for Triton's interpreter."""

    def best_of_head(self, hidden: Tensor, head: Head, mask_token_id: int) -> tuple[Tensor, Tensor]:
        """See ``LogitReader``; some rows at a time, all of the vocabulary."""
        rows = max(1, _PART_BYTES // (hidden.element_size() * head.out_features))
        found = [row_statistics(head(part), mask_token_id) for part in torch.split(hidden, rows)]
        if len(found) == 1:
            return found[0].confidence, found[0].token
        return torch.cat([each.confidence for each in found]), torch.cat([each.token for each in found])

    def statistics(
        self, logits: Tensor, mask_token_id: int, *, needs_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See ``LogitReader``."""
        if mask_token_id < logits.shape[-1]:
            logits[:, mask_token_id].fill_(float("-inf"))
        found = row_statistics(logits, mask_token_id, entropy=needs_entropy)
        return found.confidence, found.token, found.entropy

    def draw(
        self, works: list[RowWork], counts: list[int], chosen: Tensor, logits: Tensor, token: Tensor, block_length: int
    ) -> None:
        """See ``LogitReader``; all rows that draw do so in one launch."""
        drawing = [work.sampling is not None for work in works]
        if not any(drawing):
            return
        owner = np.repeat(np.arange(len(works)), counts)
        mine = np.flatnonzero(np.repeat(drawing, counts))
        at = torch.from_numpy(mine).to(logits.device)
        of = torch.from_numpy(owner[mine]).to(logits.device)
        drawn = logits.index_select(0, at)
        end = 0
        for work, count in zip(works, counts, strict=True):
            how = work.sampling
            if how is None:
                continue
            start, end = end, end + count
            if how.top_k > 0 or how.top_p < 1.0 or how.min_p > 0.0:
                tempered = drawn[start:end].float() / min(max(how.temperature, COLDEST), HOTTEST)
                kept = filter_logits(tempered, top_k=how.top_k, top_p=how.top_p, min_p=how.min_p).isfinite()
                drawn[start:end].masked_fill_(kept.logical_not_(), float("-inf"))

        def of_rows(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(logits.device).index_select(0, of)

        settings = [work.sampling for work in works]
        temperatures = [1.0 if how is None else min(max(how.temperature, COLDEST), HOTTEST) for how in settings]
        seeds = [0 if how is None or how.seed is None else how.seed for how in settings]
        positions = (
            of_rows([work.block_start for work in works], torch.int64) + chosen.index_select(0, at) % block_length
        )
        draw = Draw(of_rows(temperatures, torch.float32), of_rows(seeds, torch.int64), positions)
        found = row_statistics(drawn, logits.shape[-1], draw=draw).drawn
        assert found is not None
        token.index_copy_(0, at, found)
