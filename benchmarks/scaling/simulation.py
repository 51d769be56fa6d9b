"""The fleet: requests that arrive, looks of the autoscaler, replicas that come and go."""

import itertools
import math
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from benchmarks.scaling.autoscaling import Autoscaler
from benchmarks.scaling.replica import Replica, Row
from benchmarks.scaling.routing import Router
from benchmarks.scaling.service import Service
from benchmarks.scaling.trace import Arrival


@dataclass(slots=True)
class Outcome:
    """What came of a trace.

    Attributes:
        latencies, waits: seconds from arrival to the end, and to the first forward, of each finished request.
        hits: finished requests whose prompt was cached where they went.
        replica_s: seconds that replicas were held, loading and draining included.
        busy_s: seconds of them in which one computed.
        timeline: (time, replicas held, requests in hand) at each look.
    """

    arrived: int = 0
    refused: int = 0
    hits: int = 0
    latencies: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    replica_s: float = 0.0
    busy_s: float = 0.0
    timeline: list[tuple[float, int, int]] = field(default_factory=list)


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of them do not exceed; not a number without values."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def simulate(
    trace: list[Arrival],
    service: Service,
    router: Callable[[random.Random], Router],
    scaler: Autoscaler,
    start: int,
    load_s: float = 120.0,
    seed: int = 0,
) -> Outcome:
    """Runs the trace to the end of its last request.

    ``start`` replicas are ready at once, later ones take ``load_s`` seconds. A replica that is given up gets no more
    requests, ends those it has and leaves.
    """
    environment = simpy.Environment()
    fleet = _Fleet(environment, service, router(random.Random(seed)), scaler, load_s)
    for _ in range(start):
        environment.process(fleet.replica(0.0))
    arrivals = environment.process(fleet.arrivals(trace))
    environment.process(fleet.looks(arrivals))
    environment.run()
    return fleet.outcome


class _Fleet:
    def __init__(
        self, environment: simpy.Environment, service: Service, route: Router, scaler: Autoscaler, load_s: float
    ) -> None:
        self.outcome = Outcome()
        self._environment = environment
        self._service = service
        self._route = route
        self._scaler = scaler
        self._load_s = load_s
        self._numbers = itertools.count()
        self._held: dict[Replica, simpy.Event] = {}  # And what tells each that it is given up.
        self._ready: list[Replica] = []
        self._over = environment.event()

    def arrivals(self, trace: list[Arrival]) -> Generator[simpy.Event, Any, None]:
        """Hands every request to a replica when its time comes; waits for all at the end."""
        for arrival in trace:
            # Now is a sum of floats and may lie behind a request of the same instant.
            yield self._environment.timeout(max(0.0, arrival.at - self._environment.now))
            self.outcome.arrived += 1
            if not self._route.choose(arrival, self._ready).offer(arrival):
                self.outcome.refused += 1
        for replica in list(self._held):
            yield replica.idle
        self._over.succeed()

    def replica(self, load_s: float) -> Generator[simpy.Event, Any, None]:
        """The life of one replica."""
        replica = Replica(next(self._numbers), self._environment, self._service, self._finished)
        given_up = self._held[replica] = self._environment.event()
        begun = self._environment.now
        if load_s:
            yield self._environment.timeout(load_s) | given_up | self._over
        if not given_up.triggered:
            self._ready = [*self._ready, replica]
            yield given_up | self._over
            self._ready = [other for other in self._ready if other is not replica]
        yield replica.idle
        del self._held[replica]
        self.outcome.replica_s += self._environment.now - begun
        self.outcome.busy_s += replica.busy_s
        self.outcome.hits += replica.hits

    def looks(self, arrivals: simpy.Event) -> Generator[simpy.Event, Any, None]:
        """The autoscaler, until the last request has come."""
        before: dict[Replica, float] = {}
        while True:
            yield self._environment.timeout(self._scaler.look_s) | arrivals
            if arrivals.triggered:
                return
            in_hand = sum(replica.in_hand for replica in self._held)
            self.outcome.timeline.append((self._environment.now, len(self._held), in_hand))
            spent = sum(replica.busy_s - before.get(replica, 0.0) for replica in self._ready)
            before = {replica: replica.busy_s for replica in self._held}
            busy = spent / (len(self._ready) * self._scaler.look_s)
            staying = [replica for replica, given_up in self._held.items() if not given_up.triggered]
            wanted = self._scaler.decide(self._environment.now, len(staying), in_hand, min(1.0, busy))
            for _ in range(wanted - len(staying)):
                self._environment.process(self.replica(self._load_s))
            # The youngest go first: those that still load have cached nothing.
            for replica in staying[wanted:]:
                self._held[replica].succeed()

    def _finished(self, row: Row) -> None:
        self.outcome.latencies.append(self._environment.now - row.arrival.at)
        self.outcome.waits.append(row.started - row.arrival.at)
