"""The errors of ``cdlm.LLM``."""


class CdlmError(Exception):
    """Base class of the errors of the Python interface."""


class LoadError(CdlmError):
    """The model cannot be loaded; the message names the file or setting and the reason."""


class RequestError(CdlmError, ValueError):
    """A request is invalid or can never be served.

    Attributes:
        param: the field at fault, for example ``prompt`` or ``messages[0].role``; ``None`` if it is not one field.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class EngineError(CdlmError):
    """The engine failed or stopped while working on a request; it is restarted for the next one."""
