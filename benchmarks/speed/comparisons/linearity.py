"""Measures the time of a long request's blocks as the context grows, with and without attention."""

import statistics

from benchmarks.speed.comparisons.comparison import Cell, Run
from benchmarks.speed.contenders.load import BLOCK, Load, Round, Sample, sample
from benchmarks.speed.contenders.raw import Recording
from benchmarks.speed.contenders.workbench import Workbench

REPLAYS = 5  # Replays per block and round, since a block is short.


def linearity_contenders(bench: Workbench, _cell: Cell) -> dict[str, Run]:
    """The engine, block by block, and the attention of its second and last block."""
    engine = bench.offline
    blocks = bench.settings.blocks
    # A prompt of one token leaves the last block all but one of its positions, and so all of its steps.
    tokens = min(blocks * BLOCK, engine.max_model_len - 1)
    load = Load((1,), (tokens,), bench.pace.steps_per_block)
    recordings = engine.record_blocks(load)
    if len(recordings) != blocks:
        raise RuntimeError(f"a request of {tokens} tokens has {len(recordings)} blocks, not {blocks}")
    marks = sorted({*(2**power for power in range(1, 7) if 2**power < blocks), blocks})

    def offline() -> Sample:
        seconds = engine.block_seconds(load)
        series = {f"block_{number}": seconds[number - 1] for number in marks}
        return sample(
            sum(seconds), tokens, sum(len(recording.forwards) for recording in recordings),
            **series, block_last=seconds[-1],
        )  # fmt: skip

    return {"offline": offline, "raw": lambda: _attention(recordings[1], recordings[-1])}


def _attention(second: Recording, last: Recording) -> Sample:
    figures: Sample = {}
    for name, recording in (("2", second), ("last", last)):
        figures[f"forwards_{name}"] = statistics.median(recording.replay()["seconds"] for _ in range(REPLAYS))
        figures[f"attention_{name}"] = statistics.median(recording.attention_seconds() for _ in range(REPLAYS))
    return figures


def without_attention(one: Round) -> float:
    """The ratio of the two blocks' times without attention."""
    offline, raw = one["offline"], one["raw"]
    return (offline["block_last"] - raw["attention_last"]) / (offline["block_2"] - raw["attention_2"])
