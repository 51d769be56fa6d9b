"""Which replica a request goes to."""

import bisect
import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from benchmarks.scaling.replica import Replica
from benchmarks.scaling.trace import Arrival


class Router(Protocol):
    """A policy. ``replicas`` are those that take requests, at least one; the list changes when they do."""

    def choose(self, arrival: Arrival, replicas: Sequence[Replica]) -> Replica: ...


class RoundRobin:
    """One after the other."""

    def __init__(self, _: random.Random) -> None:
        self._next = 0

    def choose(self, arrival: Arrival, replicas: Sequence[Replica]) -> Replica:  # noqa: ARG002
        self._next += 1
        return replicas[self._next % len(replicas)]


class LeastRequests:
    """The one with the fewest requests in hand, known exactly and at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, arrival: Arrival, replicas: Sequence[Replica]) -> Replica:  # noqa: ARG002
        loads = [replica.in_hand for replica in replicas]
        least = min(loads)
        # Equals are taken from anywhere: else the first replicas get all of a light load.
        start = self._rng.randrange(len(loads))
        try:
            return replicas[loads.index(least, start)]
        except ValueError:
            return replicas[loads.index(least)]


class PowerOfTwo:
    """The less loaded of two drawn at random (Mitzenmacher 2001)."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, arrival: Arrival, replicas: Sequence[Replica]) -> Replica:  # noqa: ARG002
        first, second = self._rng.choice(replicas), self._rng.choice(replicas)
        return first if first.in_hand <= second.in_hand else second


class PromptAffinity:
    """The prompt's replica on a ring of hashes, or the next one with room.

    Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): no replica gets more than ``bound``
    times the mean load, so a prompt that everyone asks spreads over as many replicas as it needs.
    """

    POINTS = 32  # Points a replica has on the ring.

    def __init__(self, _: random.Random, bound: float = 1.25) -> None:
        self._bound = bound
        self._key: tuple[int, ...] = ()
        self._ring: list[tuple[int, int]] = []

    def choose(self, arrival: Arrival, replicas: Sequence[Replica]) -> Replica:
        key = tuple(replica.number for replica in replicas)
        if key != self._key:
            self._key = key
            self._ring = sorted(
                (_point(f"{number}/{point}"), index)
                for index, number in enumerate(key)
                for point in range(self.POINTS)
            )
        most = math.ceil(self._bound * (1 + sum(replica.in_hand for replica in replicas)) / len(replicas))
        at = bisect.bisect_left(self._ring, (_point(f"prompt {arrival.prompt}"), 0))
        for step in range(len(self._ring)):
            replica = replicas[self._ring[(at + step) % len(self._ring)][1]]
            if replica.in_hand < most:
                return replica
        raise AssertionError("every replica is above the mean")


def _point(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


ROUTERS: dict[str, Callable[[random.Random], Router]] = {
    "round robin": RoundRobin,
    "power of two": PowerOfTwo,
    "least requests": LeastRequests,
    "prompt affinity": PromptAffinity,
}
