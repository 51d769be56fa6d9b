"""The requests in flight: sent to the engine process and not finished."""

import asyncio
import time
from collections.abc import Iterable

from cdlm.scheduler.errors import EngineDeadError
from cdlm.scheduler.messages import BlockOutput, GenerateRequest, ScoreRequest

MAX_LIVES = 3  # After this many engines died, a request in all of them is blamed and fails.


class Flight:
    """One request in flight and its outputs; ``begun`` is set once the engine works on it."""

    def __init__(self, request: GenerateRequest | ScoreRequest) -> None:
        self.request = request
        self.begun = False
        self.lives = 1
        self._outputs: asyncio.Queue[BlockOutput | EngineDeadError] = asyncio.Queue()

    async def next(self) -> BlockOutput:
        """Waits for the next output; raises ``EngineDeadError`` if the request failed with its engine."""
        output = await self._outputs.get()
        if isinstance(output, EngineDeadError):
            raise output
        return output

    def put(self, output: BlockOutput | EngineDeadError) -> None:
        """Queues an output for ``next`` to return, or an error to raise."""
        self.begun = True
        self._outputs.put_nowait(output)


class Flights:
    """The requests in flight of one ``EngineClient``. Those not begun survive an engine and are sent to the next."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}
        self.busy_since = 0.0  # ``time.monotonic()`` of the last change from no requests in flight to one.

    def __len__(self) -> int:
        return len(self._flights)

    def open(self, request: GenerateRequest | ScoreRequest) -> Flight:
        """Registers a request that is about to be sent."""
        if not self._flights:
            self.busy_since = time.monotonic()
        flight = self._flights[request.request_id] = Flight(request)
        return flight

    def close(self, flight: Flight) -> None:
        """Removes a request, finished or not."""
        self._flights.pop(flight.request.request_id, None)

    def begin(self, request_ids: Iterable[str]) -> None:
        """Marks requests as begun by the engine."""
        for request_id in request_ids:
            if request_id in self._flights:
                self._flights[request_id].begun = True

    def deliver(self, outputs: Iterable[BlockOutput]) -> None:
        """Passes each output to its request; drops outputs of removed requests."""
        for output in outputs:
            if output.request_id in self._flights:
                self._flights[output.request_id].put(output)

    def fail(self, reason: str, *, queued: bool) -> None:
        """Fails the begun requests and those sent to ``MAX_LIVES`` engines; with ``queued``, all requests."""
        for flight in self._flights.values():
            if queued or flight.begun or flight.lives >= MAX_LIVES:
                flight.put(EngineDeadError(reason))

    def take_again(self) -> list[GenerateRequest | ScoreRequest]:
        """The requests to send to a new engine, in order of arrival."""
        again = [flight for flight in self._flights.values() if not flight.begun]
        for flight in again:
            flight.lives += 1
        return [flight.request for flight in again]
