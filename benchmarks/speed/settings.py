"""How much is measured: the sizes of loads and the number of repetitions."""

from dataclasses import dataclass

from benchmarks.speed.contenders.load import BLOCK


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes that every comparison of a result shares.

    Attributes:
        repetitions: rounds of a comparison; in a round each contender runs once.
        new_tokens: tokens of an answer, whole blocks.
        batches, prompts: replace each comparison's own batch sizes and prompt lengths; empty leaves them.
        curve: batch sizes of the throughput curve.
        mixed: requests of the mixed load.
        blocks: blocks of the one long request.
        streams, gaps, joins: steady short requests, gaps between their blocks to see, long prompts that join.
        long_prompt: tokens of a joining prompt.
        problems: development problems from which the student's pace is measured.
        threads: of torch, in every process; ``None`` leaves the default.
    """

    repetitions: int = 5
    new_tokens: int = 256
    batches: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    curve: tuple[int, ...] = (1, 4, 16, 64)
    mixed: int = 64
    blocks: int = 64
    streams: int = 8
    gaps: int = 240
    joins: int = 3
    long_prompt: int = 2000
    problems: int = 100
    threads: int | None = None
    device: str = "auto"

    @property
    def largest_batch(self) -> int:
        """Requests that may run at once."""
        return max(64, self.mixed, self.streams + 1, *self.batches, *self.curve)

    @property
    def cache_tokens(self) -> int:
        """Positions of a key-value pool in which no load is ever short of pages."""
        longest = max((512, *self.prompts)) + max(256, self.new_tokens) + 2 * BLOCK
        return self.largest_batch * longest + 2 * (2048 + 2 * BLOCK)


# Few tokens and two rounds: shows that everything works, and nothing about speed.
QUICK = Settings(
    repetitions=2, new_tokens=64, batches=(2,), prompts=(16,), curve=(1, 2), mixed=4, blocks=4, streams=2, gaps=8,
    joins=1, long_prompt=200, problems=4,
)  # fmt: skip
