"""What can go wrong between the API process and the engine."""


class EngineError(RuntimeError):
    """Base of the engine's errors."""


class EngineStartError(EngineError):
    """The engine cannot start with this checkpoint or these settings; the message names which and why."""


class EngineDeadError(EngineError):
    """The engine is not there: still loading, restarting, or it died with the request in flight."""


class RequestError(ValueError):
    """A request the engine cannot serve; the message names the field."""
