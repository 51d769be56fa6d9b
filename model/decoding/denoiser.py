"""What a step does behind its forward: finds each position's token, and decides which tokens become final."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.finalize import choose, choose_by_threshold, choose_replaced, first_stop
from cdlm.model.decoding.logits.reader import DrawSettings, LogitReader
from cdlm.model.decoding.processors.guidance import Guide
from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.rows import Rows
from cdlm.model.network.transformer import Transformer
from cdlm.model.readback import Readback
from cdlm.model.row import GUIDE_NOT_FINITE, NOT_FINITE, RowResult, RowWork
from cdlm.model.uploads import Place

if TYPE_CHECKING:
    from cdlm.model.forwards.guiding import GuideStep, Guiding


@dataclass(slots=True)
class StepInputs:
    """The figures of a step's R rows on the device, beside its layout.

    Attributes:
        works: the rows.
        first: [R] int64, offset of each row's first generated position.
        steps_left: [R] int64, the denoise steps that each row's block may still take, this one included.
        processors: those that some row wants, prepared for this step.
        draws: how rows draw their tokens; ``None`` if none does, or if the host draws.
        guide: the guide model's forward of this step, if there is one.
    """

    works: list[RowWork]
    first: Tensor
    steps_left: Tensor
    processors: list[Processor]  # type: ignore[type-arg]
    draws: DrawSettings | None
    guide: "GuideStep | None" = None


@dataclass(slots=True)
class Decision:
    """What a step came to, before the canvas has it.

    Attributes (R rows):
        step: what the processors worked on.
        processors: those that some row wants.
        rows: [R] int64, index of each row in the canvas.
        tokens: [R, block] int64.
        masked: [R, block] bool.
        figures: on their way to the host: [R, ...], see ``Denoiser.results``.
    """

    step: Step
    processors: list[Processor]  # type: ignore[type-arg]
    rows: Tensor
    tokens: Tensor
    masked: Tensor
    figures: Readback = field(repr=False)


class Denoiser:
    """Decides the tokens of a step from its hidden states, and where there is a guide model with its help."""

    def __init__(
        self,
        transformer: Transformer,
        manifest: Manifest,
        rows: Rows,
        reader: LogitReader,
        guiding: "Guiding | None" = None,
    ) -> None:
        self.transformer, self.manifest, self.reader, self.guiding = transformer, manifest, reader, guiding
        self.rows, self.canvas = rows, rows.canvas

    def inputs(self, works: list[RowWork], place: Place) -> StepInputs:
        """Places what the step needs of the host."""
        canvas, wanted, counts = self.canvas, self.rows.wanted(works), self._counts(works)
        for processor in wanted:
            processor.prepare(works, counts, place)
        return StepInputs(
            works,
            first=place(np.array([canvas.first[work.row] for work in works])),
            steps_left=place(np.array([canvas.steps_left(work.row) for work in works])),
            processors=wanted,
            draws=self.reader.draw_settings(works, place),
            guide=None if self.guiding is None else self.guiding.prepare(works, counts, place),
        )

    def decide(
        self,
        inputs: StepInputs,
        rows: Tensor,
        denoised: Tensor | None,
        predicting: Tensor,
        unread: int = 0,
        since: int = 0,
    ) -> Decision:
        """Decides one step of the rows; the canvas is as it was.

        Args:
            inputs: what was placed for this step or for an earlier one of the same rows.
            rows: [rows] int64, index of each row in the canvas.
            denoised: [rows] bool, whether the forward denoised a row; ``None`` if it denoised all.
            predicting: [rows and second passes * block, hidden].
            unread: how many steps' results the host lacks. If any, it has an upper bound of what is masked.
            since: steps of these rows since ``inputs`` was placed.
        """
        works, canvas = inputs.works, self.canvas
        # How many positions have a prediction is known here, so the device need not be asked for it.
        counts = self._counts(works, unread)
        tokens, masked = canvas.tokens.index_select(0, rows), canvas.masked.index_select(0, rows)
        decided = above = None
        predictable = masked
        if any(canvas.replaces[work.row] for work in works):
            above = canvas.replace_above.index_select(0, rows)
            decided = above.isfinite()[:, None] & ~(masked | canvas.known.index_select(0, rows))
            predictable = masked | decided
        if denoised is not None:
            predictable = predictable.clone()
            predictable[:, 1:] &= denoised[:, None]
        # Where there are fewer than the bound says, the rest are an index past the last position.
        chosen = torch.nonzero_static(predictable.view(-1), size=sum(counts), fill_value=masked.numel())[:, 0]
        step, wanted = Step(works, counts, chosen), inputs.processors
        places = chosen.clamp(max=masked.numel() - 1) if unread else chosen
        asked = predicting.index_select(0, places)  # [masked, hidden]
        entropies = None
        if not wanted and all(work.plain for work in works):
            confidence, step.token, _ = self.transformer.peaks(asked, self.reader.peaks, self.manifest.mask_token_id)
        else:
            step.logits = self.transformer.logits(asked)  # [masked, vocab]
            for processor in wanted:
                if isinstance(processor, Guide):
                    step.unprompted = self.transformer.logits(predicting.index_select(0, processor.second_places(step)))
                processor.edit(step)
            confidence, step.token, entropies = self.reader.statistics(
                step.logits, self.manifest.mask_token_id, needs_entropy=any(work.needs_entropy for work in works)
            )
            self.reader.draw(step, inputs.draws, canvas.block_length)
        leading = astray = None
        if inputs.guide is not None:
            blocks = torch.where(predictable, _spread(step.token, chosen, masked.shape), tokens)
            leading, astray = inputs.guide.run(step, blocks, masked)
        sure = _spread(confidence, chosen, masked.shape)
        broken = sure.sum(-1).isnan()  # NaN if a logit is NaN or +inf, or all are -inf.
        step.now = self._rules(step, rows, masked, sure, entropies, leading, inputs.steps_left - since)
        broken = broken if astray is None else torch.where(broken, 1, 2 * astray)
        for processor in wanted:
            processor.decide(step)
        # ``now`` is a subset of ``masked``.
        predicted, replaced = _spread(step.token, chosen, masked.shape), None
        if decided is not None and above is not None:
            replaced = choose_replaced(sure, predicted, tokens, decided, above)
            step.now = step.now | replaced
        tokens, masked = torch.where(step.now, predicted, tokens), masked & ~step.now
        figures = self._figures(works, rows, inputs.first, tokens, masked, broken, replaced)
        return Decision(step, wanted, rows, tokens, masked, figures)

    def results(self, decision: Decision) -> list[RowResult]:
        """Waits for a step's figures, the step's only transfer to the host, and returns its rows' results."""
        canvas, block, works = self.canvas, self.canvas.block_length, decision.step.works
        results = []
        for index, (work, line) in enumerate(zip(works, decision.figures.read(), strict=True)):
            stop, broken, still, tokens = line[0], line[1], line[2 : 2 + block], line[2 + block : 2 + 2 * block]
            replaced = [offset for offset, changed in enumerate(line[2 + 2 * block :]) if changed]
            left, before = sum(still), canvas.left[work.row]
            reached, finalized = still.index(1) if left else block, before - left
            if canvas.replaces[work.row] and not canvas.finished(work.row, left, len(replaced)):
                reached = canvas.first[work.row]
            error = (decision.step.failed.get(index), NOT_FINITE, GUIDE_NOT_FINITE)[broken]
            if error is None and before and not finalized:
                error = "a step finalized none of its tokens"  # The row would loop forever.
            steps = canvas.steps[work.row] + 1
            results.append(RowResult(tokens, reached, stop, finalized, steps, error=error, replaced=replaced))
        for processor in decision.processors:
            processor.report(decision.step, results)
        return results

    def _counts(self, works: list[RowWork], unread: int = 0) -> list[int]:
        """Predicted positions per row; an upper bound if the host lacks the results of ``unread`` steps."""
        return [self._count(work, unread) for work in works]

    def _count(self, work: RowWork, unread: int) -> int:
        if not work.denoise:
            return 1
        canvas = self.canvas
        return canvas.generated[work.row] if canvas.replaces[work.row] else canvas.left[work.row] - unread

    def _figures(
        self,
        works: list[RowWork],
        rows: Tensor,
        first: Tensor,
        tokens: Tensor,
        masked: Tensor,
        broken: Tensor,
        replaced: Tensor | None,
    ) -> Readback:
        """Starts the transfer of [rows, 2 + 2 * block]: first stop, ``broken``, ``masked``, ``tokens``; where a row
        may replace tokens also ``replaced``, [rows, 2 + 3 * block].

        ``broken`` [rows] is 1 where logits are not finite, 2 where the guide is to blame.
        """
        width = max(len(self.canvas.stop_tokens[work.row]) for work in works)
        if width:
            stop = first_stop(tokens, self.canvas.stop_ids[rows, :width], first, masked)
        else:
            stop = torch.full_like(first, self.canvas.block_length)
        parts = (stop[:, None], broken[:, None], masked, tokens)
        return Readback(torch.cat(parts if replaced is None else (*parts, replaced), dim=1))

    def _rules(
        self,
        step: Step,
        rows: Tensor,
        masked: Tensor,
        sure: Tensor,
        entropies: Tensor | None,
        leading: Tensor | None,
        steps_left: Tensor,
    ) -> Tensor:
        """The masked positions that each row's rule finalizes, [rows, block] bool; ``sure`` are confidences."""
        canvas, works, chosen = self.canvas, step.works, step.chosen
        limit = canvas.limit.index_select(0, rows)
        at_least: Tensor | int
        if all(canvas.at_least(work.row) == 1 for work in works):
            at_least = 1  # If this is all that a block needs in each step, so it is in the steps after.
        else:
            remaining = steps_left.clamp(min=1)
            at_least = ((masked.sum(-1) + remaining - 1) // remaining).clamp_(min=1)
        # Rows that replace tokens have predictions at others than masked positions, and there may be no masked one.
        replacing = any(canvas.replaces[work.row] for work in works)
        if all(canvas.by_threshold[work.row] for work in works):
            if not replacing:
                return choose_by_threshold(sure, limit, at_least)
            return choose_by_threshold(sure.masked_fill(~masked, 0.0), limit, at_least) & masked
        predicted = _spread(torch.ones_like(chosen, dtype=torch.bool), chosen, masked.shape) & masked
        wide = None if entropies is None else _spread(entropies, chosen, masked.shape)
        fewest = torch.full_like(steps_left, at_least) if isinstance(at_least, int) else at_least
        return choose(sure, predicted, canvas.rule[rows], limit, fewest, wide, leading)


def _spread(values: Tensor, chosen: Tensor, shape: torch.Size) -> Tensor:
    """``values`` [positions] at ``chosen`` of a tensor of this shape, 0 elsewhere; indices past its end are ignored."""
    wide = values.new_zeros(shape.numel() + 1).index_copy_(0, chosen, values)
    return wide[:-1].view(shape)
