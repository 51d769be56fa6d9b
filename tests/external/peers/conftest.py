"""Suites of other servers. Run only when asked for: ``pytest -m clients tests/external/peers``."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They download source archives, so a marker expression has to name them."""
    if "clients" in config.getoption("markexpr"):
        return
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    if mine:
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in mine]
