"""Errors in Anthropic's format, which the routes of messages have."""

from typing import Literal

from cdlm.server.answer import Answer

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
]

_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class MessagesErrorDetail(Answer):
    """The error of a response: its type and its message, which names the field at fault."""

    type: ErrorType
    message: str


class MessagesError(Answer):
    """Every answer of these routes other than 2xx, and an error in a stream."""

    type: Literal["error"]
    error: MessagesErrorDetail


def is_anthropic(path: str) -> bool:
    """Whether a path is one of Anthropic's API."""
    path = path.removeprefix("/v1")
    return path == "/messages" or path.startswith("/messages/")


def messages_status(status: int) -> int:
    """The HTTP status that Anthropic's API has for ``status``: a server that cannot answer now is overloaded."""
    return 529 if status == 503 else status


def messages_error(status: int, message: str) -> MessagesError:
    """The JSON object of an error with ``status``."""
    kind = _TYPES.get(messages_status(status), "api_error" if status >= 500 else "invalid_request_error")
    return MessagesError(type="error", error=MessagesErrorDetail(type=kind, message=message))
