"""The event loop: arrivals, ends of requests, looks of the autoscaler, replicas that come and go."""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.scaling.autoscaling import Autoscaler
from benchmarks.scaling.replica import Replica
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
    outcome = Outcome()
    route = router(random.Random(seed))
    fleet = [Replica(number, service) for number in range(start)]
    started = {replica.number: 0.0 for replica in fleet}
    numbers = itertools.count(start)
    order = itertools.count()
    ends: list[tuple[float, int, int, Replica]] = []
    open_to = list(fleet)
    busy_before, looked = 0.0, 0.0

    def schedule(replica: Replica) -> None:
        end = replica.next_finish()
        if end < math.inf:
            heapq.heappush(ends, (end, next(order), replica.version, replica))

    def settle(replica: Replica, now: float) -> None:
        for arrival, begun, end in replica.finished:
            outcome.latencies.append(end - arrival.at)
            outcome.waits.append(begun - arrival.at)
        replica.finished.clear()
        if replica.draining and replica.in_hand == 0 and replica.number in started:
            outcome.replica_s += now - started.pop(replica.number)

    def finish_until(now: float) -> None:
        while ends and ends[0][0] <= now:
            end, _, version, replica = heapq.heappop(ends)
            if version == replica.version:  # Else something came in between and a later event stands for it.
                replica.advance(end)
                settle(replica, end)
                schedule(replica)

    def look(now: float) -> None:
        nonlocal open_to, busy_before, looked
        # Brings the time in use of each up to now.
        for replica in fleet:
            if replica.number in started and replica.ready_at <= now:
                version = replica.version
                replica.advance(now)
                settle(replica, now)
                if version != replica.version:  # Rounding may end a request here that was to end just after.
                    schedule(replica)
        serving = [replica for replica in fleet if not replica.draining]
        busy = sum(replica.busy_s for replica in fleet)
        held = sum(1 for replica in serving if replica.ready_at <= now)
        share = (busy - busy_before) / max(1e-9, held * (now - looked))
        busy_before, looked = busy, now
        in_hand = sum(replica.in_hand for replica in fleet)
        outcome.timeline.append((now, len(started), in_hand))
        wanted = scaler.decide(now, len(serving), in_hand, min(1.0, share))
        for _ in range(wanted - len(serving)):
            replica = Replica(next(numbers), service, now + load_s)
            fleet.append(replica)
            started[replica.number] = now
        # The youngest go first: those that still load have cached nothing.
        for replica in sorted(serving, key=lambda item: -item.number)[: max(0, len(serving) - wanted)]:
            replica.draining = True
            settle(replica, now)
        open_to = [replica for replica in fleet if not replica.draining and replica.ready_at <= now]

    next_look = scaler.look_s
    for arrival in trace:
        while next_look <= arrival.at:
            finish_until(next_look)
            look(next_look)
            next_look += scaler.look_s
        finish_until(arrival.at)
        outcome.arrived += 1
        replica = route.choose(arrival, open_to)
        if not replica.offer(arrival, arrival.at):
            outcome.refused += 1
        schedule(replica)
        settle(replica, arrival.at)
    finish_until(math.inf)
    last = max((trace[-1].at, *(replica.now for replica in fleet))) if trace else 0.0
    outcome.replica_s += sum(last - begun for begun in started.values())
    outcome.busy_s = sum(replica.busy_s for replica in fleet)
    outcome.hits = sum(replica.hits for replica in fleet)
    return outcome
