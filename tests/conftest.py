"""What holds for all tests: how Triton runs, and what is only run when it is asked for."""

import os

import pytest
import torch

# Without a GPU Triton runs kernels on CPU tensors, in its interpreter. This must be set before anything imports it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


_ASKED_FOR = ("clients", "images", "fakecuda")


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
