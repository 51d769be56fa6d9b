"""Log-probabilities of the tokens that a step writes, from the logits before any edit (docs/sampling.md)."""

from dataclasses import replace

import torch
from torch import Tensor

from cdlm.model.decoding.logits.logprobs import token_logprobs, token_score
from cdlm.model.decoding.processors.processor import Processor, Step, positions
from cdlm.model.decoding.settings import RowSettings
from cdlm.model.row import RowResult, RowWork, TokenScore
from cdlm.model.uploads import Place


class Logprobs(Processor[int]):
    """Reports log-probabilities; its state per row is the number of alternatives."""

    _at: Tensor  # [asked] int64, which of the step's predicted positions belong to rows that ask,
    _logits: Tensor  # and their logits, [asked, vocab].

    def state(self, settings: RowSettings) -> int | None:
        """The number of alternatives; ``None`` if the row wants no log-probabilities."""
        return settings.logprobs

    def prepare(self, works: list[RowWork], counts: list[int], place: Place) -> None:
        """Places the indices of the positions of rows that ask."""
        self._at = place(positions([work.row in self.states for work in works], counts))

    def edit(self, step: Step) -> None:
        """Copies the unedited logits."""
        self._logits = step.logits.index_select(0, self._at)

    def report(self, step: Step, results: list[RowResult]) -> None:
        """Adds the log-probabilities of the written tokens; needs one more transfer from the device."""
        tops = {index: self.states[work.row] for index, work in enumerate(step.works) if work.row in self.states}
        places, logits = step.chosen.index_select(0, self._at), self._logits
        del self._logits
        # The results are on the host: no need to ask the device.
        count = sum(results[index].finalized + len(results[index].replaced) for index in tops)
        fresh = torch.nonzero_static(step.now.view(-1).index_select(0, places), size=count)[:, 0]
        tokens = step.token.index_select(0, self._at.index_select(0, fresh))
        top = max(tops.values())
        figures = token_logprobs(logits.index_select(0, fresh), tokens, self.canvas.mask_token_id, top)
        scores: dict[int, dict[int, TokenScore]] = {index: {} for index in tops}
        for place, line in zip(places[fresh].tolist(), figures.tolist(), strict=True):
            index, offset = divmod(place, self.canvas.block_length)
            scores[index][offset] = token_score(line, tops[index], top)
        for index, found in scores.items():
            results[index] = replace(results[index], scores=found)
