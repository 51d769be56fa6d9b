"""Turns problems into groups of examples: formats, tokenizes, groups by length. Resumable at any group."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from cdlm.training.batches.rows import Example
from cdlm.training.data.mixture import training_stream
from cdlm.training.data.problem import Problem, Task

Batch = TypeVar("Batch")
_SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are cdlm-nano.", "Answer with worked steps.")
_MEAN_LENGTH = 96  # Estimated tokens per example; sets how many problems a pool draws.


def format_prompt(problem: Problem, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> str:
    """Formats a prompt: raw or through the chat template, with equal probability."""
    draw = rng.random()
    if draw < 0.5:
        return problem.prompt
    messages = [{"role": "user", "content": problem.prompt}]
    if draw < 0.6:
        messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM_PROMPTS)})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def encode(problems: list[Problem], tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> list[Example]:
    """Tokenizes problems."""
    prompts = [format_prompt(problem, tokenizer, rng) for problem in problems]
    texts = prompts + [problem.completion for problem in problems]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    end = int(tokenizer.eos_token_id)
    answers = ids[len(problems) :]
    return [Example(prompt, [*answer, end]) for prompt, answer in zip(ids, answers, strict=False)]


def grouped(examples: Iterable[Example], budget: int, extra: int = 0) -> list[list[Example]]:
    """Groups examples by length; a group padded to its longest, with ``extra`` more tokens each, has ``budget`` tokens
    at most."""
    groups: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: example.length):
        if groups[-1] and (len(groups[-1]) + 1) * (example.length + extra) > budget:
            groups.append([])
        groups[-1].append(example)
    return groups


def resumable(batches: Callable[[int], Iterable[Batch]], pool: int, skip: int) -> Iterator[tuple[int, int, Batch]]:
    """Yields (pool, index in the pool, batch) of the ``batches`` of pool after pool, without end, starting after
    ``skip`` batches of ``pool``."""
    for number in itertools.count(pool):
        for index, batch in enumerate(batches(number)):
            if number > pool or index >= skip:
                yield number, index, batch


class ExampleStream:
    """The endless, reproducible sequence of example groups of one seed; a group fills ``budget`` tokens."""

    def __init__(
        self, seed: str, mixture: dict[Task, float], tokenizer: PreTrainedTokenizerBase, *, budget: int, pool: int = 50
    ) -> None:
        self.seed, self.mixture, self.tokenizer, self.budget, self.pool = seed, mixture, tokenizer, budget, pool

    def groups(self, pool: int = 0, skip: int = 0) -> Iterator[tuple[int, int, list[Example]]]:
        """Yields (pool, index in the pool, examples), starting after ``skip`` groups of ``pool``."""
        return resumable(self._pool, pool, skip)

    def _pool(self, number: int) -> list[list[Example]]:
        """Examples of similar length share a group; the groups of a pool come in random order."""
        rng = random.Random(f"pool/{self.seed}/{number}")
        count = self.pool * self.budget // _MEAN_LENGTH
        drawn = itertools.islice(training_stream(f"{self.seed}/{number}", self.mixture), count)
        examples = encode(list(drawn), self.tokenizer, rng)
        groups = grouped(examples, self.budget)
        groups.pop()  # The last one is not full.
        rng.shuffle(groups)
        return groups
