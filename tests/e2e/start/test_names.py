"""Processes with the default model: fetched, served, interrupted, and used from Python."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forks import script
from tests.support.models.named import NOWHERE, index_of, stand_in, tiny_gguf, variables
from tests.support.places import ROOT
from tests.support.server.package_index import Index
from tests.support.server.served import Server, free_port

# ``cdlm``, with a model of the test in place of cdlm-smol.
START = """
from pathlib import PosixPath
from cdlm.model.fetching.names import NAMES, NamedModel
from cdlm.model.fetching.wheel import WheelFile
NAMES["cdlm-smol"] = {model!r}
{then}
"""
MAIN = "from cdlm.cli.main import main; main()"
LIMIT_S = 180


class User:
    """A user with a cache, and an index that has the model."""

    def __init__(self, directory: Path, index: Index, content: bytes, adapter: Path) -> None:
        self.index = index
        self._model, self._cache = stand_in(content, adapter), directory / "cache"

    def start(
        self, *arguments: str, then: str = MAIN, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE,
        **more: str,
    ) -> "subprocess.Popen[str]":  # fmt: skip
        command = script.command(START.format(model=self._model, then=then), *arguments)
        environment = variables(self._cache, self.index.address) | more
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr, text=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    return tiny_gguf(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def user(tmp_path: Path, tiny: tuple[bytes, Path]) -> Iterator[User]:
    with index_of(tiny[0]) as index:
        yield User(tmp_path, index, *tiny)


def test_the_default_is_fetched_and_served_and_then_needs_no_network(user: User, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as sink:
        process = user.start("serve", "--port", str(port), "--threads", "1", stdout=sink.fileno(), stderr=sink.fileno())
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait_ready()
        assert [model["id"] for model in server.client.get("/v1/models").json()["data"]] == ["cdlm-smol"]
        body = {"model": "cdlm-smol", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6}
        answer = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
        server.wait_for(lambda: "Try it" in log.read_text())
        said = log.read_text()
        assert f"curl -N {server.url}/v1/chat/completions -H" in said
        assert said.count("fetching tiny_model-1.0-py3-none-any.whl (0 MB) from http://127.0.0.1") == 1
        assert said.count("cdlm-smol is the default model (English, 135M parameters); --model cdlm-nano is the") == 1
    finally:
        server.client.close()
        process.terminate()
        process.wait(30)
    again = user.start("generate", "hello", "--max-tokens", "6", "--threads", "1", PIP_INDEX_URL=NOWHERE)
    output, said = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0, said
    assert output.rstrip("\n") == answer.rstrip("\n")
    assert len(user.index.asked) == 1


def test_a_server_of_a_name_that_cannot_be_fetched_ends_with_one_line(user: User) -> None:
    process = user.start("serve", "--port", "0", "--model", "cdlm-smol", PIP_INDEX_URL=NOWHERE)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    [line] = [line for line in said.splitlines() if " INFO " not in line]
    assert " ERROR cdlm: cdlm-smol: tiny_model-1.0-py3-none-any.whl cannot be fetched from http://127.0.0.1:9" in line


def test_an_interrupt_ends_a_download(user: User) -> None:
    user.index.gate = threading.Event()
    # The tests may run with interrupts ignored, as what a script starts in the background does.
    then = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {MAIN}"
    process = user.start("serve", "--port", "0", then=then)
    assert user.index.sending.wait(LIMIT_S)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_the_default_from_python(user: User) -> None:
    code = """
import cdlm
with cdlm.LLM(threads=1) as llm:
    [answer] = llm.generate("hello", cdlm.SamplingParams(max_tokens=6))
    print(llm._app.settings.model_name, len(answer.outputs[0].token_ids) > 0)
"""
    process = user.start(then=code)
    output, said = process.communicate(timeout=LIMIT_S)
    assert output == "cdlm-smol True\n", said
    assert len(user.index.asked) == 1
