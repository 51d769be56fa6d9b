"""Verifies drafted tokens with the clean rows of a forward, and reads the next drafts off its masked rows.

The clean row of each token predicts the next one exactly, as in a step without drafts: the answer is the tokens that
these rows predict, as long as the candidates in front of them agree. Draws are compared as well: their noise depends on
seed and position alone (docs/sampling.md), so a draft is accepted if and only if a step without drafts would have drawn
that token. Masked rows draw with the noise of their positions too, which makes agreement likely.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.chained import ChainedDrafts, Group
from cdlm.model.decoding.denoiser import Denoiser
from cdlm.model.decoding.logits.logprobs import token_logprobs, token_score
from cdlm.model.decoding.logits.reader import DrawSettings
from cdlm.model.decoding.processors.logprobs import Logprobs
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.decoding.settings import BlockStart
from cdlm.model.network.chain import Chain
from cdlm.model.network.transformer import Transformer
from cdlm.model.readback import Readback
from cdlm.model.row import NOT_FINITE, RowResult, RowWork, TokenScore
from cdlm.model.uploads import Place, place_on

logger = logging.getLogger(__name__)

_WIDTH = 1 << 16  # More positions than a draft has; ``LogitReader`` takes them as the length of a block.


@dataclass(frozen=True, slots=True)
class _Part:
    """Consecutive hidden states of a step that are read together: the clean or the masked rows of one request."""

    work: RowWork
    begin: int
    offsets: list[int]  # Of the predicted positions, from ``work.block_start`` on.


@dataclass(frozen=True, slots=True)
class VerifyInputs:
    """What a step needs of the host to verify drafts.

    Attributes:
        works: the rows with drafts.
        free: whether each row's tokens do not depend on edits of logits, which need the tokens before them.
        parts: what is read together, for all rows at once.
        index: [positions] int64, which hidden states these are.
        chosen: [positions] int64, part times ``_WIDTH`` plus offset.
        drawing: how many of the parts draw: all, or those of clean rows if drafts are chained.
        draws: how rows draw; ``None`` if none does, or if the host draws.
    """

    works: list[RowWork]
    free: list[bool]
    parts: list[_Part]
    index: Tensor
    chosen: Tensor
    drawing: int
    draws: DrawSettings | None


class Verifier:
    """Verifies the drafts of a step; the rows are autoregressive, with blocks of one token."""

    def __init__(
        self, transformer: Transformer, manifest: Manifest, denoiser: Denoiser, chain: Chain | None = None
    ) -> None:
        self.transformer, self.manifest, self.denoiser = transformer, manifest, denoiser
        self.rows, self.reader = denoiser.rows, denoiser.reader
        self._chained = None
        if chain is not None:
            self._chained = ChainedDrafts(chain, transformer.embed_tokens, self.reader, _WIDTH)
        (self._logprobs,) = (each for each in self.rows.processors if isinstance(each, Logprobs))

    def inputs(self, works: list[RowWork], place: Place) -> VerifyInputs:
        """Places what ``verify`` needs; its hidden states are the clean rows of all drafts, then their masked rows."""
        free = [all(each is self._logprobs for each in self.rows.wanted([work])) for work in works]
        parts: list[_Part] = []
        begin = 0
        for work, joint in zip(works, free, strict=True):
            assert work.draft is not None
            count = len(work.draft.behind)
            if joint:
                parts.append(_Part(work, begin, list(range(count))))
            begin += count
        drawing = len(parts)
        for work in works:
            assert work.draft is not None
            offsets = [first + 1 + row for first, rows in enumerate(work.draft.behind) for row in range(rows)]
            if offsets:
                parts.append(_Part(work, begin, offsets))
            begin += len(offsets)
        if self._chained is None:
            drawing = len(parts)
        index = [part.begin + row for part in parts for row in range(len(part.offsets))]
        chosen = [number * _WIDTH + offset for number, part in enumerate(parts) for offset in part.offsets]
        return VerifyInputs(
            works,
            free,
            parts,
            place(np.array(index, dtype=np.int64)),
            place(np.array(chosen, dtype=np.int64)),
            drawing,
            self.reader.draw_settings([part.work for part in parts[:drawing]], place),
        )

    def verify(self, inputs: VerifyInputs, hidden: Tensor) -> list[RowResult]:
        """Verifies and drafts: hidden [clean rows of all drafts and masked rows, hidden_size] -> results in order.

        Changes the canvas only once nothing can fail any more, so that the step can be repeated.
        """
        read = hidden.index_select(0, inputs.index)
        tokens, broken, logits = self._read(inputs, read)
        clean: dict[int, int] = {}  # Row in the canvas -> where its clean rows begin in what was read;
        masked: dict[int, int] = {}  # and its masked rows.
        begin = 0
        for part in inputs.parts:
            (masked if part.offsets[0] else clean)[part.work.row] = begin
            begin += len(part.offsets)
        results: dict[int, list[RowResult]] = {}
        for work, free in zip(inputs.works, inputs.free, strict=True):
            if free:
                first = clean[work.row]
                results[work.row] = self._accept(work, tokens[first:], broken[first:], logits, first)
        bound = [work for work, free in zip(inputs.works, inputs.free, strict=True) if not free]
        results |= self._one_by_one(inputs.works, bound, hidden)
        groups = [self._group(work, results[work.row], masked.get(work.row, 0)) for work in inputs.works]
        if self._chained is None:
            drafted = [tokens[group.begin : group.begin + group.count] for group in groups]
        else:
            drafted = self._chained.follow(groups, read, logits)
        return [self._joined(work, results[work.row], mine) for work, mine in zip(inputs.works, drafted, strict=True)]

    def propose(self, work: RowWork, accepted: list[int], drafted: list[int]) -> list[int]:
        """The tokens to verify in the next step, behind the tokens ``accepted`` in this one; measurements replace it.

        Args:
            work: the row's work in this step.
            accepted: tokens from ``work.block_start`` on.
            drafted: what the masked rows behind them predict.
        """
        del work, accepted
        return drafted

    def _read(self, inputs: VerifyInputs, hidden: Tensor) -> tuple[list[int], list[int], Tensor]:
        """Token of each position that is read together, whether its logits are not finite, and the logits
        [positions, vocab]: hidden [positions, hidden_size].
        """
        parts, mask = inputs.parts[: inputs.drawing], self.manifest.mask_token_id
        logits = self.transformer.logits(hidden)
        if mask < logits.shape[-1]:
            logits[:, mask] = float("-inf")
        top, token = logits.max(-1)
        counts = [len(part.offsets) for part in parts]
        drawn = sum(counts)
        step = Step([part.work for part in parts], counts, inputs.chosen[:drawn])
        step.logits, step.token = logits[:drawn], token[:drawn]
        self.reader.draw(step, inputs.draws, _WIDTH)
        token = torch.cat((step.token, token[drawn:]))
        # The largest logit is NaN if any is, and infinite if any is +inf or all are -inf.
        figures = torch.stack((token, top.isfinite().logical_not().long()))
        found, broken = Readback(figures).read()
        return found, broken, logits

    def _accept(
        self, work: RowWork, tokens: list[int], broken: list[int], logits: Tensor, first: int
    ) -> list[RowResult]:
        """The results of a row's blocks, from the tokens that its clean rows predict; they are ``logits[first:]``."""
        assert work.draft is not None
        results: list[RowResult] = []
        for candidate in [*work.draft.candidates, None]:
            place = len(results)
            if broken[place]:
                break
            token = tokens[place]
            stop = 0 if token in self.rows.canvas.stop_tokens[work.row] else 1
            results.append(RowResult([token], frontier=1, stop=stop, finalized=1, steps=1))
            if token != candidate or not stop:
                break
        if not results:
            return [RowResult([tokens[0]], frontier=1, stop=1, finalized=1, steps=1, error=NOT_FINITE)]
        top = self._logprobs.states.get(work.row)
        if top is not None:
            scores = self._scores(logits[first : first + len(results)], results, top)
            results = [replace(result, scores={0: score}) for result, score in zip(results, scores, strict=True)]
        return results

    def _scores(self, logits: Tensor, results: Sequence[RowResult], top: int) -> list[TokenScore]:
        tokens = torch.tensor([result.tokens[0] for result in results], device=logits.device)
        lines = token_logprobs(logits, tokens, self.manifest.mask_token_id, top).tolist()
        return [token_score(line, top, top) for line in lines]

    def _one_by_one(self, works: list[RowWork], bound: list[RowWork], hidden: Tensor) -> dict[int, list[RowResult]]:
        """The results of rows whose logits are edited: token by token, as in steps without drafts, but for all rows
        together and without a forward.
        """
        begins = np.cumsum([0, *(len(work.draft.behind) for work in works if work.draft)]).tolist()
        begin = {work.row: first for work, first in zip(works, begins, strict=False)}
        results: dict[int, list[RowResult]] = {work.row: [] for work in bound}
        alive, place = bound, 0
        while alive:
            try:
                found = self._decide(alive, hidden, [begin[work.row] + place for work in alive], place)
            except torch.AcceleratorError:
                raise
            except Exception as error:
                if not place:
                    raise
                # What was decided stands. The next step computes this token once more, and fails for all to see.
                logger.warning("a draft could not be verified to its end: %r", error)
                break
            going: list[RowWork] = []
            for work, result in zip(alive, found, strict=True):
                assert work.draft is not None
                if result.error is not None and place:
                    continue
                results[work.row].append(result)
                candidates, token = work.draft.candidates, result.tokens[0]
                start = self.rows.starts[work.row]
                if result.error or not result.stop or place >= len(candidates) or token != candidates[place]:
                    continue
                if start.left > 1:
                    following = BlockStart([], [*start.generated, token], start.left - 1, {})
                    self.rows.open_block(work.row, following)
                    going.append(work)
            alive, place = going, place + 1
        return results

    def _decide(self, works: list[RowWork], hidden: Tensor, index: list[int], place: int) -> list[RowResult]:
        """One step of rows of which hidden[index] predict the only position of the current block."""
        canvas, bring = self.rows.canvas, place_on(hidden.device)
        canvas.write_new(bring)()
        at = [replace(work, clean=[], draft=None, block_start=work.block_start + place) for work in works]
        rows = bring(np.array([work.row for work in works]))
        inputs = self.denoiser.inputs(at, bring)
        decision = self.denoiser.decide(inputs, rows, None, hidden.index_select(0, bring(np.array(index))))
        results = self.denoiser.results(decision)
        canvas.write(decision.rows, decision.tokens, decision.masked)
        canvas.count(at, results)
        return results

    def _group(self, work: RowWork, results: list[RowResult], begin: int) -> Group:
        """The masked rows behind a row's last accepted candidate; ``begin`` is where its masked rows begin."""
        assert work.draft is not None
        behind, accepted = work.draft.behind, len(results) - 1
        last = results[-1].tokens[0]
        return Group(work, last, begin + sum(behind[:accepted]), behind[accepted], accepted + 1)

    def _joined(self, work: RowWork, results: list[RowResult], drafted: list[int]) -> RowResult:
        """One result of a row's step: its first block, those that follow, and what was drafted behind them."""
        first, *following = results
        tokens = [result.tokens[0] for result in results]
        return replace(first, following=following, drafted=self.propose(work, tokens, drafted))
