"""The server that tests share."""

from collections.abc import Iterator

import pytest

from tests.support.forks import starts
from tests.support.server.served import Server, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as it was, spawned, so that it has imported what a server does."""
    with starts.spawned(), running_server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running
