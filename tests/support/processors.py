"""What the engine's processors keep of rows."""

from typing import Any

from cdlm.model.decoding.processors.processor import Processor
from cdlm.scheduler.engine import Engine


def states(engine: Engine, kind: type[Processor[Any]]) -> dict[int, Any]:
    """By row, what the processor of that kind keeps."""
    [found] = [processor for processor in engine.runner.rows.processors if isinstance(processor, kind)]
    return found.states
