"""How fast a long prompt is computed beside other requests' steps."""

from cdlm.model.runner import ModelRunner
from cdlm.scheduler.blocks import clean_spans
from cdlm.scheduler.sequence import Sequence

# Of what a staged request may take of a step, what it gets beside the smallest.
_LEAST = 8


class Staging:
    """Advances staged requests, one at a time, at most ``max_prefill_tokens`` tokens' work a step."""

    def __init__(self, runner: ModelRunner, max_prefill_tokens: int) -> None:
        self._runner, self._most = runner, max_prefill_tokens

    def advance(self, sequence: Sequence, beside: int) -> int:
        """Takes some pieces of the request's forward; returns how many tokens' work they were.

        Beside a step of ``beside`` tokens it is half as much work as that: who denoises waits half as long again.
        """
        manifest, least = self._runner.manifest, self._most / _LEAST
        if sequence.staged is None:
            spans = clean_spans(
                sequence.token_ids, sequence.computed, sequence.block_start, sequence.prompt_length, manifest
            )
            sequence.staged = self._runner.stage(spans, sequence.pages, piece=least)
        work = sequence.staged.advance(min(self._most, max(least, beside / 2)) if beside else self._most)
        if sequence.staged.done:
            sequence.border = sequence.staged.border if manifest.shift else None
            sequence.computed, sequence.staged, sequence.fresh = sequence.block_start, None, True
            sequence.forwards += 1
        return work
