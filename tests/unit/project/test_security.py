"""What no part of the program may do, and who may reach the engine's sockets."""

import ast
import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio
from hypothesis import given
from hypothesis import strategies as st

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.parallel.messages import Command
from cdlm.scheduler.messages import EngineInput, EngineOutput, decoder
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.client import EngineClient
from tests.support.places import ROOT

ROOMS = ("cdlm", "server", "scheduler", "model", "training")
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "os.system", "os.popen", "yaml.load"}
RUNS_CODE = {"training/sandbox.py", "training/data/functions/problems.py", "training/natural/problems/requests.py"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    """But what models write for ``cdlm eval``, in a process with limits, and the generators' own functions."""
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(str(path), name) for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
            runs = isinstance(node, ast.Call) and called(node) in FORBIDDEN_CALLS
            if runs and str(path) not in RUNS_CODE:
                found.append((str(path), ast.unparse(node)))
            shell = isinstance(node, ast.Call) and any(
                keyword.arg == "shell" and ast.unparse(keyword.value) != "False" for keyword in node.keywords
            )
            found += [(str(path), "shell=True")] if shell else []
            trusting = isinstance(node, ast.Call) and any(
                keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
                for keyword in node.keywords
            )
            found += [(str(path), "trust_remote_code")] if trusting else []
    assert found == []


@given(st.binary(max_size=200))
@pytest.mark.parametrize("kind", [EngineInput, EngineOutput, Command, EngineOptions])
def test_messages_of_other_shapes_are_refused(kind: object, payload: bytes) -> None:
    """Whatever bytes arrive, they become a known message or an error that is about them."""
    try:
        message = decoder(kind).decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert isinstance(message, msgspec.Struct)


def test_the_engine_s_sockets_are_in_a_directory_of_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[str] = []
    bind = zmq.asyncio.Socket.bind

    def watched(socket: zmq.asyncio.Socket, address: str) -> object:
        bound.append(address)
        return bind(socket, address)

    monkeypatch.setattr(zmq.asyncio.Socket, "bind", watched)

    async def check() -> None:
        client = EngineClient(EngineOptions(model=str(BUNDLED_STUDENT), threads=1))
        await client.start()
        try:
            await client.wait_ready()
            assert len(bound) == 2
            for address in bound:
                scheme, _, path = address.partition("://")
                assert scheme == "ipc"
                assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        finally:
            await client.stop()

    asyncio.run(check())
