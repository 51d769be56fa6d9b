"""API keys, checked on the raw path before any routing."""

import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from cdlm.server.access.keys import ApiKey, digest
from cdlm.server.errors import ApiError

# Probes and API docs, which are equal on all servers of this version; browsers send no key for a page.
OPEN_PATHS = frozenset({"/health", "/livez", "/readyz", "/ping", "/docs", "/openapi.json"})


class ApiKeyAuth:
    """Lets through only ``OPEN_PATHS``, ``open_paths`` and requests whose key is known.

    It is sent as ``Authorization: Bearer`` or as ``x-api-key``; of two known ones the first of these counts.
    Without keys every request passes. Every path that is not literally open needs a key. Stores the key in the
    request's record (``server/observe/request_log.py``).
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey], open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._open = OPEN_PATHS | open_paths
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_path = scope["type"] == "lifespan" or scope.get("path") in self._open
        key = None if open_path or not self._keys else self._recognize(scope)
        if key is not None or open_path or not self._keys:
            record = scope.get("state", {}).get("record")
            if record is not None:
                record.key = key
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "Missing or incorrect API key; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
        await error.response(scope["path"])(scope, receive, send)

    def _recognize(self, scope: Scope) -> ApiKey | None:
        """The key of the request; ``None`` if it has no known key."""
        scheme, _, bearer = _only(scope, b"authorization").partition(b" ")
        given = [bearer.strip()] if scheme.lower() == b"bearer" else []
        given.append(_only(scope, b"x-api-key").strip())
        # Compares all keys, so that timing reveals nothing.
        matches = [key for found in map(digest, given) for key in self._keys if hmac.compare_digest(found, key.digest)]
        return matches[0] if matches else None


def _only(scope: Scope, header: bytes) -> bytes:
    """The value of a header; empty if it is absent or there are several."""
    values: list[bytes] = [value for name, value in scope["headers"] if name == header]
    return values[0] if len(values) == 1 else b""
