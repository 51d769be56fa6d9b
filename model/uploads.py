"""Arrays of the host on the device: a step's are copied together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# An array of the host as a tensor of the same shape and dtype on the device.
Place = Callable[[NDArray[Any]], Tensor]

_ALIGNED = 16
_RING = 4  # Steps that may be under way before a buffer of the host is written again.
_CAPACITY = 2**18
HOST_BYTES = _RING * _CAPACITY


def place_on(device: torch.device) -> Place:
    """Copies each array by itself."""
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)


class Uploads:
    """Gathers a step's arrays in pinned memory, and copies them together, without waiting.

    ``place`` says where on the device an array will lie; it is there for whatever is launched behind ``send``. Memory
    on the device is new in each step, so tensors of earlier steps stay as they are, unless a buffer is given.

    Args:
        device: where to; the CPU in tests of what uses this.
        capacity: bytes of a step; what exceeds them makes a copy more, and room for the next time.
    """

    def __init__(self, device: torch.device, capacity: int = _CAPACITY) -> None:
        self._device, self._pinned = device, device.type == "cuda"
        self._ring = [self._host(capacity) for _ in range(_RING)]
        self._events: list[torch.cuda.Event | None] = [None] * _RING
        self._turn = 0
        self.begin()

    @property
    def capacity(self) -> int:
        """Bytes of the buffer of this step."""
        return len(self._ring[self._turn])

    def buffer(self, capacity: int) -> Tensor:
        """[capacity] uint8 on the device, to give to ``begin``."""
        return torch.empty(capacity, dtype=torch.uint8, device=self._device)

    @property
    def used(self) -> int:
        """Bytes that are taken so far."""
        return self._used

    def begin(self, target: Tensor | None = None, used: int = 0) -> None:
        """Begins a step whose arrays go to ``target``, behind its first ``used`` bytes.

        It waits where the next buffer of the host is still being read.
        """
        self._turn = (self._turn + 1) % _RING
        self._wait()
        if target is not None and len(target) > self.capacity:
            self._ring[self._turn] = self._host(len(target))
        self._target = self.buffer(self.capacity) if target is None else target
        self._sent = self._used = used

    def place(self, array: NDArray[Any]) -> Tensor:
        """See ``Place``."""
        array = np.ascontiguousarray(array)
        if self._used + array.nbytes > min(self.capacity, len(self._target)):
            self._grow(array.nbytes)
        begin, end = self._used, self._used + array.nbytes
        self._used = -(-end // _ALIGNED) * _ALIGNED
        given = torch.from_numpy(array)
        self._ring[self._turn][begin:end].view(given.dtype).view(given.shape).copy_(given)
        return self._target[begin:end].view(given.dtype).view(given.shape)

    def send(self) -> None:
        """Copies what was placed since ``begin`` or the last ``send``."""
        part = slice(self._sent, min(self._used, self.capacity, len(self._target)))
        self._sent = self._used
        if part.start >= part.stop:
            return
        self._target[part].copy_(self._ring[self._turn][part], non_blocking=self._pinned)
        if self._pinned:
            event = self._events[self._turn] = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()

    def _grow(self, needed: int) -> None:
        self.send()
        self._wait()
        self._ring[self._turn] = self._host(2 * (self.capacity + needed))
        self._target = self.buffer(self.capacity)
        self._sent = self._used = 0

    def _wait(self) -> None:
        event, self._events[self._turn] = self._events[self._turn], None
        if event is not None:
            event.synchronize()

    def _host(self, capacity: int) -> Tensor:
        return torch.empty(capacity, dtype=torch.uint8, pin_memory=self._pinned)
