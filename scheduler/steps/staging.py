"""Prefills long prompts in pieces beside the steps of other requests."""

from cdlm.model.runner import ModelRunner
from cdlm.scheduler.blocks import clean_spans
from cdlm.scheduler.sequence import Sequence

# Beside the smallest steps, a staged request gets 1 / _LEAST of its maximum.
_LEAST = 8


class Staging:
    """Advances one staged request at a time, by at most the work of ``max_prefill_tokens`` tokens per step."""

    def __init__(self, runner: ModelRunner, max_prefill_tokens: int) -> None:
        self._runner, self._most = runner, max_prefill_tokens

    def advance(self, sequence: Sequence, beside: int) -> int:
        """Runs pieces of the request's prefill beside a step of ``beside`` tokens; returns their work in tokens.

        They are about half the work of that step, which therefore takes 1.5 times as long.
        """
        manifest, least = self._runner.manifest, self._most / _LEAST
        if sequence.staged is None:
            spans = clean_spans(
                sequence.token_ids, sequence.computed, sequence.block_start, sequence.prompt_length, manifest
            )
            sequence.staged = self._runner.stage(spans, sequence.pages, piece=least)
        work = sequence.staged.advance(min(self._most, max(least, beside / 2)) if beside else self._most)
        if sequence.staged.done:
            sequence.border = sequence.staged.border if manifest.has_border else None
            sequence.computed, sequence.staged, sequence.fresh = sequence.block_start, None, True
            sequence.forwards += 1
        return work
