"""Serves under a path prefix that a proxy does not strip."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """Serves ``/PREFIX/anything`` as ``/anything``; paths without the prefix are served too."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == self._prefix:
                # Without the slash, relative links of the page would leave the prefix.
                await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
                return
            if scope["path"].startswith(f"{self._prefix}/"):
                scope = {**scope, "path": scope["path"].removeprefix(self._prefix)}
                scope.pop("raw_path", None)
        await self._app(scope, receive, send)
