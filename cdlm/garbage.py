"""Little search for garbage while a process imports what it needs, and none when it ends."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New objects before the collector looks at them; 700 by default, which a command's imports make thousands of times.
_SELDOM = 50_000


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


@contextmanager
def sought_seldom() -> Iterator[None]:
    """Has the collector run less often from now on, and not at the end of this process, to which the context leads.

    Commands import torch when they need it. To search its modules again and again, and once more at exit, takes a third
    of the time of a short command.
    """
    gc.set_threshold(_SELDOM)
    try:
        yield
    finally:
        gc.freeze()
