"""The container files, checked by the linters and by Compose itself."""

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cdlm.server.http.auth import OPEN_PATHS
from cdlm.server.settings import ENV_PREFIX, ServerSettings
from tests.support.compose import compose, program
from tests.support.places import ROOT
from tests.support.server.served import free_port

DOCKERFILE = (ROOT / "Dockerfile").read_text()
HEALTHCHECK = ROOT / "docker" / "healthcheck.py"


def stages() -> dict[str, list[str]]:
    """The instructions of every stage, its parent's first."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = [*found.get(start[1], [line])]
            found[start[2]] = current
        elif line and not line.startswith("#"):
            current.append(line)
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([program("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_final_stages_are_small_and_unprivileged(target: str) -> None:
    lines = stages()[target]
    assert re.fullmatch(r"FROM python:\d+\.\d+\.\d+-slim-\w+ AS runtime", lines[0])
    assert 'ENTRYPOINT ["cdlm", "serve"]' in lines
    users = [line for line in lines if line.startswith("USER")]
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", users[-1])
    assert any(line.startswith("HEALTHCHECK") and 'CMD ["python"' in line for line in lines)
    work = [line for line in lines if line.startswith(("RUN", "COPY"))]
    # Triton builds its launchers with a C compiler; nothing else that builds or fetches stays.
    installed = [line for line in work if "apt-get" in line]
    assert [re.findall(r"--no-install-recommends (.*?) +&&", line) for line in installed] == (
        [["gcc libc6-dev"]] if target == "cuda" else []
    )
    others = "\n".join(line for line in work if line not in installed)
    assert not re.search(r"gcc|build-essential|pip install|curl", others)
    assert work[-1] == f"COPY --from=venv-{target} /opt/venv /opt/venv"


def test_every_base_is_pinned() -> None:
    named = set(stages())
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert image in named or re.fullmatch(r"[\w/]+:\d+\.\d+\.\d+[\w-]*", image), image


def test_what_the_image_copies_is_let_through_and_exists() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied |= {part for part in line.split()[:-1] if not part.startswith("--")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_variables_of_the_image_are_settings() -> None:
    known = {ENV_PREFIX + name.upper() for name in ServerSettings.model_fields}
    example = (ROOT / "docker/server.env.example").read_text()
    services = compose()["services"]
    used = set(re.findall(r"\b(CDLM_\w+)=", DOCKERFILE + example))
    used |= {name for name in services["server"]["environment"] if name.startswith(ENV_PREFIX)}
    assert "CDLM_API_KEY_FILE" in used
    assert used <= known


def test_compose_hardens_every_service() -> None:
    services = compose()["services"]
    assert set(services) == {"server", "server-cpu", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["tmpfs"], name
        assert service["healthcheck"]["test"], name
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        for volume in service["volumes"]:
            assert volume["type"] == "volume" or volume["read_only"] is True, (name, volume)
    for name in ("prometheus", "grafana"):
        assert all(port["host_ip"] == "127.0.0.1" for port in services[name]["ports"])


def test_compose_has_a_gpu_and_a_cpu_server() -> None:
    services = compose()["services"]
    gpu, cpu = services["server"], services["server-cpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert "reservations" not in cpu["deploy"]["resources"]
    assert (gpu["build"]["target"], cpu["build"]["target"]) == ("cuda", "cpu")
    assert "profiles" not in gpu
    assert cpu["profiles"] == ["cpu"]
    # The scrape configuration knows one name.
    assert "server:8000" in (ROOT / "docker/prometheus/prometheus.yml").read_text()
    assert cpu["networks"]["default"]["aliases"] == ["server"]


@pytest.mark.parametrize("service", ["server", "server-cpu"])
def test_torch_can_come_from_another_index(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    build = compose()["services"][service]["build"]
    assert not (build.get("args") or {}).get("TORCH_INDEX")
    default = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": "https://pypi.org/simple"}[build["target"]]
    assert f"ARG TORCH_INDEX={default}" in stages()[f"torch-{build['target']}"]
    monkeypatch.setenv("TORCH_INDEX", "https://mirror.example/simple")
    assert compose()["services"][service]["build"]["args"] == {"TORCH_INDEX": "https://mirror.example/simple"}


def test_the_grace_period_has_room_for_the_drain() -> None:
    server = compose()["services"]["server"]
    assert server["stop_grace_period"] == "45s"
    assert float(server["environment"]["CDLM_DRAIN_TIMEOUT_S"]) + 10 < 45


def test_the_key_reaches_server_and_prometheus_as_a_file() -> None:
    config = compose()
    for name in ("server", "server-cpu", "prometheus"):
        (secret,) = config["services"][name]["secrets"]
        assert secret["target"] == "/run/secrets/api_key"
    assert "credentials_file: /run/secrets/api_key" in (ROOT / "docker/prometheus/prometheus.yml").read_text()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"docker/secrets/", "docker/server.env"} <= set(ignored)


def healthcheck(port: int) -> int:
    # A proxy that does not exist must not matter.
    environment = {"CDLM_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    return subprocess.run([sys.executable, "-I", str(HEALTHCHECK)], env=environment, check=False).returncode


@pytest.mark.parametrize(("failing", "code"), [(None, 0), ("/livez", 1), ("/readyz", 1)])
def test_the_health_check_asks_both_probes(failing: str | None, code: int) -> None:
    asked = []

    class Probes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503 if self.path == failing else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Probes) as probes:
        threading.Thread(target=probes.serve_forever, daemon=True).start()
        assert healthcheck(probes.server_port) == code
        probes.shutdown()
    assert set(asked) <= OPEN_PATHS
    assert failing is not None or asked == ["/livez", "/readyz"]


def test_the_health_check_fails_without_a_server() -> None:
    assert healthcheck(free_port()) == 1
