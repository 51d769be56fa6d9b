"""Drafts of masked rows one behind another: each is chosen by its row and by the token in front of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.logits.reader import DrawSettings, LogitReader
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.network.chain import CANDIDATES, Chain
from cdlm.model.readback import Readback
from cdlm.model.row import RowWork
from cdlm.model.uploads import place_on


@dataclass(frozen=True, slots=True)
class Group:
    """Masked rows behind the last token of a request.

    Attributes:
        work: the request's work in this step.
        last: the last token.
        begin: where the group's rows begin among those that were read.
        count: its rows.
        offset: position of the first drafted token, from ``work.block_start`` on.
    """

    work: RowWork
    last: int
    begin: int
    count: int
    offset: int


class ChainedDrafts:
    """Walks along the groups of a step, all groups together.

    A row's candidates are the most probable tokens by its own logits. A request that samples draws among them, with the
    noise of their positions (docs/sampling.md).

    Args:
        embed: token ids [...] -> embeddings [..., hidden_size].
        reader: draws.
        width: more positions than a group has offsets.
    """

    def __init__(self, chain: Chain, embed: Callable[[Tensor], Tensor], reader: LogitReader, width: int) -> None:
        self._chain, self._embed, self._reader, self._width = chain, embed, reader, width

    def follow(self, groups: Sequence[Group], hidden: Tensor, logits: Tensor) -> list[list[int]]:
        """Returns the drafted tokens of each group, in order.

        Args:
            hidden: [rows, hidden_size], of all rows that were read.
            logits: [rows, vocab], of the same rows.
        """
        longest_first = sorted(range(len(groups)), key=lambda index: -groups[index].count)
        ordered = [groups[index] for index in longest_first if groups[index].count]
        if not ordered:
            return [[] for _ in groups]
        drafted = self._walk(ordered, hidden, logits)
        found: list[list[int]] = [[] for _ in groups]
        for place, index in enumerate(longest_first[: len(ordered)]):
            found[index] = [tokens[place] for tokens in drafted if place < len(tokens)]
        return found

    def _walk(self, groups: list[Group], hidden: Tensor, logits: Tensor) -> list[list[int]]:
        """For each offset in the groups, the tokens of those that reach so far; the longest groups come first."""
        bring = place_on(hidden.device)
        works = [group.work for group in groups]
        steps = np.arange(groups[0].count)[:, None]
        rows = bring(np.array([group.begin for group in groups]) + steps)
        parts = np.arange(len(groups)) * self._width
        chosen = bring(parts + np.array([group.offset for group in groups]) + steps)
        settings = self._reader.draw_settings(works, bring)
        before = bring(np.array([group.last for group in groups]))
        drafted: list[Tensor] = []
        for step, places in enumerate(rows):
            count = sum(group.count > step for group in groups)
            mine, before = places[:count], before[:count]
            scores, ids = logits.index_select(0, mine).float().topk(min(CANDIDATES, logits.shape[-1]))
            change = self._chain(hidden.index_select(0, mine), self._embed(before))
            scores += (self._embed(ids).to(change.dtype) @ change[..., None]).squeeze(-1)
            before = ids.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1)
            if any(work.sampling is not None for work in works[:count]):
                wide = scores.new_full((count, logits.shape[-1]), float("-inf")).scatter_(1, ids, scores)
                before = self._draw(works[:count], wide, before, chosen[step, :count], settings)
            drafted.append(before)
        counts = [len(tokens) for tokens in drafted]
        flat = iter(Readback(torch.cat(drafted)).read())
        return [[next(flat) for _ in range(count)] for count in counts]

    def _draw(
        self, works: list[RowWork], logits: Tensor, token: Tensor, chosen: Tensor, settings: DrawSettings | None
    ) -> Tensor:
        """Replaces the tokens of rows that sample: logits [rows, vocab], token and chosen [rows] -> [rows] int64."""
        step = Step(works, [1] * len(works), chosen)
        step.logits, step.token = logits, token
        self._reader.draw(step, settings, self._width)
        return step.token
