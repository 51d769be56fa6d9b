"""Client libraries; each script fails by itself and writes a line for everything it has tried."""

import shutil
from pathlib import Path

import pytest

from tests.external.clients.conftest import HERE, Run
from tests.external.clients.environments import node_modules, python_of
from tests.support.server.served import Server, running_server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(2400)]

SCRIPTS = HERE / "scripts"


@pytest.mark.parametrize(("name", "cases"), [("openai-npm", 10), ("ai-npm", 16), ("anthropic-npm", 3)])
def test_npm(name: str, cases: int, server: Server, run: Run) -> None:
    # Node looks for packages beside the script.
    script = shutil.copy(SCRIPTS / f"{name.replace('-', '_')}.mjs", node_modules(name))
    assert run("node", script, server.url).count("ok ") == cases


def test_anthropic(run: Run, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", "--api-key", "s3cret") as keyed:
        assert run(python_of("anthropic"), SCRIPTS / "anthropic_client.py", keyed.url).count("ok ") == 8
        keyed.client.headers["x-api-key"] = "s3cret"
        keyed.wait_idle()


def test_openai_decisions(server: Server, run: Run) -> None:
    assert run(python_of("openai-decisions"), SCRIPTS / "openai_decisions.py", server.url).count("ok ") == 6


def test_inception(server: Server, run: Run) -> None:
    assert run(python_of("inception"), SCRIPTS / "inception_client.py", server.url).count("ok ") == 5


def test_langchain(server: Server, run: Run) -> None:
    assert run(python_of("langchain"), SCRIPTS / "langchain_client.py", server.url).count("ok ") == 6


def test_litellm(server: Server, run: Run) -> None:
    found = run(python_of("litellm"), SCRIPTS / "litellm_client.py", server.url, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert found.count("ok ") == 8


def test_pydantic_ai(server: Server, run: Run) -> None:
    assert run(python_of("pydantic-ai"), SCRIPTS / "pydantic_ai_client.py", server.url).count("ok ") == 8


def test_instructor(server: Server, run: Run) -> None:
    assert run(python_of("instructor"), SCRIPTS / "instructor_client.py", server.url).count("ok ") == 3


def test_llm(server: Server, run: Run) -> None:
    assert run(python_of("llm"), SCRIPTS / "llm_client.py", server.url).count("ok ") == 14
