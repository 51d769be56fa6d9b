"""A local Ray cluster with two replicas of the bundled student, deployed from the shipped configuration.

Run with ``RAY_BIN=/path/to/environment/bin pytest -m ray``; the environment has Ray Serve and this program.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.places import ROOT
from tests.support.server.served import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

START_LIMIT_S = 600.0  # On two busy cores; on idle ones it takes half a minute.
NODE = """
import ray, signal
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
print(ray.get_runtime_context().gcs_address, flush=True)
signal.pause()
"""
SLOTS = 4  # Rows of a replica's batch.
REPLICA = "ray::ServeReplica:cdlm:Replica"
# One token a step, for as long as the context lasts.
SLOW = {"confidence_threshold": 1.0, "max_steps_per_block": 32, "ignore_eos": True, "max_tokens": 1500}


class Cluster:
    """A Ray head node, an application on it and a client to its proxy."""

    def __init__(self, directory: Path) -> None:
        binaries = os.environ.get("RAY_BIN")
        if not binaries:
            pytest.skip("RAY_BIN names no environment with Ray Serve")
        self._binaries = Path(binaries).expanduser()
        self._mark = uuid.uuid4().hex
        self.port = free_port()
        self._environment = os.environ | {
            "PATH": f"{self._binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # The cluster lives here and for minutes.
            # Busy cores: its own limits are for idle ones, and its workers would come last.
            "RAY_worker_niceness": "0",
            "RAY_agent_register_timeout_ms": "300000",
            "RAY_worker_register_timeout_seconds": "300",
            "CLUSTER_OF_TEST": self._mark,
        }
        self._directory = directory
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=600)
        deadline = time.monotonic() + START_LIMIT_S
        while not (address := self._start_node()):
            # It gives its parts a quarter of a minute, which on busy cores is not always enough.
            assert time.monotonic() < deadline, self.log()
            self.stop()
        self._address = address

    def _start_node(self) -> str:
        """A Ray node in a process of its own; its address, or nothing if it did not come up."""
        with (self._directory / "ray.log").open("ab") as log:
            self._node = subprocess.Popen(
                [self._binaries / "python", "-c", NODE],
                cwd=ROOT,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # A job of its own for the scheduler, too.
            )
        assert self._node.stdout is not None
        return self._node.stdout.readline().decode().strip()

    def deploy(self, **autoscaling: float) -> None:
        """Deploys the shipped configuration without GPUs, with these fields of ``autoscaling_config``."""
        config = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
        config["http_options"] |= {"host": "127.0.0.1", "port": self.port}
        (application,) = config["applications"]
        application["args"] = {"threads": 1, "max_num_seqs": SLOTS}
        gateway, replica = application["deployments"]
        # One, so that it knows every load; no CPUs, since two are all there are.
        gateway |= {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}
        # Two places more than a batch, since replicas that are full do not say their metrics.
        replica |= {"max_ongoing_requests": SLOTS + 2, "ray_actor_options": {"num_cpus": 0}}
        # Load of the last seconds, so that a test sees a change.
        replica["autoscaling_config"] |= {"metrics_interval_s": 1, "look_back_period_s": 3, "upscale_delay_s": 2}
        replica["autoscaling_config"] |= autoscaling
        path = self._directory / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        with (self._directory / "serve.log").open("ab") as log:
            command = [self._binaries / "serve", "run", "--non-blocking", "--address", self._address, path]
            subprocess.run(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, check=True)

    def log(self) -> str:
        """The end of what ray and serve printed."""
        return "\n".join(path.read_text()[-3000:] for path in self._directory.glob("*.log"))

    def wait_for(self, condition: Callable[[], bool], limit_s: float = START_LIMIT_S) -> None:
        """Waits until ``condition()`` is true."""
        deadline = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
                if condition():
                    return
            assert time.monotonic() < deadline, self.log()
            time.sleep(1)

    def metric(self, name: str) -> dict[str, float]:
        """A metric of each replica."""
        page = self.client.get("/metrics")
        page.raise_for_status()
        samples = [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.name == name:
                found[sample.labels["replica"]] += sample.value
        return dict(found)

    def replicas(self) -> int:
        """How many serve."""
        return len(self.metric("cdlm_engine_up"))

    def in_hand(self) -> float:
        """Sequences waiting and running in all engines."""
        names = ("cdlm_num_requests_running", "cdlm_num_requests_waiting")
        return sum(value for name in names for value in self.metric(name).values())

    def complete(self, prompt: str, **fields: Any) -> dict[str, Any]:
        """An answer at once."""
        answer = self.client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 96} | fields)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def stream(self, prompt: str, **fields: Any) -> Generator[Any, None, None]:
        """Payloads of a stream's events; the last is ``"[DONE]"`` or an error."""
        body = {"prompt": prompt, "stream": True, "max_tokens": 96} | fields
        with self.client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    yield data if data == "[DONE]" else json.loads(data)

    def processes(self, title: str) -> list[int]:
        """Ids of this cluster's processes whose title begins so."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                mine = f"CLUSTER_OF_TEST={self._mark}".encode() in (directory / "environ").read_bytes()
                if mine and (directory / "cmdline").read_bytes().startswith(title.encode()):
                    found.append(int(directory.name))
        return sorted(found)

    def stop(self) -> None:
        """Ends every process of the cluster."""
        for process in self.processes(""):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._node.communicate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("ray"))
    try:
        cluster.deploy(min_replicas=2, max_replicas=2, target_ongoing_requests=SLOTS)
        cluster.wait_for(lambda: cluster.replicas() == 2)
        yield cluster
    finally:
        cluster.client.close()
        cluster.stop()


def problem(number: int) -> str:
    """A prompt of more than a page, so that it can be cached."""
    return (
        f"Tom has {number} apples. Then Tom buys 3 bags of 12 apples. Next Tom gives away 8. How many apples has Tom?"
    )


def test_a_stream_comes_block_by_block_through_the_proxy(cluster: Cluster) -> None:
    slow = SLOW | {"max_tokens": 96}
    times, texts = [], []
    for event in cluster.stream(problem(14), **slow):
        if event != "[DONE]":
            times.append(time.monotonic())
            texts.append(event["choices"][0]["text"])
    assert event == "[DONE]"
    assert "".join(texts) == cluster.complete(problem(14), **slow)["choices"][0]["text"]
    # Between blocks are 32 forwards; had the blocks been collected on the way, there would be nothing.
    assert times[1] - times[0] > 0.02
    assert times[2] - times[1] > 0.02


def test_errors_of_the_server_come_through(cluster: Cluster) -> None:
    refused = cluster.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": -1})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "max_tokens"
    assert cluster.client.post("/v1/completions", content=b"x" * 11_000_000).status_code == 413
    assert cluster.client.get("/nowhere").status_code == 404


def test_identical_prompts_go_where_they_are_cached(cluster: Cluster) -> None:
    found = []
    for number in range(110, 116):
        for _ in range(3):
            usage = cluster.complete(problem(number), max_tokens=8)["usage"]
            found.append(usage["prompt_tokens_details"]["cached_tokens"])
    # By luck alone: once in four thousand runs.
    assert [bool(tokens) for tokens in found] == [False, True, True] * 6
    assert all(cluster.metric("cdlm_requests_finished_total").values())  # And not because one takes all.


def test_a_client_that_leaves_ends_the_work(cluster: Cluster) -> None:
    stream = cluster.stream(problem(200), **SLOW)
    next(stream)
    cluster.wait_for(lambda: cluster.in_hand() == 1, 10)
    stream.close()
    cluster.wait_for(lambda: cluster.in_hand() == 0, 10)
    assert sum(cluster.metric("cdlm_requests_cancelled_total").values()) >= 1


def seconds_long(cluster: Cluster, wanted_s: float) -> dict[str, Any]:
    """Fields of a request that takes about so long on this machine, alone."""
    started = time.monotonic()
    cluster.complete(problem(7), **SLOW | {"max_tokens": 32})
    return SLOW | {"max_tokens": max(32, min(1500, int(32 * wanted_s / (time.monotonic() - started))))}


def test_a_replica_that_dies_loses_nothing_but_begun_streams(cluster: Cluster) -> None:
    """Streams that have begun and answers that have not in both replicas, and more answers in the gateway."""
    some = seconds_long(cluster, 3)
    streams = [cluster.stream(problem(number), **SLOW, stream_granularity="step") for number in range(300, 300 + SLOTS)]
    for stream in streams:
        next(stream)
    with ThreadPoolExecutor(5 * SLOTS) as threads:  # All at once: the streams must be read when it happens.
        answers = [threads.submit(cluster.complete, problem(number), **some) for number in range(SLOTS)]
        cluster.wait_for(lambda: cluster.in_hand() == 2 * SLOTS, 120)
        answers += [threads.submit(cluster.complete, problem(number), **some) for number in range(SLOTS, 4 * SLOTS)]
        time.sleep(0.5)
        victim = cluster.processes(REPLICA)[0]
        assert not any(answer.done() for answer in answers)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()

        def end(stream: Generator[Any, None, None]) -> Any:
            """The error or the end, or a block that was surely made after the death."""
            with contextlib.closing(stream):
                return next(event for event in stream if "id" not in event or time.monotonic() > killed + 5)

        ends = list(threads.map(end, streams))
        texts = [answer.result()["choices"][0]["text"] for answer in answers]
    broken = [end for end in ends if "error" in end]
    # Four streams on two replicas, at most three on one.
    assert 1 <= len(broken) <= 3
    assert all("died" in end["error"]["message"] for end in broken)
    assert all(texts)
    assert victim not in cluster.processes(REPLICA)
    assert cluster.complete(problem(0), **some)["choices"][0]["text"] == texts[0]
    cluster.wait_for(lambda: cluster.replicas() == 2)  # Ray starts another.


def test_scaling_down_and_up_under_load_loses_nothing(cluster: Cluster) -> None:
    some = seconds_long(cluster, 3)
    ends: list[Any] = []

    def load(number: int, until: int) -> None:
        while True:
            number += 1
            ends.append(list(cluster.stream(problem(number), **some))[-1])
            with contextlib.suppress(httpx.HTTPStatusError):  # No metrics while all places are taken.
                if cluster.replicas() == until:
                    return

    def users(count: int, until: int) -> list[Future[None]]:
        return [threads.submit(load, 1000 * user, until) for user in range(1, count + 1)]

    with ThreadPoolExecutor(16) as threads:
        few = users(3, until=1)  # At most two on one replica.
        cluster.deploy(min_replicas=1, max_replicas=2, target_ongoing_requests=SLOTS, downscale_delay_s=2)
        for user in few:
            user.result(START_LIMIT_S)
        for user in users(SLOTS + 2, until=2):
            user.result(START_LIMIT_S)
    assert len(ends) >= SLOTS + 5
    assert set(ends) == {"[DONE]"}
