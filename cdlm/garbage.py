"""No search for garbage while a process imports what it needs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ignored() -> Iterator[None]:
    """Pauses the collector while modules are imported, and has it leave alone whatever exists at the end.

    Modules are never garbage. To search those of torch takes a third of what an engine spends on imports and its exit,
    and would hold up requests at every full collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
