"""Who of those that wait is next: the oldest request of the client that was served least."""

from collections import deque
from collections.abc import Iterator

from scheduler.sequence import Sequence

# What a token costs the client it was served to: one of an answer takes part in several forwards.
_PROMPT_TOKEN, _ANSWER_TOKEN = 1, 2


class FairQueue:
    """Waiting requests, shared fairly between clients by virtual token counters (Sheng et al., 2024, arXiv 2401.00588).

    Every client has a counter of the tokens it was served. The next to be admitted is the oldest request of the client
    with the smallest. Who comes back after a pause starts from the others' level, so that nobody saves up claims.
    Requests that were preempted come first, whoever sent them. With one client it is a plain queue.
    """

    def __init__(self) -> None:
        self._resumed: deque[Sequence] = deque()
        self._queues: dict[str, deque[Sequence]] = {}
        self._served: dict[str, int] = {}
        self._level = 0  # That of the client that was last in the queue.

    def __len__(self) -> int:
        return len(self._resumed) + sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Sequence]:
        """In the order of admission; whoever was yielded last may be removed meanwhile."""
        for sequence in list(self._resumed):
            yield sequence
        passed = dict.fromkeys(self._queues, 0)
        served = {client: self._served[client] for client in self._queues}
        while passed:
            client = min(passed, key=lambda client: served[client])
            queue = self._queues.get(client, ())
            if passed[client] >= len(queue):
                del passed[client]
                continue
            sequence = queue[passed[client]]
            served[client] += _PROMPT_TOKEN * sequence.prompt_length
            yield sequence
            if self._at(client, passed[client]) is sequence:
                passed[client] += 1

    @property
    def resuming(self) -> bool:
        """Whether a request waits that was preempted."""
        return bool(self._resumed)

    def append(self, sequence: Sequence) -> None:
        """Queues a new request."""
        client = sequence.request.client
        if client not in self._queues:
            level = min((self._served[other] for other in self._queues), default=self._level)
            self._served[client] = max(self._served.get(client, 0), level)
            self._queues[client] = deque()
        self._queues[client].append(sequence)

    def appendleft(self, sequence: Sequence) -> None:
        """Queues a request that was preempted, before all others."""
        self._resumed.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a request out."""
        if sequence in self._resumed:
            self._resumed.remove(sequence)
            return
        client = sequence.request.client
        self._queues[client].remove(sequence)
        if not self._queues[client]:
            del self._queues[client]
            self._level = self._served[client]

    def charge(self, client: str, *, prompt_tokens: int = 0, answer_tokens: int = 0) -> None:
        """Books what a client was served."""
        self._served[client] += _PROMPT_TOKEN * prompt_tokens + _ANSWER_TOKEN * answer_tokens

    def _at(self, client: str, index: int) -> Sequence | None:
        queue = self._queues.get(client, ())
        return queue[index] if index < len(queue) else None
