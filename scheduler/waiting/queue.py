"""Who of those that wait is next: the first in line of the client that was served least."""

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

# What a token costs the client it was served to: one of an answer takes part in several forwards.
_PROMPT_TOKEN, _ANSWER_TOKEN = 1, 2

OLDEST_EVERY = 8
"""Of so many requests of a client that are admitted, one at least is its oldest, whatever its priority."""


class _Request(Protocol):
    @property
    def client(self) -> str: ...
    @property
    def priority(self) -> int: ...


class Waiting(Protocol):
    """What can be queued; it is told from others by identity."""

    @property
    def request(self) -> _Request:
        """Whose request it is, and its priority."""
        ...


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class _Line(Generic[W]):
    """The requests of a client that wait for the same, sorted twice by (priority, number), and by number."""

    by_rank: list[tuple[int, int, W]] = field(default_factory=list)
    by_age: list[tuple[int, W]] = field(default_factory=list)
    listed: bool = False  # The client is in the heap of this line.

    def insert(self, number: int, item: W) -> None:
        insort(self.by_rank, (item.request.priority, number, item))
        insort(self.by_age, (number, item))

    def remove(self, number: int, item: W) -> None:
        # Numbers differ, so the items themselves are never compared.
        del self.by_rank[bisect_left(self.by_rank, (item.request.priority, number, item))]
        del self.by_age[bisect_left(self.by_age, (number, item))]


@dataclass(slots=True)
class _Client(Generic[W]):
    number: int
    served: int = 0
    waiting: int = 0
    overtaken: int = 0  # Admissions since the one that was its oldest.
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
    line: int | None = 0  # Which one; ``None`` while the request is set aside.


class FairQueue(Generic[W]):
    """Waiting requests, shared fairly between clients by virtual token counters (Sheng et al., 2024, arXiv 2401.00588).

    Every client has a counter of the tokens it was served. The next to be admitted is a request of the client with the
    smallest. Who comes back after a pause starts from the others' level, so that nobody saves up claims. Requests that
    were preempted come first, whoever sent them.

    Which request of the client that is, priorities decide, a lower one first, and among equal ones the age. So a
    priority never touches the share of another client. One in ``OLDEST_EVERY`` is the client's oldest nevertheless: a
    request that finds n others of its client is admitted after no more than ``OLDEST_EVERY * (n + 1)`` of them.

    A request may be **set aside** until something happens that it waits for, and be marked as **long**: the
    caller says each time whether long ones may be next. All work is logarithmic in the number of requests and clients.
    """

    def __init__(self) -> None:
        self._resumed: deque[W] = deque()
        self._long_resumed: set[W] = set()
        self._places: dict[W, _Place[W]] = {}
        self._clients: dict[str, _Client[W]] = {}
        # By line, (served, number, client) of the clients with any in it; ``served`` may have grown since.
        self._heaps: tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]] = ([], [])
        self._count = 0
        self._level = 0  # That of the client that was last in the queue.

    def __len__(self) -> int:
        return len(self._resumed) + len(self._places)

    def __contains__(self, item: object) -> bool:
        return item in self._places or item in self._resumed

    def __iter__(self) -> Iterator[W]:
        """All of them, those set aside too, in the order in which they came."""
        yield from self._resumed
        yield from self._places

    @property
    def resuming(self) -> bool:
        """Whether a request waits that was preempted."""
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
        """Queues a request that was preempted, before all others."""
        self._resumed.appendleft(item)

    def first(self, *, long: bool = True) -> W | None:
        """Who is next; ``None`` if nobody is there but those set aside and, without ``long``, long ones."""
        for item in self._resumed:
            if long or item not in self._long_resumed:
                return item
        names = [name for line in range(1 + long) if (name := self._least(line)) is not None]
        if not names:
            return None
        clients = [self._clients[name] for name in names]
        return min(clients, key=lambda client: (client.served, client.number)).first(long)

    def take(self, item: W, *, long: bool = True) -> None:
        """Takes out a request that is admitted; ``long`` as it was told to ``first``."""
        if item in self._places:
            client = self._places[item].client
            client.overtaken = 0 if client.oldest(long) is item else client.overtaken + 1
        self.remove(item)

    def remove(self, item: W) -> None:
        """Takes out a request that nobody waits for any longer, or that is admitted out of turn."""
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
        """Passes over a request until it is put back; it keeps its place, and its client what it has a claim to."""
        self._withdraw(item)
        self._places[item].line = None

    def put_back(self, item: W) -> None:
        """Ends what ``set_aside`` began."""
        self._places[item].line = 0
        self._insert(item)

    def mark_long(self, item: W) -> None:
        """Passes over a request wherever long ones may not be next."""
        if item not in self._places:
            self._long_resumed.add(item)
            return
        self._withdraw(item)
        self._places[item].line = 1
        self._insert(item)

    def charge(self, client: str, *, prompt_tokens: int = 0, answer_tokens: int = 0) -> None:
        """Books what a client was served."""
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
        """The client served least of those with requests in a line."""
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
