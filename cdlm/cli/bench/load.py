"""Runs a load: sends requests at their times and records their results."""

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
    """One request: when it was due, sent and finished, in seconds since the load began.

    Either ``done`` or ``error`` is set.
    """

    due: float
    sent: float
    over: float
    done: Completion | None = None
    error: str | None = None


@dataclass(slots=True)
class Load:
    """The result of a load: requests in order, duration in seconds, and increase of the server's counters."""

    attempts: list[Attempt]
    seconds: float
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def completions(self) -> list[Completion]:
        """The completions of requests that succeeded."""
        return [attempt.done for attempt in self.attempts if attempt.done is not None]

    @property
    def errors(self) -> list[str]:
        """The error messages of requests that failed."""
        return [attempt.error for attempt in self.attempts if attempt.error is not None]


def poisson_arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Times in seconds at which ``count`` requests are due, at ``rate`` per second on average; all 0 if infinite."""
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
    """Sends each body at its time in ``arrivals``; with ``None``, keeps ``concurrency`` requests in flight.

    A failed request becomes an ``Attempt`` with its error; ``on_end`` is called with each attempt.
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
