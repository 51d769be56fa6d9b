"""Which replica a request goes to."""

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from benchmarks.scaling.replica import Replica
from benchmarks.scaling.trace import Arrival
from deploy.ray.affinity import order, preferred


class Router(Protocol):
    """A policy. ``replicas`` are those that take requests, at least one; another list when they change."""

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
    """The prompt's own replica, or the next in its order while that one has more than ``bound`` times the mean load.

    The rule of ``deploy/ray``, which says where it is from.
    """

    def __init__(self, _: random.Random, bound: float = 1.25) -> None:
        self._bound = bound
        self._fleet: Sequence[Replica] = []
        self._orders: dict[int, list[str]] = {}

    def choose(self, arrival: Arrival, replicas: Sequence[Replica]) -> Replica:
        if replicas is not self._fleet:
            self._fleet, self._orders = replicas, {}
        named = {replica.name: replica for replica in replicas}
        if arrival.prompt not in self._orders:
            self._orders[arrival.prompt] = order(str(arrival.prompt).encode(), named)
        loads = {name: replica.in_hand for name, replica in named.items()}
        return named[preferred(self._orders[arrival.prompt], loads, self._bound)[0]]


ROUTERS: dict[str, Callable[[random.Random], Router]] = {
    "round robin": RoundRobin,
    "power of two": PowerOfTwo,
    "least requests": LeastRequests,
    "prompt affinity": PromptAffinity,
}
