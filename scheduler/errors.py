"""Errors of the engine and its process."""


class EngineError(RuntimeError):
    """Base class of the engine's errors."""


class EngineStartError(EngineError):
    """The engine cannot start with this checkpoint or these settings; the message says which and why."""


class EngineDeadError(EngineError):
    """There is no engine to serve the request: it is loading or restarting, or died with the request in flight."""


class RequestError(ValueError):
    """The engine can never serve this request; the message names the field."""
