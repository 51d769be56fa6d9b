"""A prefix under which a proxy forwards requests without taking it away."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """Serves ``/PREFIX/anything`` as ``/anything``; what comes without the prefix is served too."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == self._prefix:
                # Without the slash the page's relative links would lead out of the prefix.
                await RedirectResponse(f"{self._prefix}/")(scope, receive, send)
                return
            if scope["path"].startswith(f"{self._prefix}/"):
                scope = {**scope, "path": scope["path"].removeprefix(self._prefix)}
                scope.pop("raw_path", None)
        await self._app(scope, receive, send)
