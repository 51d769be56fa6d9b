"""The image without CUDA: built whole, and run as Compose runs it, with an answer, a scrape and a stop."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.external.images.builder import Image, build, copy_context, missing, remove
from tests.external.images.container import Container, mounted, prometheus, running
from tests.support.compose import compose
from tests.unit.project.expressions import alerts

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(3600),
]

KEY = "the-key-of-compose"
STREAM = {"model": "cdlm-nano", "prompt": "hello", "max_tokens": 1500, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    result: dict[str, Any] = compose()["services"]
    return result


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    context = tmp_path_factory.mktemp("context") / "checkout"
    copy_context(context)
    built = build("cpu", context)
    yield built
    remove(built)


@pytest.fixture(scope="module")
def root(image: Image) -> Iterator[Path]:
    with mounted(image) as path:
        yield path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "api_key"
    path.write_text(KEY + "\n")
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def container(
    image: Image, root: Path, services: dict[str, Any], key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    log = tmp_path_factory.mktemp("container") / "log"
    with running(image, root, services["server-cpu"], key, log) as started:
        started.wait_ready()
        yield started


def post(container: Container, body: dict[str, Any], *arguments: str) -> str:
    return container.curl("http://127.0.0.1:8000/v1/completions", *request(body), *arguments)


def request(body: dict[str, Any]) -> list[str]:
    headers = ["--header", f"Authorization: Bearer {KEY}", "--header", "Content-Type: application/json"]
    return [*headers, "--data", json.dumps(body)]


def test_its_layers_are_the_users_the_health_check_and_the_environment(image: Image) -> None:
    user, health_check, environment = image.layers
    assert user < 40e6  # What pip leaves behind is small; a layer cannot take away from the base.
    assert health_check < 1e5
    assert 0.5e9 < environment < 1.5e9


def test_it_is_what_compose_and_the_dockerfile_say(image: Image, services: dict[str, Any]) -> None:
    config = image.config
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("10001:10001", "/tmp", "SIGTERM")
    assert config["Entrypoint"] == ["cdlm", "serve"]
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Healthcheck"]["Test"] == services["server-cpu"]["healthcheck"]["test"]


def test_its_user_may_write_nowhere_but_where_everybody_may(image: Image, root: Path) -> None:
    find = ["find", "/", "-xdev", "-writable", "!", "-type", "l"]
    user, _, group = image.config["User"].partition(":")
    enter = ["chroot", str(root), "setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
    done = subprocess.run([*enter, *find], capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["/run/lock", "/tmp", "/var/tmp"]
    unreadable = subprocess.run([*enter, "find", "/opt", "!", "-readable"], capture_output=True, text=True)
    assert (unreadable.returncode, unreadable.stdout) == (0, "")


def test_nothing_that_builds_or_fetches_is_left(root: Path) -> None:
    for name in ("gcc", "cc", "pip", "pip3", "curl", "wget", "git"):
        assert not [path for path in root.glob(f"*/**/bin/{name}") if path.exists()], name
    assert not list(root.glob("opt/venv/lib/python*/site-packages/pip"))
    assert not (root / "wheels").exists()
    assert not (root / "src").exists()


def test_it_answers_with_a_read_only_root_and_without_privileges(container: Container) -> None:
    answer = json.loads(post(container, {"model": "cdlm-nano", "prompt": "def add(a, b):", "max_tokens": 32}))
    assert answer["choices"][0]["text"].strip()
    status = dict(line.split(":\t") for line in Path(f"/proc/{container.pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == {"10001"}
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert container.run("find", "/", "/tmp", "-xdev", "-writable", "-type", "d").stdout.splitlines()[0] == "/tmp"
    assert "Read-only file system" in container.run("touch", "/opt/new").stderr


def test_it_wants_the_key(container: Container) -> None:
    code = container.curl("http://127.0.0.1:8000/readyz", "--write-out", "%{http_code}", "--output", "/dev/null")
    assert code == "200"
    with pytest.raises(AssertionError, match="401"):
        container.curl("http://127.0.0.1:8000/v1/models")


def test_its_health_check_passes(container: Container, services: dict[str, Any]) -> None:
    kind, *command = services["server-cpu"]["healthcheck"]["test"]
    assert kind == "CMD"
    done = container.run(*command)
    assert done.returncode == 0, done.stderr


def test_prometheus_scrapes_it_as_compose_says(
    container: Container, services: dict[str, Any], key: Path, tmp_path: Path
) -> None:
    with prometheus(container, services["prometheus"], key, tmp_path) as ask:
        deadline = time.monotonic() + 90

        def up() -> list[str]:
            found = ask("query?query=up")["data"]["result"]
            return sorted(f"{row['metric']['job']} {row['value'][1]}" for row in found)

        while up() != ["cdlm-serve 1", "prometheus 1"]:
            assert time.monotonic() < deadline, (up(), (tmp_path / "prometheus.log").read_text())
            time.sleep(1)
        (row,) = ask("query?query=cdlm_engine_up")["data"]["result"]
        assert (row["metric"]["instance"], row["value"][1]) == ("server:8000", "1")
        groups = ask("rules")["data"]["groups"]
        assert {rule["name"] for group in groups for rule in group["rules"]} == {rule["alert"] for rule in alerts()}


def test_on_sigterm_it_ends_a_stream_and_exits_within_the_grace_period(
    container: Container, services: dict[str, Any]
) -> None:
    service = services["server-cpu"]
    grace = float(service["stop_grace_period"].removesuffix("s"))
    command = [*container.beside, "curl", "--silent", "--no-buffer", *request(STREAM)]
    with subprocess.Popen([*command, "http://127.0.0.1:8000/v1/completions"], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline().startswith(b"data: ")
        code = container.stop(grace)
        rest = client.stdout.read()
    assert code == 0, container.log.read_text()
    assert rest.rstrip().endswith(b"data: [DONE]"), rest[-500:]
