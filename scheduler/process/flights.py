"""The requests that the engine process was handed and has not finished."""

import asyncio
import time
from collections.abc import Iterable

from cdlm.scheduler.errors import EngineDeadError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest

MAX_LIVES = 3  # Engine processes that a request is handed to before it is held to be what kills them.


class Flight:
    """One request and what has come back of it; ``begun`` once the engine has begun to work on it."""

    def __init__(self, request: GenerateRequest | ScoreRequest) -> None:
        self.request = request
        self.begun = False
        self.lives = 1
        self._outputs: asyncio.Queue[BlockOutput | EngineDeadError] = asyncio.Queue()

    async def next(self) -> BlockOutput:
        """The next output; raises ``EngineDeadError`` when no more will come because an engine died."""
        output = await self._outputs.get()
        if isinstance(output, EngineDeadError):
            raise output
        return output

    def put(self, output: BlockOutput | EngineDeadError) -> None:
        """Hands over what ``next`` returns or raises."""
        self.begun = True
        self._outputs.put_nowait(output)


class Flights:
    """All of one client's. Those that no engine has begun outlive it: the next one is handed them again."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}
        self._busy_since = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def busy_since(self) -> float:
        """``time.monotonic()`` when the first of those in flight came after there were none."""
        return self._busy_since

    def open(self, request: GenerateRequest | ScoreRequest) -> Flight:
        """Registers a request that is about to be handed over."""
        if not self._flights:
            self._busy_since = time.monotonic()
        flight = self._flights[request.request_id] = Flight(request)
        return flight

    def close(self, flight: Flight) -> None:
        """Forgets a request, finished or not."""
        self._flights.pop(flight.request.request_id, None)

    def begin(self, request_ids: Iterable[str]) -> None:
        """The engine works on these from now on."""
        for request_id in request_ids:
            if request_id in self._flights:
                self._flights[request_id].begun = True

    def deliver(self, outputs: Iterable[BlockOutput]) -> None:
        """Hands every output to its request, if someone still waits for it."""
        for output in outputs:
            if output.request_id in self._flights:
                self._flights[output.request_id].put(output)

    def fail(self, reason: str, *, queued: bool) -> None:
        """Ends those that an engine had begun, and those that too many have died with; with ``queued`` all of them."""
        for flight in self._flights.values():
            if queued or flight.begun or flight.lives >= MAX_LIVES:
                flight.put(EngineDeadError(reason))

    def take_again(self) -> list[GenerateRequest | ScoreRequest]:
        """Those to hand to a new engine, in the order in which they came."""
        again = [flight for flight in self._flights.values() if not flight.begun]
        for flight in again:
            flight.lives += 1
        return [flight.request for flight in again]
