"""Runs the rows of a step: opens blocks on the canvas, builds each row's work, and runs one forward."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import Draft, Guidance, RowResult, RowWork
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.blocks import clean_spans
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.steps.batch import Done
from cdlm.scheduler.steps.faults import Fault, attempt, run_apart
from cdlm.scheduler.steps.threads import Threads


class RowSteps:
    """Runs steps of requests with one row each; a row whose work raises fails alone."""

    def __init__(self, runner: ModelRunner, threads: Threads) -> None:
        self.runner, self.manifest, self.threads = runner, runner.manifest, threads
        self.halved = 0  # How often the last step was halved for want of memory.
        self.parameters = sum(shape.numel() for shape in runner.transformer.stored_shapes().values())

    def step(self, sequences: list[Sequence], drafts: Mapping[Sequence, Draft]) -> list[tuple[Sequence, Done | Fault]]:
        """Runs one forward over all sequences, or over parts of them if one raises; returns results in order."""
        works = [attempt("opening a row", partial(self._work, sequence, drafts)) for sequence in sequences]
        sound = [work for work in works if not isinstance(work, Fault)]
        tokens = sum(work.tokens(self.manifest.block_length) for work in sound)
        self.halved = 0
        with self.threads.worth(tokens * self.parameters):
            results = iter(run_apart("a step", sound, self.runner.step, self._count_halved))
        return [
            (sequence, work if isinstance(work, Fault) else _done(work, next(results)))
            for sequence, work in zip(sequences, works, strict=True)
        ]

    def border(self, sequence: Sequence) -> Tensor:
        """Copies the hidden state [hidden] of the last known token of a request with a row."""
        assert sequence.row is not None
        return self.runner.border(sequence.row)

    def _count_halved(self) -> None:
        self.halved += 1

    def leave(self, sequence: Sequence) -> None:
        """Closes a request's row, before its row and pages are released."""
        assert sequence.row is not None
        self.runner.rows.close(sequence.row)
        if sequence.staged is not None or sequence.fresh:
            self.clear(sequence)

    def clear(self, sequence: Sequence) -> None:
        """Zeroes keys and values that have produced no finite logits yet, since they may not be finite."""
        start = sequence.stored if sequence.fresh else sequence.computed
        for table in sequence.tables:
            attempt("clearing pages", partial(self.runner.clear, table, start))

    def check(self, running: list[Sequence]) -> None:
        """Asserts that host and device agree about the rows of ``running``, and that other rows have no state."""
        having = [(sequence.row, sequence) for sequence in running if sequence.row is not None]
        self.runner.rows.check(
            [row for row, sequence in having if sequence.row_open],
            {row: self._start(sequence) for row, sequence in having if sequence.block_open},
        )

    def _work(self, sequence: Sequence, drafts: Mapping[Sequence, Draft]) -> RowWork:
        """Opens the block if it is new; returns the work of this request."""
        assert sequence.row is not None
        if not sequence.block_open:
            self._open_block(sequence, sequence.row)
        clean = clean_spans(
            sequence.token_ids, sequence.computed, sequence.block_start, sequence.prompt_length, self.manifest
        )
        # If the commit pass gives the block's first token, the block is denoised only after it.
        committed = bool(clean) or sequence.fresh
        alone = self.manifest.first_token == "autoregressive" and committed and not sequence.given
        return RowWork(
            sequence.row,
            sequence.pages,
            clean,
            sequence.block_start,
            denoise=not alone,
            sampling=sequence.params if sequence.params.sampled else None,
            needs_entropy=sequence.rule.name == "entropy_bound",
            guidance=(
                Guidance(sequence.params.guidance_scale, sequence.second_pages, sequence.prompt_length)
                if sequence.guided
                else None
            ),
            draft=drafts.get(sequence) if clean else None,
            by_guide=sequence.rule.name == "guide",
            before=self._before(sequence),
        )

    def _before(self, sequence: Sequence) -> int | None:
        """The token in front of the block, if there are a guide model and such a token."""
        guided = self.runner.guiding is not None and sequence.block_start > 0
        return sequence.token_ids[sequence.block_start - 1] if guided else None

    def _open_block(self, sequence: Sequence, row: int) -> None:
        if not sequence.row_open:
            settings = RowSettings(
                params=sequence.params,
                rule=sequence.rule,
                max_steps=sequence.max_steps,
                stop_ids=sequence.stop_ids,
                prompt_ids=sequence.request.prompt_ids,
                grammar=sequence.grammar,
                logprobs=sequence.request.logprobs,
                border=sequence.border,
                replace_above=sequence.replace_above,
            )
            self.runner.rows.open(row, settings)
            sequence.row_open, sequence.border = True, None
        self.runner.rows.open_block(row, self._start(sequence))
        sequence.logprobs.clear()
        sequence.finalized_at.clear()
        sequence.block_open = True

    def _start(self, sequence: Sequence) -> BlockStart:
        generated = sequence.token_ids[sequence.prompt_length : sequence.block_start]
        return BlockStart(sequence.given, generated, sequence.wanted, sequence.pinned(self.manifest.block_length))


def _done(work: RowWork, result: RowResult | Fault) -> Done | Fault:
    if isinstance(result, Fault):
        return result
    return (work, result) if result.error is None else Fault(result.error)
