"""Errors of the HTTP interface, in OpenAI's format, or Anthropic's on its routes."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cdlm.scheduler.errors import EngineDeadError, EngineError
from cdlm.server.answer import Error, ErrorDetail, reply
from cdlm.server.anthropic.error import MessagesError, is_anthropic, messages_error, messages_status

logger = logging.getLogger(__name__)

_TYPES = {401: "invalid_request_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error response: ``param`` is the field at fault, ``code`` a machine-readable reason.

    ``retry_after``, in seconds, becomes the Retry-After header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)

    def body(self) -> Error:
        """The JSON object of the error."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        # The message may quote lone surrogates, which cannot be encoded.
        message, param = _encodable(self.message), self.param and _encodable(self.param)
        return Error(error=ErrorDetail(message=message, type=kind, param=param, code=self.code))

    def messages_body(self) -> MessagesError:
        """The JSON object of the error on Anthropic's routes."""
        return messages_error(self.status, _encodable(self.message))

    def response(self, path: str = "/") -> Response:
        """The HTTP response of the error, in the format of the route at ``path``."""
        if is_anthropic(path):
            response = reply(self.messages_body(), messages_status(self.status))
        else:
            response = reply(self.body(), self.status)
        response.headers.update(self.headers)
        return response


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def invalid(message: str, param: str | None = None) -> ApiError:
    """A 400 that names the field at fault."""
    return ApiError(400, message, param=param)


def too_long(context: int, found: str, param: str, wanted: int = 0) -> ApiError:
    """A 400 for a prompt, or prompt plus ``wanted`` tokens, that exceeds the context."""
    asked = f"the prompt has {found} tokens" + (f" and {wanted} more were asked for" if wanted else "")
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. However, {asked}.",
        param=param,
        code="context_length_exceeded",
    )


def engine_failed(error: EngineError) -> ApiError:
    """The 503 of an engine that died with the request in flight, or the 500 of one that failed on it."""
    if isinstance(error, EngineDeadError):
        return ApiError(503, "The engine stopped while it worked on the request", retry_after=2)
    return ApiError(500, f"The engine failed on the request: {error}")


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


def install_handlers(app: FastAPI) -> None:
    """Makes all errors of the framework and the routes use OpenAI's format."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_bug)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if error.status in (400, 408, 413, 415):
        request.app.state.services.metrics.rejected("invalid")
    return error.response(request.scope["path"])


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message, code = str(error.detail), None
    if error.status_code == 404:
        message, code = f"Unknown request URL: {request.method} {request.url.path}", "unknown_url"
    elif error.status_code == 405:
        message = f"Method {request.method} is not allowed for {request.url.path}"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response(request.scope["path"])


async def _on_client_gone(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientGone)
    return ApiError(499, "The client closed the connection").response(request.scope["path"])


async def _on_bug(request: Request, error: Exception) -> Response:
    request.app.state.services.metrics.rejected("internal")
    logger.error("unexpected error", exc_info=error)
    return ApiError(500, "The server had an error while processing the request").response(request.scope["path"])
