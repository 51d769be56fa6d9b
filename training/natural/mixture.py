"""The training data of the task adapter."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cdlm.training.batches.rows import Example
from cdlm.training.batches.stream import grouped, resumable
from cdlm.training.data.problem import Problem
from cdlm.training.errors import TrainingError
from cdlm.training.natural.answers import answers_file, read_answers
from cdlm.training.natural.config import Source, TaskAdapterConfig
from cdlm.training.natural.overlap import all_shingles, overlaps
from cdlm.training.natural.problems import requests, situations
from cdlm.training.natural.problems.arithmetic import result_of, worked
from cdlm.training.natural.public import read_gsm8k, read_public

_SHORT_TIMES = 4  # Most people begin with a short question.
KEPT_CHAT = 24  # Prompts at the end of the file, for measuring only.
_BARE = ("What is {}?", "Calculate {}.", "{} = ?", "How much is {}?", "Work out {}.")
_SIGNS = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times", "x"), "/": ("/", "divided by")}


def _times(name: str) -> int:
    return _SHORT_TIMES if name == "short.txt" else 1


def draw_sum(rng: random.Random) -> Problem:
    """Draws a worked sum without a story, to train carrying and borrowing."""
    while True:
        operator = rng.choice("++---**//")
        x, y = rng.randint(2, 99), rng.randint(2, 99)
        if operator == "*":
            y = rng.randint(2, 12)
        elif operator == "/":
            x, y = y * rng.randint(2, 12), y
            x, y = (x, y) if y <= 12 else (x, x // y)
        elif rng.random() < 0.3:
            x = rng.randint(100, 999)
        result = result_of(x, operator, y)
        if result is not None:
            prompt = rng.choice(_BARE).format(f"{x} {rng.choice(_SIGNS[operator])} {y}")
            return Problem("words", prompt, f"{worked(x, operator, y)}.\nThe answer is {result}.", str(result))


@dataclass(frozen=True, slots=True)
class Formatter:
    """Tokenizes problems through the chat template, with or without its system turn."""

    tokenizer: PreTrainedTokenizerBase
    bare_share: float

    def encode(self, problems: Sequence[Problem], rng: random.Random) -> list[Example]:
        """Returns prompts and answers as ids; an answer ends with the end of its turn."""
        texts = [self._prompt(problem.prompt, bare=rng.random() < self.bare_share) for problem in problems]
        texts += [problem.completion for problem in problems]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        end = int(self.tokenizer.eos_token_id)
        pairs = zip(ids[: len(problems)], ids[len(problems) :], strict=True)
        return [Example(prompt, [*answer, end]) for prompt, answer in pairs]

    def _prompt(self, content: str, *, bare: bool) -> str:
        turn = [{"role": "user", "content": content}]
        text = str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        if not bare:
            return text
        before = text[: text.index(content)]  # The last special token in it opens the user's turn.
        return text[max([0, *(before.rfind(token) for token in self.tokenizer.all_special_tokens)]) :]


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """A batch: ``tasks`` are trained on their text, ``chat`` (may be empty) on the base model's distribution."""

    tasks: list[list[Example]]
    chat: list[Example]


class TaskStream:
    """The endless, reproducible sequence of batches of a configuration and the answers in ``directory``.

    Raises:
        TrainingError: a file cannot be used or has no rows.
    """

    def __init__(self, config: TaskAdapterConfig, directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.formatter = config, Formatter(tokenizer, config.bare_share)
        files = config.files
        self.measured: set[tuple[str, ...]] = set()
        for kind, path in sorted(files.measured.items()):
            self.measured |= all_shingles(problem.prompt for problem in read_public(path, kind))
        functions = self._clean(read_answers(answers_file(directory, "functions")))
        asked = requests.training_requests()
        prompts = {problem.prompt for problem in requests.all_problems(asked, requests.TRAINING_WORDINGS, config.seed)}
        kinds = [request for request in asked if requests.teachable(request)]
        self.fixed: dict[Source, list[Problem]] = {
            "references": self._clean(requests.all_problems(kinds, requests.TRAINING_WORDINGS, config.seed)),
            # Answers to requests that are no longer among these are left out: they may be held out now.
            "functions": [row for row in functions if row.check and row.prompt in prompts],
        }
        self.drawn: dict[Source, list[situations.Situation]] = {
            "words": [
                kind for name in situations.training_files() for kind in situations.read_situations(name) * _times(name)
            ],
            "gsm8k": read_gsm8k(files.gsm8k) if files.gsm8k else [],
        }
        chat = read_answers(answers_file(directory, "chat"))
        self.chat, self.kept_chat = chat[:-KEPT_CHAT] + self.fixed["functions"], chat[-KEPT_CHAT:]
        empty = [name for name, rows in (self.fixed | self.drawn).items() if not rows and config.mixture.get(name)]
        if not self.chat or empty:
            missing = ", ".join(empty) or "chat"
            raise TrainingError(f"no rows of {missing}: they come from cdlm train task-answers and from [files]")

    def batches(self, pool: int, skip: int) -> Iterator[tuple[int, int, TaskBatch]]:
        """Yields (pool, index in the pool, batch), starting after ``skip`` batches of ``pool``."""
        return resumable(self._pool, pool, skip)

    def draw(self, rng: random.Random) -> Problem:
        """Draws one problem of the mixture."""
        shares = self.config.mixture
        source = rng.choices(list(shares), list(shares.values()))[0]
        if source not in self.drawn:
            return draw_sum(rng) if source == "sums" else rng.choice(self.fixed[source])
        while overlaps((problem := situations.draw(self.drawn[source], rng)).prompt, self.measured):
            pass
        return problem

    def _pool(self, number: int, size: int = 40) -> list[TaskBatch]:
        """Makes ``size`` batches, each with a group of short rows, a group of long rows, and chat."""
        rng = random.Random(f"natural/{self.config.seed}/{number}")
        budget = self.config.optimization.tokens_per_batch - self.config.chat_tokens
        examples = self.formatter.encode([self.draw(rng) for _ in range(size * budget // 80)], rng)
        groups = grouped(examples, budget // 2)
        half = len(groups) // 2
        low, high = groups[:half], groups[half : 2 * half]
        rng.shuffle(low)
        rng.shuffle(high)
        every = self.config.chat_every
        return [
            TaskBatch([*pair], self._some_chat(rng) if index % every == 0 else [])
            for index, pair in enumerate(zip(low, high, strict=True))
        ]

    def _some_chat(self, rng: random.Random) -> list[Example]:
        chosen: list[Example] = []
        while True:
            (example,) = self.formatter.encode([rng.choice(self.chat)], rng)
            longest = max([example.length, *(other.length for other in chosen)])
            if chosen and longest * (len(chosen) + 1) > self.config.chat_tokens:
                return chosen
            chosen.append(example)

    def _clean(self, problems: list[Problem]) -> list[Problem]:
        return [problem for problem in problems if not overlaps(problem.prompt, self.measured)]
