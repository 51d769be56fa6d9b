"""The guide model: a small causal model that says how many predictions of a step may be finalized.

It reads what is in front of a block, and the block with the diffusion model's predictions in its masked positions, all
in one forward. At each masked position it makes a choice of its own. The predictions from the left that equal its
choice become tokens, and at least the first prediction does (guided diffusion, after FreeCache, arXiv 2505.21467): the
answer is the diffusion model's, the guide only says how many of its tokens one step decides. The first that differs
waits where others stand before it: it was predicted without them.

The guide's keys and values lie in a pool of its own, under the page numbers of the diffusion model's. Whatever fills a
page of the one with finished positions fills that of the other, so that the scheduler and the prefix cache know one
pool only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory, PagedAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.config import AttentionBackend
from cdlm.model.decoding.logits.reader import DrawSettings, LogitReader
from cdlm.model.decoding.processors.processor import Step, positions
from cdlm.model.forwards.backend import use_backend
from cdlm.model.forwards.staged import StagedForward
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.network.parameters import weights_per_token
from cdlm.model.row import RowWork, Span
from cdlm.model.uploads import Place


class Guiding:
    """Owns the guide model and its cache.

    Args:
        checkpoint: the diffusion model, with a guide.
        cache: the diffusion model's.
        reader: reads the logits of both.
        attention: lays segments out.
        backend: the resolved attention backend.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        cache: PagedCache,
        reader: LogitReader,
        attention: AttentionFactory,
        backend: AttentionBackend,
    ) -> None:
        assert checkpoint.guide is not None
        self.transformer, self.manifest = checkpoint.guide, checkpoint.manifest
        self.reader, self.attention = reader, attention
        use_backend(self.transformer, backend, self.manifest.max_model_len + self.manifest.block_length)
        shape, model = self.transformer.config, checkpoint.transformer.config
        pages = cache.keys.shape[1] // cache.page_size
        self.cache = PagedCache(
            shape, num_pages=pages, page_size=cache.page_size, device=cache.keys.device, dtype=cache.keys.dtype
        )
        self.vocab_size = model.vocab_size
        self._unit = weights_per_token(shape) / weights_per_token(model)

    def stage(self, spans: list[Span], pages: list[int], *, piece: float) -> tuple[StagedForward, float]:
        """The guide's forward over known tokens in pieces, and the work of one of its units; see ``StagedForwards``."""
        ids = [min(token, self.transformer.config.vocab_size - 1) for span in spans for token in span.token_ids]
        causal = [Span(spans[0].start, ids, causal=True)]
        piece /= self._unit
        return StagedForward(causal, pages, self.transformer, self.cache, self.attention, piece=piece), self._unit

    def prepare(self, works: list[RowWork], counts: list[int], place: Place) -> "GuideStep | None":
        """Lays out the guide's forward of a step; ``None`` if it has nothing to compute.

        It computes the known tokens that the step computes, for all rows. The token in front of the block is computed
        again where it is known already: it predicts the block's first token.

        Args:
            works: the step's rows.
            counts: their predicted positions.
            place: brings arrays to the device.
        """
        block = self.manifest.block_length
        segments: list[Segment] = []
        ids: list[int] = []
        holes: list[int] = []
        filled, rows, lasts, reads = [], [], [], []
        asking = [work.by_guide and work.denoise for work in works]
        for row, (work, asks) in enumerate(zip(works, asking, strict=True)):
            known = [token for span in work.clean for token in span.token_ids]
            if not known and work.before is not None:
                known = [work.before]
            # The block's last token predicts nothing that is asked for.
            length = len(known) + (block - 1 if asks else 0)
            reads.append(len(ids) + len(known) - 1)
            if not length:
                continue
            segments.append(Segment(work.block_start - len(known), length, work.pages, causal=True))
            ids += known
            if asks:
                holes += range(len(ids), len(ids) + block - 1)
                filled.append(row)
                ids += [0] * (block - 1)
            rows.append(row)
            lasts.append(len(ids) - 1)
        if not segments:
            return None

        def indices(values: list[int]) -> Tensor:
            return place(np.array(values, dtype=np.int64))

        asked = [count for count, asks in zip(counts, asking, strict=True) if asks]
        asking_works = [work for work, asks in zip(works, asking, strict=True) if asks]
        return GuideStep(
            self,
            attention=self.attention(self.cache, segments, place),
            ids=indices(ids),
            holes=indices(holes),
            filled=indices(filled),
            rows=indices(rows),
            lasts=indices(lasts),
            works=asking_works,
            counts=asked,
            at=place(positions(asking, counts)),
            reads=place(np.repeat(np.array(reads, dtype=np.int64)[asking], asked)),
            begins=place(np.repeat(np.arange(len(asked)) * block, asked)),
            draws=self.reader.draw_settings(asking_works, place) if asking_works else None,
        )


@dataclass(frozen=True, slots=True)
class GuideStep:
    """The guide's forward of one step, laid out; the predictions that it reads are not known yet.

    Attributes (T tokens, R rows that have some, A rows that ask the guide, P predicted positions of these):
        attention: over all T tokens.
        ids: [T] int64, 0 where a token of a block belongs.
        holes: [A * (block - 1)] int64, where these are.
        filled: [A] int64, which of the step's rows ask.
        rows: [R] int64, which of the step's rows have tokens.
        lasts: [R] int64, the last token of each.
        works, counts: of the rows that ask.
        at: [P] int64, which of the step's predicted positions are theirs.
        reads: [P] int64, the token whose hidden state predicts the first position of the block.
        begins: [P] int64, index of the block's first position among those of the A rows.
        draws: how these rows draw; ``None`` if none does, or if the host draws.
    """

    guiding: Guiding
    attention: PagedAttention
    ids: Tensor
    holes: Tensor
    filled: Tensor
    rows: Tensor
    lasts: Tensor
    works: list[RowWork]
    counts: list[int]
    at: Tensor
    reads: Tensor
    begins: Tensor
    draws: DrawSettings | None

    def run(self, step: Step, blocks: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the guide's forward.

        Args:
            step: its predicted tokens are known.
            blocks: [rows, block] int64, the rows' blocks with these in their places.
            masked: [rows, block] bool, positions without a token.

        Returns:
            [rows] int64, on how many masked positions from the left both agree, valid in rows that ask; and [rows]
            bool, whether the guide's hidden states are not finite.
        """
        transformer, block = self.guiding.transformer, blocks.shape[1]
        ids = self.ids.index_copy(0, self.holes, blocks.index_select(0, self.filled)[:, :-1].reshape(-1))
        # Tokens that the guide does not know, the mask in a prompt for one, are its last token.
        ids = ids.clamp(max=transformer.config.vocab_size - 1)
        hidden = transformer(ids, self.attention.positions, self.attention)
        # The last token has seen the others: what is not finite in one of them is not in it either.
        broken = torch.zeros_like(masked[:, 0])
        broken[self.rows] = ~hidden.index_select(0, self.lasts).isfinite().all(-1)
        if not self.works:
            return torch.ones_like(step.chosen[:1]).expand(len(masked)), broken
        chosen = step.chosen.index_select(0, self.at)
        offsets = chosen % block
        choices = self._choices(hidden.index_select(0, self.reads + offsets), self.begins + offsets)
        agreed = torch.ones_like(masked).view(-1)
        agreed[chosen] = choices == step.token.index_select(0, self.at)
        run = agreed.view(masked.shape).cumprod(-1).bool() & masked
        return run.sum(-1), broken

    def _choices(self, asked: Tensor, chosen: Tensor) -> Tensor:
        """The guide's own token at each position, [positions] int64: the most probable one, or a draw with the
        position's noise. The mask token is left out.

        Args:
            asked: [positions, hidden].
            chosen: [positions] int64, index of each among the positions of the rows that ask.
        """
        guiding = self.guiding
        reader, mask = guiding.reader, guiding.manifest.mask_token_id
        if all(work.sampling is None for work in self.works):
            return guiding.transformer.peaks(asked, reader.peaks, mask).token
        logits = guiding.transformer.logits(asked)
        step = Step(self.works, self.counts, chosen)
        # The noise of a token depends on the size of the vocabulary too.
        missing = guiding.vocab_size - logits.shape[-1]
        step.logits = nn.functional.pad(logits, (0, missing), value=float("-inf"))
        _, step.token, _ = reader.statistics(step.logits, mask, needs_entropy=False)
        reader.draw(step, self.draws, guiding.manifest.block_length)
        return step.token
