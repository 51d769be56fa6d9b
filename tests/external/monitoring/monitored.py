"""A real Prometheus that scrapes a real server while requests run."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.places import ROOT
from tests.support.server.served import VERIFY, Server, free_port, running_server
from tests.unit.project.expressions import RULES

KEY = "scrape-key"
FLAGS = (
    *("--api-key", KEY, "--max-num-seqs", "4", "--max-waiting-requests", "4"),
    *("--threshold-under-load", "0.8"),
)
WORDS = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **params: Any) -> Any:
        """The data of an API answer."""
        response = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=60, verify=VERIFY)
        response.raise_for_status()  # It answers 503 while it reads its store.
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, text: str) -> list[Any]:
        """The instant vector of an expression."""
        result: list[Any] = self.get("query", query=text)["result"]
        return result

    def range(self, text: str, start: float, end: float) -> list[Any]:
        """The series of an expression, a value a second."""
        result: list[Any] = self.get("query_range", query=text, start=start, end=end, step=1)["result"]
        return result


def missing_programs() -> list[str]:
    """What has to be installed first (``make prometheus``)."""
    return [name for name in ("prometheus", "promtool") if shutil.which(name) is None]


def configuration(directory: Path, target: str) -> Path:
    """The configuration of docker/, aimed at ``target``, with every path and interval fit for this machine."""
    settings = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(RULES)]
    (job,) = (job for job in settings["scrape_configs"] if job["job_name"] == "cdlm-serve")
    job["static_configs"] = [{"targets": [target]}]
    job["authorization"]["credentials_file"] = str(directory / "key")
    settings["scrape_configs"] = [job]
    (directory / "key").write_text(KEY + "\n")
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus with an empty store, scraping ``target``."""
    config, port = configuration(directory, target), free_port()
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 60
        while not _up(running):
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, (directory / "prometheus.log").read_text()
            time.sleep(0.2)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def _up(running: Prometheus) -> bool:
    try:
        return [row["value"][1] for row in running.query('up{job="cdlm-serve"}')] == ["1"]
    except httpx.HTTPError:
        return False


@contextmanager
def server(directory: Path) -> Iterator[Server]:
    """A small server with a key."""
    with running_server(directory / "server.log", *FLAGS) as running:
        running.client.headers["authorization"] = f"Bearer {KEY}"
        yield running


def load(running: Server, seconds: float, answers: int = 4) -> int:
    """Answers, refusals, bursts and clients that leave, for so long; returns the tokens of the answers.

    A slow machine takes longer: each of three lanes gets at least ``answers`` answers.
    """
    end, received = time.monotonic() + seconds, [0, 0, 0]

    def work(lane: int) -> None:
        count = 0
        while time.monotonic() < end or count < answers:
            count += 1
            prompt = WORDS if count % 2 else f"{WORDS} {lane}-{count}"
            body = {"prompt": prompt, "max_tokens": 64, "ignore_eos": count % 3 == 0}
            # Refused where a burst has taken all places.
            while (response := running.post("/v1/completions", body)).status_code == 429:
                time.sleep(0.1)
            assert response.status_code == 200, response.text
            received[lane] += response.json()["usage"]["completion_tokens"]
            time.sleep(0.2)  # Series need no server that is always busy.

    lanes = [threading.Thread(target=work, args=(lane,)) for lane in range(3)]
    for thread in lanes:
        thread.start()
    while any(thread.is_alive() for thread in lanes):
        assert running.post("/v1/completions", {"prompt": 5}).status_code == 400
        # As many as there are places: refused unless all three lanes are between two requests.
        assert running.post("/v1/completions", {"prompt": WORDS, "n": 8, "max_tokens": 8}).status_code in (200, 429)
        with running.client.stream("POST", "/v1/completions", json={"prompt": "hello", "stream": True}):
            pass
        time.sleep(1)
    for thread in lanes:
        thread.join()
    return sum(received)
