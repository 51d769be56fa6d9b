"""One replica: a batch whose forwards take longer the more rows they have, a queue, and a cache of prompts."""

import heapq
import math
from collections import OrderedDict, deque

from benchmarks.scaling.service import Service
from benchmarks.scaling.trace import Arrival


class Replica:
    """Rows share forwards: a request ends when its batch has done as many forwards as it needs.

    Time moves only by ``advance``. A prompt that is not cached holds up the whole batch for as long as its prefill
    takes, as in the engine, where it is part of a forward.
    """

    def __init__(self, number: int, service: Service, ready_at: float = 0.0) -> None:
        self.number = number
        self.ready_at = ready_at
        self.draining = False
        self.in_hand = 0
        self.busy_s = 0.0
        self.version = 0
        self.hits = 0
        self.finished: list[tuple[Arrival, float, float]] = []
        self._service = service
        self._times = service.forward_s
        self.now = ready_at
        self._forwards = 0.0  # Done by the batch since the start.
        self._stall = 0.0  # Seconds of prefill before the next forward.
        self._running: list[tuple[float, int, Arrival, float]] = []
        self._waiting: deque[Arrival] = deque()
        self._order = 0
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._cached = 0

    def offer(self, arrival: Arrival, now: float) -> bool:
        """Takes a request, or refuses it because the queue is full."""
        self.advance(now)
        if len(self._waiting) >= self._service.max_waiting:
            return False
        self.in_hand += 1
        self._waiting.append(arrival)
        self._admit()
        self.version += 1
        return True

    def next_finish(self) -> float:
        """When the next request ends, if nothing comes before; infinity when idle."""
        if not self._running:
            return math.inf
        left = max(0.0, self._running[0][0] - self._forwards)
        return self.now + self._stall + left * self._times[len(self._running)]

    def advance(self, now: float) -> None:
        """Moves to ``now``; requests that end on the way are put into ``finished`` as (arrival, start, end)."""
        while self._running and self.next_finish() <= now:
            end = self.next_finish()
            self._pass(end - self.now)
            # Exactly, whatever the sums of floats gave: so the loop makes progress.
            self._forwards = max(self._forwards, self._running[0][0])
            _, _, arrival, started = heapq.heappop(self._running)
            self.now = end
            self.in_hand -= 1
            self.finished.append((arrival, started, end))
            self._admit()
            self.version += 1
        if now > self.now:
            self._pass(now - self.now)
            self.now = now

    def _pass(self, seconds: float) -> None:
        if not self._running:
            return
        self.busy_s += seconds
        stalled = min(self._stall, seconds)
        self._stall -= stalled
        self._forwards += (seconds - stalled) / self._times[len(self._running)]

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._service.max_num_seqs:
            arrival = self._waiting.popleft()
            if arrival.prompt in self._cache:
                self._cache.move_to_end(arrival.prompt)
                self.hits += 1
            else:
                self._stall += self._service.prefill_s(arrival.tokens)
                self._keep(arrival)
            self._order += 1
            target = self._forwards + self._service.forwards
            heapq.heappush(self._running, (target, self._order, arrival, self.now))

    def _keep(self, arrival: Arrival) -> None:
        self._cache[arrival.prompt] = arrival.tokens
        self._cached += arrival.tokens
        while self._cached > self._service.cached_tokens and self._cache:
            _, tokens = self._cache.popitem(last=False)
            self._cached -= tokens
