"""The waiting queue: fair between clients, by priority within a client."""

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from cdlm.scheduler.messages import GenerateRequest, ScoreRequest

# Cost per token: an answer token takes part in several forwards.
_PROMPT_TOKEN, _ANSWER_TOKEN = 1, 2

OLDEST_EVERY = 8
"""One in this many admissions of a client is its oldest request, whatever its priority."""


class Waiting(Protocol):
    """An item of the queue; compared by identity."""

    @property
    def request(self) -> GenerateRequest | ScoreRequest:
        """The request, with its client and priority."""
        ...


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class _Line(Generic[W]):
    """A client's ordinary or long requests, sorted by (priority, arrival number) and by arrival number."""

    by_rank: list[tuple[int, int, W]] = field(default_factory=list)
    by_age: list[tuple[int, W]] = field(default_factory=list)
    listed: bool = False  # Whether the client is in this line's heap.

    def insert(self, number: int, item: W) -> None:
        insort(self.by_rank, (item.request.priority, number, item))
        insort(self.by_age, (number, item))

    def remove(self, number: int, item: W) -> None:
        # Numbers are unique: items are never compared.
        del self.by_rank[bisect_left(self.by_rank, (item.request.priority, number, item))]
        del self.by_age[bisect_left(self.by_age, (number, item))]


@dataclass(slots=True)
class _Client(Generic[W]):
    number: int
    served: int = 0
    waiting: int = 0
    overtaken: int = 0  # Admissions since its oldest request was admitted.
    lines: tuple[_Line[W], _Line[W]] = field(default_factory=lambda: (_Line(), _Line()))  # Ordinary and long ones.

    def oldest(self, long: bool) -> W:
        return min(line.by_age[0] for line in self.lines[: 1 + long] if line.by_age)[1]

    def first(self, long: bool) -> W:
        if self.overtaken + 1 >= OLDEST_EVERY:
            return self.oldest(long)
        return min(line.by_rank[0] for line in self.lines[: 1 + long] if line.by_rank)[2]


@dataclass(slots=True)
class _Place(Generic[W]):
    number: int
    client: _Client[W]
    line: int | None = 0  # Index of the line; ``None`` while set aside.


class FairQueue(Generic[W]):
    """Waiting requests, admitted fairly between clients by virtual token counters (Sheng et al., 2024, arXiv
    2401.00588).

    Each client has a counter of served tokens; the client with the smallest counter is next. A client that returns
    after a pause starts at the level of the others: pauses earn no credit. Preempted requests come first, of any
    client.

    Within a client, lower priority values come first, then older requests: priorities do not affect other clients. One
    admission in ``OLDEST_EVERY`` is the client's oldest request: a request that arrives after n others of its client is
    admitted after at most ``OLDEST_EVERY * (n + 1)`` admissions of that client.

    A request may be **set aside** until the caller puts it back, and may be marked as **long**; the caller decides per
    call whether long requests may be next. All operations are logarithmic in the number of requests and clients.
    """

    def __init__(self) -> None:
        self._resumed: deque[W] = deque()
        self._long_resumed: set[W] = set()
        self._places: dict[W, _Place[W]] = {}
        self._clients: dict[str, _Client[W]] = {}
        # Per line, (served, number, client) of clients with requests in it; ``served`` may be outdated.
        self._heaps: tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]] = ([], [])
        self._count = 0
        self._level = 0  # Counter of the last client in the queue.

    def __len__(self) -> int:
        return len(self._resumed) + len(self._places)

    def __contains__(self, item: object) -> bool:
        return item in self._places or item in self._resumed

    def __iter__(self) -> Iterator[W]:
        """All requests in order of arrival, those set aside included."""
        yield from self._resumed
        yield from self._places

    @property
    def resuming(self) -> bool:
        """Whether a preempted request is waiting."""
        return bool(self._resumed)

    def append(self, item: W) -> None:
        """Queues a new request."""
        name = item.request.client
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(len(self._clients))
        if not client.waiting:
            served = [self._clients[least].served for line in (0, 1) if (least := self._least(line)) is not None]
            client.served = max(client.served, min(served, default=self._level))
        client.waiting += 1
        self._count += 1
        self._places[item] = _Place(self._count, client)
        self._insert(item)

    def appendleft(self, item: W) -> None:
        """Queues a preempted request, before all others."""
        self._resumed.appendleft(item)

    def first(self, *, long: bool = True) -> W | None:
        """The next request; ``None`` if all are set aside or, without ``long``, are long."""
        for item in self._resumed:
            if long or item not in self._long_resumed:
                return item
        names = [name for line in range(1 + long) if (name := self._least(line)) is not None]
        if not names:
            return None
        clients = [self._clients[name] for name in names]
        return min(clients, key=lambda client: (client.served, client.number)).first(long)

    def take(self, item: W, *, long: bool = True) -> None:
        """Removes a request that is admitted; pass the same ``long`` as to ``first``."""
        if item in self._places:
            client = self._places[item].client
            client.overtaken = 0 if client.oldest(long) is item else client.overtaken + 1
        self.remove(item)

    def remove(self, item: W) -> None:
        """Removes a request that was aborted or is admitted out of turn."""
        self._long_resumed.discard(item)
        if item not in self._places:
            self._resumed.remove(item)
            return
        self._withdraw(item)
        client = self._places.pop(item).client
        client.waiting -= 1
        if not client.waiting:
            self._level, client.overtaken = client.served, 0

    def set_aside(self, item: W) -> None:
        """Skips a request until ``put_back``; it keeps its place, and its client keeps its counter."""
        self._withdraw(item)
        self._places[item].line = None

    def put_back(self, item: W) -> None:
        """Undoes ``set_aside``."""
        self._places[item].line = 0
        self._insert(item)

    def mark_long(self, item: W) -> None:
        """Marks a request as long: ``first`` returns it only with ``long``."""
        if item not in self._places:
            self._long_resumed.add(item)
            return
        self._withdraw(item)
        self._places[item].line = 1
        self._insert(item)

    def charge(self, client: str, *, prompt_tokens: int = 0, answer_tokens: int = 0) -> None:
        """Adds served tokens to a client's counter."""
        self._clients[client].served += _PROMPT_TOKEN * prompt_tokens + _ANSWER_TOKEN * answer_tokens

    def _insert(self, item: W) -> None:
        place = self._places[item]
        assert place.line is not None
        line = place.client.lines[place.line]
        line.insert(place.number, item)
        if not line.listed:
            line.listed = True
            heapq.heappush(self._heaps[place.line], (place.client.served, place.client.number, item.request.client))

    def _withdraw(self, item: W) -> None:
        place = self._places[item]
        if place.line is not None:
            place.client.lines[place.line].remove(place.number, item)

    def _least(self, line: int) -> str | None:
        """The client with the smallest counter among those with requests in a line."""
        heap = self._heaps[line]
        while heap:
            served, number, name = heap[0]
            client = self._clients[name]
            if not client.lines[line].by_age:
                heapq.heappop(heap)
                client.lines[line].listed = False
            elif served != client.served:
                heapq.heapreplace(heap, (client.served, number, name))
            else:
                return name
        return None
