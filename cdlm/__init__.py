"""Serves block-causal diffusion language models: as a command, over HTTP, and from Python.

    with cdlm.LLM("path-or-id") as llm:
        [answer] = llm.chat([{"role": "user", "content": "Hello"}], cdlm.SamplingParams(max_tokens=64))
        print(answer.text)

See ``docs/python.md``. Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cdlm.errors import CdlmError, EngineError, LoadError, RequestError

if TYPE_CHECKING:
    from cdlm.llm import LLM
    from cdlm.outputs import Canvas, Chunk, Completion, RequestOutput, TokenLogprob
    from cdlm.sampling_params import SamplingParams

    __version__: str

__all__ = [
    "LLM",
    "Canvas",
    "CdlmError",
    "Chunk",
    "Completion",
    "EngineError",
    "LoadError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "TokenLogprob",
    "__version__",
]

_HOMES = {"LLM": "cdlm.llm", "SamplingParams": "cdlm.sampling_params"}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("cdlm-serve")
        except PackageNotFoundError:  # A checkout on the path, not installed.
            return "0.0.0"
    if name not in __all__:
        raise AttributeError(f"module 'cdlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "cdlm.outputs")), name)


def __dir__() -> list[str]:
    return __all__
