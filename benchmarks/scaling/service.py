"""How long things take on one replica, by the formulas of ``cdlm plan``: bounds at the device's peaks."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from cdlm.cli.plan.capacity import Capacity, request_work
from cdlm.cli.plan.inputs import read_shape
from cdlm.model.roofline.accelerators import find_accelerator
from cdlm.model.roofline.cost import PRECISIONS, Decoding, ModelCost


@dataclass(frozen=True)
class Service:
    """A model on a device under a load of one shape.

    Attributes:
        context: positions a row has cached, taken to be the same for all.
        answer: generated tokens per request.
        max_num_seqs: rows of a batch.
        max_waiting: most waiting requests per replica; more are refused.
    """

    model: str = "dream-7b"
    device: str = "l4"
    context: int = 1024
    answer: int = 256
    tokens_per_forward: float = 4.0
    max_num_seqs: int = 64
    max_waiting: int = 128
    page_size: int = 32
    reserve: float = 0.1
    _prefill: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def forwards(self) -> int:
        """Forwards a request takes."""
        return math.ceil(self.answer / self.tokens_per_forward)

    @cached_property
    def _shape(self) -> tuple[ModelCost, Decoding, str]:
        shape = read_shape(self.model)
        block = shape.manifest.block_length
        blocks = -(-self.answer // block)
        decoding = Decoding(block, self.tokens_per_forward, (blocks - 1) / blocks)
        return ModelCost(shape.config, PRECISIONS["bfloat16"]), decoding, shape.manifest.prompt_attention

    @cached_property
    def forward_s(self) -> tuple[float, ...]:
        """Seconds of a forward by number of rows; index 0 is 0."""
        cost, decoding, _ = self._shape
        roof = find_accelerator(self.device).roof(PRECISIONS["bfloat16"])
        row = cost.student_row(decoding, self.context)
        return (0.0, *(roof.seconds(cost.forward(row, rows)) for rows in range(1, self.max_num_seqs + 1)))

    def prefill_s(self, prompt: int) -> float:
        """Seconds by which a prompt of ``prompt`` tokens delays the batch that it joins."""
        if prompt not in self._prefill:
            cost, decoding, attention = self._shape
            roof = find_accelerator(self.device).roof(PRECISIONS["bfloat16"])
            work = cost.prefill(prompt, attention, decoding.block_length)  # type: ignore[arg-type]
            # It joins a forward that reads the weights anyway.
            self._prefill[prompt] = roof.seconds(work)
        return self._prefill[prompt]

    def requests_per_s(self, prompt: int) -> float:
        """Most requests/s of one replica when no prompt is cached and its batch is full."""
        cost, decoding, attention = self._shape
        roof = find_accelerator(self.device).roof(PRECISIONS["bfloat16"])
        prefill = cost.prefill(prompt, attention, decoding.block_length)  # type: ignore[arg-type]
        row = cost.student_row(decoding, self.context)
        work = request_work(cost, prefill, row, self.answer, decoding, self.max_num_seqs)
        return 1 / roof.seconds(work)

    @cached_property
    def cached_tokens(self) -> int:
        """Prompt tokens that the page pool keeps beside a full batch."""
        cost, decoding, _ = self._shape
        room = Capacity(
            memory_bytes=find_accelerator(self.device).memory_bytes,
            reserve=self.reserve,
            weight_bytes=cost.weight_bytes,
            page_bytes=cost.kv_bytes_per_token * self.page_size,
            page_size=self.page_size,
        )
        running = self.max_num_seqs * -(-(self.context + decoding.block_length) // self.page_size)
        return max(0, room.pages - running) * self.page_size
