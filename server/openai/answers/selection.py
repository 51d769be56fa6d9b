"""Selects the answers to return from those that were generated for each prompt."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.answers.vote import Ballot


@dataclass(frozen=True, slots=True)
class Selection:
    """How answers are selected.

    Attributes:
        generated: number of answers per prompt.
        returned: how many of them are returned.
        ballot: elects the one that is returned; ``None``: the mean log-probability selects.
    """

    generated: int
    returned: int
    ballot: Ballot | None = None

    async def select(self, choices: Sequence[Choice]) -> list[Choice]:
        """The finished choices to return, renumbered; raises ``ApiError`` 400 for a vote that takes too long."""
        groups = [choices[start : start + self.generated] for start in range(0, len(choices), self.generated)]
        selected = [choice for group in groups for choice in await self._of(group)]
        for index, choice in enumerate(selected):
            choice.index = index
        return selected

    async def _of(self, group: Sequence[Choice]) -> Sequence[Choice]:
        if self.ballot is not None:
            number, vote = await asyncio.to_thread(self.ballot.count, [choice.text for choice in group])
            group[number].vote = vote
            return [group[number]]
        if self.generated > self.returned:
            return sorted(group, key=lambda choice: -choice.mean_logprob)[: self.returned]
        return group
