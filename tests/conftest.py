"""What holds for all tests: how Triton runs, which model is the default, and what is only run when it is asked for."""

import os
from collections.abc import Iterator

import pytest
import torch

from cdlm import garbage
from tests.support import interpreter
from tests.support.forks import starts

# Without a GPU Triton runs kernels on CPU tensors, in its interpreter. This must be set before anything imports it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The default model would be fetched.
os.environ["CDLM_MODEL"] = "cdlm-nano"


# Their processes are forked from one that has imported what servers and engines import (``tests/support/forks``).
_FORKED = (
    "tests/e2e/", "tests/oracle/", "tests/external/page/", "tests/external/monitoring/",
)  # fmt: skip
_ASKED_FOR = ("clients", "images", "fakecuda")
_THREADS = torch.get_num_threads()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need what must be downloaded first run only when a marker expression names them.

    ``-m 'not slow'`` must not begin to download, so it is not enough that ``addopts`` leave them out.
    """
    for marker in _ASKED_FOR:
        if marker in config.getoption("markexpr"):
            continue
        found = [item for item in items if item.get_closest_marker(marker)]
        if found:
            config.hook.pytest_deselected(items=found)
            items[:] = [item for item in items if item not in found]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported for tests is not searched for garbage, then or later."""
    with garbage.ignored():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Says how the processes of a test start, before its fixtures are made, and with how many threads it computes."""
    # A command that runs in this process sets them; more than there are free cores cost the others several times more.
    if torch.get_num_threads() != _THREADS:
        torch.set_num_threads(_THREADS)
    # Numbers are small where tests/oracle has the engine compute them; those of the kernels alone are large as well.
    interpreter.prepare(overflow=not item.nodeid.startswith("tests/oracle/"))
    if starts.POSSIBLE and item.nodeid.startswith(_FORKED) and item.get_closest_marker("spawns") is None:
        starts.fork(starts.tests_zygote)
    else:
        starts.spawn()
