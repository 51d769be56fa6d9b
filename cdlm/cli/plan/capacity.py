"""Computes how many requests fit into a device, and how many replicas a load needs."""

import math
from dataclasses import dataclass

from cdlm.model.roofline.cost import Decoding, ModelCost
from cdlm.model.roofline.roof import Roof, Work


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory of one device, and its room for KV cache pages.

    Attributes:
        memory_bytes: total memory.
        reserve: share of the memory reserved for activations and the runtime.
        weight_bytes: weights on one device.
        page_bytes: one page over all layers, keys and values.
        page_size: positions per page.
    """

    memory_bytes: float
    reserve: float
    weight_bytes: float
    page_bytes: float
    page_size: int

    @property
    def free_bytes(self) -> float:
        """Bytes left for pages; negative if the weights do not fit."""
        return self.memory_bytes * (1 - self.reserve) - self.weight_bytes

    @property
    def pages(self) -> int:
        """Number of pages that fit."""
        return max(0, math.floor(self.free_bytes / self.page_bytes))

    def requests(self, positions: int) -> int:
        """How many requests of ``positions`` positions fit at once, without shared pages."""
        return self.pages // math.ceil(positions / self.page_size)


def request_work(cost: ModelCost, prefill: Work, row: Work, tokens: int, decoding: Decoding, batch: int) -> Work:
    """Work of a request with ``tokens`` generated tokens, in a batch of ``batch`` rows: prefill and forwards.

    The prefill joins a forward that reads the weights anyway. The request takes part in tokens / k forwards and is
    charged 1 / ``batch`` of the weights that each of them reads.
    """
    read = cost.read(row.tokens * batch)
    return prefill + (row + read.times(1 / batch)).times(tokens / decoding.tokens_per_forward)


def replicas(work: Work, roof: Roof, requests_per_s: float) -> int:
    """Lower bound on the replicas that serve the load: assumes that no replica is ever idle."""
    return max(1, math.ceil(requests_per_s * roof.seconds(work)))
