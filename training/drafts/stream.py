"""The texts of a draft adapter's training."""

import random
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from cdlm.training.batches.rows import Example
from cdlm.training.batches.stream import grouped, resumable
from cdlm.training.config import read_config
from cdlm.training.data.problem import Problem
from cdlm.training.drafts.config import DraftAdapterConfig
from cdlm.training.drafts.rows import DraftRows, can_draft, draft_rows
from cdlm.training.errors import TrainingError
from cdlm.training.natural.config import TaskAdapterConfig
from cdlm.training.natural.mixture import TaskStream
from cdlm.training.natural.problems import situations

_POOL = 20  # Batches.
_KEPT = 24  # Texts that are measured only.


class DraftStream:
    """The endless, reproducible sequence of batches: answers of the model, and rows of a task adapter's mixture.

    Raises:
        ConfigError: the configuration of the task adapter cannot be used.
        TrainingError: a file cannot be used, has no rows, or its rows are longer than a batch.
    """

    def __init__(self, config: DraftAdapterConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.pad_id = config, int(tokenizer.eos_token_id)
        self.texts = TaskStream(read_config(config.tasks, TaskAdapterConfig), config.answers, tokenizer)
        room = config.optimization.tokens_per_batch - config.groups * config.window
        self._longest = min(config.longest, room)
        if self._longest < 16:
            raise TrainingError("tokens_per_batch has no room for a text of 16 tokens and its groups")
        if not self._encode(self.texts.kept_chat, random.Random(0)):
            raise TrainingError(f"no answer in {config.answers} is of 2 to {self._longest} tokens")

    def batches(self, pool: int, skip: int) -> Iterator[tuple[int, int, DraftRows]]:
        """Yields (pool, index in the pool, batch), starting after ``skip`` batches of ``pool``."""
        return resumable(self._pool, pool, skip)

    def kept(self) -> DraftRows:
        """Texts that no batch has: chat that is kept aside, and situations with numbers of their own."""
        rng = random.Random(f"drafts/{self.config.seed}/kept")
        chat = self._encode(self.texts.kept_chat, rng)
        tasks = self._encode([situations.draw(self.texts.drawn["words"], rng) for _ in range(4 * _KEPT)], rng)
        share = round(_KEPT * self.config.task_share)
        return self._rows([*tasks[:share], *chat[: _KEPT - share]], rng)

    def _pool(self, number: int) -> list[DraftRows]:
        rng = random.Random(f"drafts/{self.config.seed}/{number}")
        budget, extra = self.config.optimization.tokens_per_batch, self.config.groups * self.config.window
        examples: list[Example] = []
        while sum(example.length + extra for example in examples) < _POOL * budget:
            tasks = rng.random() < self.config.task_share
            examples += self._encode([self.texts.draw(rng) if tasks else rng.choice(self.texts.chat)], rng)
        groups = grouped(examples, budget, extra)
        rng.shuffle(groups)
        return [self._rows(group, rng) for group in groups]

    def _encode(self, problems: Sequence[Problem], rng: random.Random) -> list[Example]:
        examples = self.texts.formatter.encode(problems, rng)
        return [example for example in examples if can_draft(example) and example.length <= self._longest]

    def _rows(self, examples: Sequence[Example], rng: random.Random) -> DraftRows:
        config = self.config
        return draft_rows(examples, window=config.window, groups=config.groups, pad_id=self.pad_id, rng=rng)
