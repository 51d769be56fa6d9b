"""Describes a route's body and responses next to the route, for the OpenAPI document."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from cdlm.server.answer import Error

ALWAYS = (413, 431, 500)
KEYED = (*ALWAYS, 401)
READ = (*KEYED, 400, 404, 408, 415, 503)
GENERATE = (*READ, 429, 504)

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

DESCRIBED: dict[Callable[..., object], "Operation"] = {}
"""Endpoint function -> its description."""


@dataclass(frozen=True)
class Operation:
    """A route's response (``None`` is plain text), errors and their format, request body, and stream events."""

    answer: type[BaseModel] | None
    errors: tuple[int, ...] = KEYED
    body: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    tag: str = "operate"
    error: type[BaseModel] = Error

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        """Registers the description of an endpoint, as a decorator."""
        DESCRIBED[endpoint] = self
        return endpoint
