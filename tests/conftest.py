"""Tests that install other people's programs run only when a marker expression names them."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``-m 'not slow'`` must not begin to download, so it is not enough that ``addopts`` leave them out."""
    if "clients" in config.getoption("markexpr"):
        return
    found = [item for item in items if item.get_closest_marker("clients")]
    if found:
        config.hook.pytest_deselected(items=found)
        items[:] = [item for item in items if item not in found]
