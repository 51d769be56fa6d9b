"""What no part of the program may do, and who may reach the engine's sockets."""

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cdlm.model.parallel.messages import Command
from cdlm.scheduler.messages import EngineInput, EngineOutput, decoder
from cdlm.scheduler.options import EngineOptions
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
    assert isinstance(message, msgspec.Struct | BaseModel)
