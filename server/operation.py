"""What a route takes and answers, told beside the route; the OpenAPI document is made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

ALWAYS = (413, 431, 500)
KEYED = (*ALWAYS, 401)
READ = (*KEYED, 400, 404, 408, 415, 503)
GENERATE = (*READ, 429, 504)

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

DESCRIBED: dict[Callable[..., object], "Operation"] = {}
"""By the function that answers a route."""


@dataclass(frozen=True)
class Operation:
    """One route: its answer (``None`` is plain text), the errors it can end with, its body, the events of a stream."""

    answer: type[BaseModel] | None
    errors: tuple[int, ...] = KEYED
    body: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    tag: str = "operate"

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        """Describes an endpoint, as a decorator."""
        DESCRIBED[endpoint] = self
        return endpoint
