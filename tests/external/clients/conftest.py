"""Clients of other people, against a real server. Run only when asked for (`make clients`)."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server.served import Server, running_server

HERE = Path(__file__).parent
_LIMIT_S = 1200

Run = Callable[..., str]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Iterator[Run]:
    """Runs a client to its end, without a model hub, and returns what it wrote; the server is idle after it."""

    def start(*command: str | Path, cwd: Path = tmp_path, **variables: str) -> str:
        own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **own, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT_S,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    yield start
    server.wait_idle()
