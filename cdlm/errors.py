"""What ``cdlm.LLM`` raises."""


class CdlmError(Exception):
    """Any error of this package's Python interface."""


class LoadError(CdlmError):
    """The model cannot be loaded; the message names the file or setting and the reason."""


class RequestError(CdlmError, ValueError):
    """A request can never be served as it is.

    Attributes:
        param: the field at fault, such as ``prompt`` or ``messages[0].role``; ``None`` if it is no single one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class EngineError(CdlmError):
    """The engine failed or stopped while it worked on a request; the next request finds it restarted."""
