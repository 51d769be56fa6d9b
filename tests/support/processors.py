"""Reads the state of the engine's processors."""

from typing import Any

from cdlm.model.decoding.processors.processor import Processor
from cdlm.scheduler.engine import Engine


def states(engine: Engine, kind: type[Processor[Any]]) -> dict[int, Any]:
    """Row -> state of the processor of class ``kind``."""
    [found] = [processor for processor in engine.runner.rows.processors if isinstance(processor, kind)]
    return found.states
