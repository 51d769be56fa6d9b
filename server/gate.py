"""Admission control: how many sequences the server accepts, in all and per API key."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from cdlm.server.access.keys import ApiKey
from cdlm.server.access.quotas import Quota
from cdlm.server.errors import ApiError
from cdlm.server.observe.metrics import Metrics

logger = logging.getLogger(__name__)


class Gate:
    """Counts the sequences in flight, and admits or refuses new ones.

    ``limit`` says how many there may be, which can change when an engine becomes ready.
    """

    def __init__(self, limit: Callable[[], int], metrics: Metrics) -> None:
        self._limit = limit
        self.in_flight = 0
        self.draining = False
        self._quotas: dict[str, Quota] = {}
        self._metrics = metrics
        self._idle = asyncio.Event()
        self._idle.set()
        self.cut_listeners: set[Callable[[ApiError], None]] = set()

    def check_size(self, sequences: int, param: str) -> None:
        """Raises ``ApiError`` 400 that names ``param`` if a request has more sequences than can ever be admitted."""
        if sequences > self._limit():
            message = f"{sequences} sequences are asked for; this server takes at most {self._limit()} at once"
            raise ApiError(400, message, param=param)

    def quota(self, key: ApiKey) -> Quota:
        """The quota of ``key``."""
        return self._quotas.setdefault(key.name, Quota(key))

    @contextmanager
    def admit(
        self, sequences: int, tokens: int = 0, key: ApiKey | None = None, param: str = "max_tokens"
    ) -> Iterator[None]:
        """A context that admits ``sequences`` sequences with ``tokens`` tokens in all.

        Raises ``ApiError``: 503 while draining, 429 if the queue is full or the quota of ``key`` is used up, 400 if the
        request alone exceeds the quota; it names ``param`` for too many tokens.
        """
        if self.draining:
            self._metrics.rejected("draining")
            raise ApiError(503, "The server is shutting down", retry_after=10)
        if self.in_flight + sequences > self._limit():
            self._metrics.rejected("queue_full")
            raise ApiError(429, "Too many requests are waiting; retry later", retry_after=1)
        with ExitStack() as held:
            try:
                held.enter_context(self.quota(key).hold(sequences, tokens, param) if key else nullcontext())
            except ApiError as error:
                if error.status == 429:
                    self._metrics.rejected("rate_limited")
                raise
            self.in_flight += sequences
            self._idle.clear()
            try:
                yield
            finally:
                self.in_flight -= sequences
                if self.in_flight == 0:
                    self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Waits up to ``timeout_s`` seconds for running requests, then ends them; returns whether all finished."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("drain limit reached with %d sequences running; ending them", self.in_flight)
            error = ApiError(503, "The server is shutting down", retry_after=10)
            for listener in list(self.cut_listeners):
                listener(error)
            return False
        return True
