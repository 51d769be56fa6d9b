"""Turns problems into batches: formatting, tokenising, bucketing by length; resumable at any batch."""

import itertools
import random
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from training.config import DirectConfig
from training.data.mixture import training_stream
from training.data.problem import Problem
from training.rows import Example, RowBatch, collate, fill_blocks

_SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are cdlm-nano.", "Answer with worked steps.")
_EXAMPLES_A_POOL_ROW = 400  # Tokens a row of [prompt | clean | two noisy copies] takes on average.


class BatchStream:
    """The endless, reproducible sequence of training batches of one configuration."""

    def __init__(
        self, config: DirectConfig, tokenizer: PreTrainedTokenizerBase, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.config = config
        self.rank, self.world_size = rank, world_size
        self.tokenizer = tokenizer
        self.mask_id = int(tokenizer.mask_token_id)
        self.pad_id = int(tokenizer.pad_token_id)
        self.eos_id = int(tokenizer.eos_token_id)

    def batches(self, pool: int = 0, skip: int = 0) -> Iterator[tuple[int, int, RowBatch]]:
        """Yields (pool, index in the pool, this rank's rows), starting behind ``skip`` batches of ``pool``."""
        for number in itertools.count(pool):
            rng = random.Random(f"pool/{self.config.seed}/{number}")
            for index, examples in enumerate(self._pool(number, rng)):
                batch_rng = random.Random(f"masks/{self.config.seed}/{number}/{index}/{self.rank}")
                if number == pool and index < skip:
                    continue
                yield number, index, collate(
                    examples[self.rank :: self.world_size],
                    block_length=self.config.manifest.block_length,
                    mask_id=self.mask_id,
                    pad_id=self.pad_id,
                    rng=batch_rng,
                )

    def example(self, problem: Problem, rng: random.Random) -> Example:
        """A problem as ids: half of the prompts raw, half through the chat template."""
        prompt = self.tokenizer.encode(self._format(problem, rng), add_special_tokens=False)
        answer = self.tokenizer.encode(problem.completion, add_special_tokens=False)
        return Example(prompt, fill_blocks(answer, self.config.manifest.block_length, self.eos_id))

    def _format(self, problem: Problem, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.5:
            return problem.prompt
        messages = [{"role": "user", "content": problem.prompt}]
        if draw < 0.6:
            messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM_PROMPTS)})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)

    def _pool(self, number: int, rng: random.Random) -> list[list[Example]]:
        """Examples of similar length share a batch; the batches of a pool come in random order."""
        budget = self.config.tokens_per_batch
        count = self.config.pool_batches * budget // _EXAMPLES_A_POOL_ROW
        problems = training_stream(f"{self.config.seed}/{number}", dict(self.config.mixture))
        examples = [self.example(problem, rng) for problem in itertools.islice(problems, count)]
        examples.sort(key=lambda example: (len(example.answer), len(example.prompt)))
        groups: list[list[Example]] = [[]]
        for example in examples:
            width = len(example.prompt) + 3 * len(example.answer)
            if groups[-1] and (len(groups[-1]) + 1) * width > budget:
                groups.append([])
            groups[-1].append(example)
        if len(groups[-1]) < self.world_size:  # Every rank needs a row.
            groups.pop()
        rng.shuffle(groups)
        return groups
