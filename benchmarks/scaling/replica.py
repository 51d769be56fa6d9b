"""One replica: a batch whose forwards take longer the more rows they have, a queue, and a cache of prompts."""

from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import simpy

from benchmarks.scaling.service import Service
from benchmarks.scaling.trace import Arrival


@dataclass(frozen=True, slots=True)
class Row:
    """A request in a batch: its start, and the number of the replica's forward that finishes it."""

    arrival: Arrival
    started: float
    last: int


class Replica:
    """A process of the simulation that does one forward after the other while it has rows.

    Requests join and leave between forwards. A prompt that is not cached makes the next forward longer for all, as in
    the engine, where its prefill is part of a forward.
    """

    def __init__(
        self, number: int, environment: simpy.Environment, service: Service, finished: Callable[[Row], None]
    ) -> None:
        self.number = number
        self.name = f"replica-{number}"
        self.busy_s = 0.0
        self.hits = 0
        self.idle = environment.event()
        self.idle.succeed()
        self._environment = environment
        self._service = service
        self._finished = finished
        self._forwards = 0
        self._running: deque[Row] = deque()  # All take as many forwards, so they end in the order they came in.
        self._waiting: deque[Arrival] = deque()
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._cached = 0

    @property
    def in_hand(self) -> int:
        """Requests waiting and running."""
        return len(self._running) + len(self._waiting)

    def offer(self, arrival: Arrival) -> bool:
        """Accepts a request; returns false if batch and queue are full."""
        if self.in_hand >= self._service.max_num_seqs + self._service.max_waiting:
            return False
        self._waiting.append(arrival)
        if self.idle.triggered:
            self.idle = self._environment.event()
            self._environment.process(self._work())
        return True

    def _work(self) -> Generator[simpy.Event, Any, None]:
        while self.in_hand:
            seconds = self._admit()
            seconds += self._service.forward_s[len(self._running)]
            yield self._environment.timeout(seconds)
            self.busy_s += seconds
            self._forwards += 1
            while self._running and self._running[0].last == self._forwards:
                self._finished(self._running.popleft())
        self.idle.succeed()

    def _admit(self) -> float:
        """Admits waiting requests to the batch; returns the seconds for their prompts."""
        seconds = 0.0
        while self._waiting and len(self._running) < self._service.max_num_seqs:
            arrival = self._waiting.popleft()
            if arrival.prompt in self._cache:
                self._cache.move_to_end(arrival.prompt)
                self.hits += 1
            else:
                seconds += self._service.prefill_s(arrival.tokens)
                self._keep(arrival)
            self._running.append(Row(arrival, self._environment.now, self._forwards + self._service.forwards))
        return seconds

    def _keep(self, arrival: Arrival) -> None:
        self._cache[arrival.prompt] = arrival.tokens
        self._cached += arrival.tokens
        while self._cached > self._service.cached_tokens:
            _, tokens = self._cache.popitem(last=False)
            self._cached -= tokens
