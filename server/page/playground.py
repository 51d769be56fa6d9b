"""The playground: one page at ``/`` and its files under ``/static/``, served from memory."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "static"

# Fixed, since the tables of operating systems differ.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# The page contacts this server only, and a model's text can never become markup or code.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Browsers cache but revalidate: a page never loads modules of another version.
    "cache-control": "no-cache",
}


def playground_routes() -> list[Route]:
    """Routes of the page and its files, for GET and HEAD, with ETags. Reads the files now."""
    files = [path for path in sorted(_FOLDER.rglob("*")) if path.suffix in _TYPES]
    paths = {f"/static/{path.relative_to(_FOLDER).as_posix()}": path for path in files}
    paths["/"] = paths.pop("/static/index.html")
    return [Route(url, _endpoint(path), methods=["GET"], name=url) for url, path in paths.items()]


def _endpoint(path: Path) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = _HEADERS | {"content-type": _TYPES[path.suffix], "etag": etag}

    async def send(request: Request) -> Response:
        # Proxies that compress make ETags weak.
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if etag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return send
