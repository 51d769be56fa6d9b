"""The forwards of an engine run, replayed without the engine: the floor that its overhead is measured from.

The only place that looks inside the engine: it listens to the calls of ``runner.transformer`` and its LM head.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import cdlm.model.decoding.logits.reader
from benchmarks.speed.contenders.load import Sample, Unavailable, sample
from cdlm.model.decoding.logits.confidence import peaks_of_head
from cdlm.model.network.head import LmHead, Peaks
from cdlm.model.network.transformer import Attention, Transformer
from cdlm.scheduler.offline import OfflineEngine


@dataclass(slots=True)
class Forward:
    """One call of the transformer, and how many rows the LM head then read.

    ``checksum`` is the sum of the last hidden states, by which a replay is known to be the same computation.
    """

    token_ids: Tensor
    positions: Tensor
    attention: Attention
    head_rows: list[int] = field(default_factory=list)
    checksum: float = 0.0


@dataclass(slots=True)
class Recording:
    """The forwards of a run, in order, with the index tensors that the engine built for them."""

    transformer: Transformer
    tokens: int = 0
    forwards: list[Forward] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Tokens sent through the transformer, all forwards together."""
        return sum(forward.token_ids.numel() for forward in self.forwards)

    @property
    def head_rows(self) -> int:
        """Rows sent through the LM head."""
        return sum(sum(forward.head_rows) for forward in self.forwards)

    @torch.inference_mode()
    def replay(self) -> Sample:
        """Runs the forwards; ``tokens`` are those that the recorded run generated."""
        _wait(self.transformer)
        started = time.perf_counter()
        for forward in self.forwards:
            hidden = self.transformer(forward.token_ids, forward.positions, forward.attention)
            for rows in forward.head_rows:
                self.transformer.logits(hidden[:rows])
        _wait(self.transformer)
        return sample(time.perf_counter() - started, self.tokens, len(self.forwards))

    @torch.inference_mode()
    def attention_seconds(self) -> float:
        """Seconds of a replay that were spent inside attention: writing keys and values, gathering, the product."""
        clock = 0.0
        for forward in self.forwards:
            timed = _TimedAttention(forward.attention, self.transformer)
            self.transformer(forward.token_ids, forward.positions, timed)
            clock += timed.seconds
        return clock

    @torch.inference_mode()
    def verify(self) -> None:
        """Raises ``Unavailable`` unless a replay from the beginning gives the hidden states that the engine saw."""
        if not self.forwards or not self.head_rows:
            raise Unavailable("the engine's forwards could not be recorded")
        for index, forward in enumerate(self.forwards):
            hidden = self.transformer(forward.token_ids, forward.positions, forward.attention)
            if abs(_checksum(hidden) - forward.checksum) > 1e-6 * float(hidden.double().abs().sum()):
                raise Unavailable(f"forward {index} of the replay is not the engine's; it cannot be compared")


class _TimedAttention:
    def __init__(self, inner: Attention, transformer: Transformer) -> None:
        self.inner, self.transformer, self.seconds = inner, transformer, 0.0

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        _wait(self.transformer)
        started = time.perf_counter()
        out = self.inner(layer, query, key, value)
        _wait(self.transformer)
        self.seconds += time.perf_counter() - started
        return out


@contextlib.contextmanager
def recorded(llm: OfflineEngine) -> Iterator[Recording]:
    """Records every forward that the engine makes inside the block."""
    transformer = llm.runner.transformer
    recording = Recording(transformer)

    def before(_module: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named or len(arguments) != 3:
            raise Unavailable("the transformer is called with other arguments than those that can be replayed")
        recording.forwards.append(Forward(*arguments))

    def after(_module: object, _arguments: object, hidden: Tensor) -> None:
        recording.forwards[-1].checksum = _checksum(hidden)

    def called(_module: object, arguments: tuple[Any, ...]) -> None:
        recording.forwards[-1].head_rows.append(arguments[0].shape[0])

    def searched(hidden: Tensor, head: LmHead, mask_token_id: int) -> Peaks:
        # The engine looks for the best token while it multiplies, mostly without a call of the LM head.
        rows = recording.forwards[-1].head_rows
        before = len(rows)
        found = peaks_of_head(hidden, head, mask_token_id)
        rows[before:] = [len(hidden)]
        return found

    hooks = [
        transformer.register_forward_pre_hook(before, with_kwargs=True),
        transformer.register_forward_hook(after),
        transformer.lm_head.register_forward_pre_hook(called),
    ]
    try:
        with patch.object(cdlm.model.decoding.logits.reader, "peaks_of_head", searched):
            yield recording
    finally:
        for hook in hooks:
            hook.remove()


def _checksum(hidden: Tensor) -> float:
    return float(hidden.double().sum())


def _wait(transformer: Transformer) -> None:
    device = transformer.embed_tokens.weight.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
