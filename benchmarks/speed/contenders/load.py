"""The load of a contender, and the figures that it reports."""

import random
from dataclasses import dataclass, replace

BLOCK = 32

Sample = dict[str, float]
Round = dict[str, Sample]


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of random prompts, sent together or as streams.

    Attributes:
        prompts: tokens of each prompt.
        new_tokens: exact number of generated tokens per prompt.
        steps_per_block: denoise steps per block of 32; the engine finalizes equal shares. 32 means one token per
            forward.
        streams: how many requests run at a time; ``None`` runs all at once.
    """

    prompts: tuple[int, ...]
    new_tokens: tuple[int, ...]
    steps_per_block: int = BLOCK
    streams: int | None = None

    @classmethod
    def equal(cls, batch: int, prompt: int, new_tokens: int, steps_per_block: int = BLOCK) -> "Load":
        """``batch`` requests of the same size."""
        return cls((prompt,) * batch, (new_tokens,) * batch, steps_per_block)

    @classmethod
    def steady(cls, streams: int, prompt: int, new_tokens: int, steps_per_block: int, per_stream: int = 5) -> "Load":
        """``per_stream`` requests per stream, with 0.5 to 1.5 times ``new_tokens`` tokens, so that none run in
        lockstep.
        """
        blocks = new_tokens // BLOCK
        lengths = [max(1, round(blocks * share)) * BLOCK for share in (1.0, 0.5, 1.5, 0.75, 1.25)]
        count = streams * per_stream
        new = tuple(lengths[(index + index // len(lengths)) % len(lengths)] for index in range(count))
        return cls((prompt,) * count, new, steps_per_block, streams)

    @property
    def tokens(self) -> int:
        """Generated tokens of all requests."""
        return sum(self.new_tokens)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step finalizes per block."""
        return -(-BLOCK // self.steps_per_block)

    def one_block(self) -> "Load":
        """The same prompts with one block each, for warm-up."""
        return replace(self, new_tokens=(BLOCK,) * len(self.prompts))


class Prompts:
    """Draws random prompts without common prefixes, so that no prefix cache can help."""

    def __init__(self, vocab_size: int) -> None:
        self._rng, self._last = random.Random(0), vocab_size - 16

    def draw(self, length: int) -> list[int]:
        """The ids of a new prompt."""
        return [self._rng.randrange(16, self._last) for _ in range(length)]

    def draw_all(self, load: Load) -> list[list[int]]:
        """New prompts for a load."""
        return [self.draw(length) for length in load.prompts]


def sample(seconds: float, tokens: int, forwards: int, **more: float) -> Sample:
    """A contender's figures for one repetition."""
    return {
        "seconds": seconds,
        "tokens": tokens,
        "forwards": forwards,
        "tokens_per_s": tokens / seconds,
        "seconds_per_forward": seconds / max(1, forwards),
        **more,
    }


class Unavailable(RuntimeError):
    """A contender cannot take part; the message is a sentence for the result."""
