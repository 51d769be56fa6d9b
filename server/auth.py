"""Bearer keys, checked on the raw path before any routing."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError

# Probes, and what the API is like, which is the same for every server of this version: browsers send no key for a page.
OPEN_PATHS = frozenset({"/health", "/livez", "/readyz", "/ping", "/docs", "/openapi.json"})


class ApiKeyAuth:
    """Lets through only ``OPEN_PATHS``, ``open_paths`` and requests whose ``Authorization: Bearer`` key is known.

    Without keys every request passes. Any path that is not literally an open one needs a key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._open = OPEN_PATHS | open_paths
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_path = scope["type"] == "lifespan" or scope.get("path") in self._open
        if not self._digests or open_path or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "Missing or incorrect API key; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
        await error.response()(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        given = _digest(key.strip())
        # Every key is compared, so that the time tells nothing about which one came close.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
