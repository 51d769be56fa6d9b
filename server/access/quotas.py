"""Tracks the use of each API key against its limits."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cdlm.server.access.keys import ApiKey
from cdlm.server.errors import ApiError

_MINUTE_S = 60.0


class TokenBucket:
    """A token bucket: holds up to ``per_minute``, refilled evenly over a minute of the monotonic clock."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level, self._seen = float(per_minute), clock()

    def wait(self, amount: int) -> float:
        """Seconds until ``amount`` can be taken; 0 if it can be taken now."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._seen) * self.per_minute / _MINUTE_S)
        self._seen = now
        return max(0.0, amount - self._level) * _MINUTE_S / self.per_minute

    def take(self, amount: int) -> None:
        """Takes ``amount``; a negative amount is given back."""
        self._level -= amount


class Quota:
    """The current use of one key."""

    def __init__(self, key: ApiKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self.in_flight = 0
        self._requests = TokenBucket(key.requests_per_minute, clock) if key.requests_per_minute else None
        self._tokens = TokenBucket(key.tokens_per_minute, clock) if key.tokens_per_minute else None

    @contextmanager
    def hold(self, sequences: int, tokens: int, param: str = "max_tokens") -> Iterator[None]:
        """A context that reserves ``sequences`` sequences and takes ``tokens`` tokens in all.

        Raises:
            ApiError: 400 if the request exceeds the key's limits by itself, which names ``param`` for too many tokens,
                429 if it does so now; takes nothing.
        """
        name, places = self.key.name, self.key.max_sequences
        if places is not None and sequences > places:
            raise ApiError(400, f"{sequences} sequences are asked for; the key {name} may have {places} at once")
        if self._tokens and tokens > self._tokens.per_minute:
            limit = self._tokens.per_minute
            message = f"{tokens} tokens are asked for, prompt and answer; the key {name} may use {limit} a minute"
            raise ApiError(400, message, param=param)
        if places is not None and self.in_flight + sequences > places:
            raise _exceeded(f"The key {name} has {self.in_flight} of {places} sequences in hand", 1)
        for bucket, amount, what in ((self._requests, 1, "requests"), (self._tokens, tokens, "tokens")):
            if bucket and (wait := bucket.wait(amount)):
                raise _exceeded(f"The key {name} may use {bucket.per_minute} {what} a minute", math.ceil(wait))
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(tokens)
        self.in_flight += sequences
        try:
            yield
        finally:
            self.in_flight -= sequences

    def give_back(self, tokens: int) -> None:
        """Returns tokens that were requested but not used."""
        if self._tokens:
            self._tokens.take(-tokens)


def _exceeded(message: str, retry_after: int) -> ApiError:
    return ApiError(429, f"{message}; retry in {retry_after} s", code="rate_limit_exceeded", retry_after=retry_after)
