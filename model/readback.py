"""A tensor on its way from the device to the host."""

from typing import Any

import torch
from torch import Tensor


class Readback:
    """Starts the transfer of ``values`` to the host; what is launched behind it does not delay it."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._there = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()

    def read(self) -> list[Any]:
        """Waits for the transfer; the values as (nested) lists."""
        if self._there is not None:
            self._there.synchronize()
        found: list[Any] = self._values.tolist()
        return found
