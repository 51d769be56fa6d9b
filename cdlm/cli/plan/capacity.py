"""How many requests a device's memory holds, and how many replicas a load needs."""

import math
from dataclasses import dataclass

from cdlm.cli.plan.cost import Decoding, ModelCost
from cdlm.cli.plan.roofline import Roof, Work


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory of one device, and what is left of it for pages of keys and values.

    Attributes:
        memory_bytes: all there is.
        reserve: share of it kept free of weights and pages, for activations and whatever the runtime allocates.
        weight_bytes: weights of one device.
        page_bytes: one page over all layers, keys and values.
        page_size: positions a page holds.
    """

    memory_bytes: float
    reserve: float
    weight_bytes: float
    page_bytes: float
    page_size: int

    @property
    def free_bytes(self) -> float:
        """What is left for pages; negative where the weights do not fit."""
        return self.memory_bytes * (1 - self.reserve) - self.weight_bytes

    @property
    def pages(self) -> int:
        """Whole pages in what is left."""
        return max(0, math.floor(self.free_bytes / self.page_bytes))

    def requests(self, positions: int) -> int:
        """Requests of that many positions that fit at once: a page is never shared."""
        return self.pages // math.ceil(positions / self.page_size)


def request_work(cost: ModelCost, prefill: Work, row: Work, tokens: int, decoding: Decoding, batch: int) -> Work:
    """What a request of ``tokens`` generated ones asks of the device while ``batch`` rows run: a prefill and forwards.

    The prefill joins a forward that reads the weights anyway. The request is in tokens / k forwards and pays one
    part in ``batch`` of the weights each of them reads.
    """
    return prefill + (row + cost.weights.times(1 / batch)).times(tokens / decoding.tokens_per_forward)


def replicas(work: Work, roof: Roof, requests_per_s: float) -> int:
    """Replicas without which the load cannot be served, whatever the implementation: a replica is never idle."""
    return max(1, math.ceil(requests_per_s * roof.seconds(work)))
