"""A load on a server: when each request is sent, and what came of it."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from cdlm.cli.bench.client import Completion, CompletionError, Endpoint, complete


@dataclass(slots=True)
class Attempt:
    """One request: when it was due and when it was sent and over, in seconds since the load began.

    Either ``done`` or ``error`` is set.
    """

    due: float
    sent: float
    over: float
    done: Completion | None = None
    error: str | None = None


@dataclass(slots=True)
class Load:
    """What a load came to: its requests in their order, its length in seconds, how the server's counters moved."""

    attempts: list[Attempt]
    seconds: float
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def completions(self) -> list[Completion]:
        """Those that were answered."""
        return [attempt.done for attempt in self.attempts if attempt.done is not None]

    @property
    def errors(self) -> list[str]:
        """What the others failed with."""
        return [attempt.error for attempt in self.attempts if attempt.error is not None]


def poisson_arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which ``count`` requests are due at ``rate`` a second on average; all at once if it is infinite."""
    if math.isinf(rate):
        return [0.0] * count
    gaps = np.random.default_rng(seed).exponential(1.0 / rate, count)
    return [float(due) for due in np.cumsum(gaps)]


async def run_load(
    client: httpx.AsyncClient,
    endpoint: Endpoint,
    bodies: Sequence[dict[str, Any]],
    *,
    arrivals: Sequence[float] | None,
    concurrency: int,
    on_end: Callable[[Attempt], None],
) -> Load:
    """Sends every body at its time in ``arrivals``, or with ``None`` so that ``concurrency`` are in flight.

    A request that fails is an ``Attempt`` with its error; ``on_end`` hears of each as it ends.
    """
    gate = asyncio.Semaphore(len(bodies) if arrivals is not None else concurrency)
    started = time.perf_counter()

    def now() -> float:
        return time.perf_counter() - started

    async def one(number: int, body: dict[str, Any]) -> Attempt:
        due = 0.0
        if arrivals is not None:
            due = arrivals[number]
            await asyncio.sleep(due - now())
        async with gate:
            sent = now()
            attempt = Attempt(due if arrivals is not None else sent, sent, sent)
            try:
                attempt.done = await complete(client, body, endpoint)
            except CompletionError as error:
                attempt.error = str(error)
            attempt.over = now()
        on_end(attempt)
        return attempt

    attempts = await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))
    return Load(list(attempts), now())
