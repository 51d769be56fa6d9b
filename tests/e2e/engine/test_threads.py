"""The number of threads, and how the engine's processes let them wait."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cdlm.model.row import RowResult, RowWork
from cdlm.scheduler import child
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.offline import OfflineEngine
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.client import EngineClient
from cdlm.scheduler.steps.threads import WORK_PER_THREAD, Threads, cpu_quota, free_cores, worth_threads
from tests.e2e.reliability.load import children
from tests.support.models.checkpoints import build_checkpoint


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *child.WAITING):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_a_step_gets_the_threads_that_its_work_is_worth() -> None:
    work = [worth_threads(share * WORK_PER_THREAD) for share in (0, 0.5, 1, 1.9, 2, 7, 8, 1000)]
    assert work == [1, 1, 1, 1, 2, 4, 8, 512]


def test_small_steps_of_an_engine_take_fewer_threads(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdlm.scheduler.steps.threads.free_cores", lambda: 4)
    torch.set_num_threads(4)
    llm = OfflineEngine(EngineOptions(model=str(directory), page_size=8))
    tokens = 4 * llm.manifest.block_length  # Of four rows.
    monkeypatch.setattr("cdlm.scheduler.steps.threads.WORK_PER_THREAD", tokens * llm.rows.parameters / 4)
    used: dict[int, set[int]] = {}
    step = llm.runner.step

    def watched(works: list[RowWork]) -> list[RowResult]:
        used.setdefault(len(works), set()).add(torch.get_num_threads())
        return step(works)

    monkeypatch.setattr(llm.runner, "step", watched)
    for rows in (1, 2, 4):  # The first step computes the prompt as well.
        llm.generate([GenerateRequest(request_id=str(row), prompt_ids=[1], max_tokens=8) for row in range(rows)])
    assert used[1] == {1}
    assert used[2] == {2}
    assert used[4] == {4}
    assert torch.get_num_threads() == 4


def test_what_a_user_set_is_the_number_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(**options: int) -> tuple[int, int]:
        threads = Threads(EngineOptions(model="", **options))
        with threads.worth(0):
            small = torch.get_num_threads()
        return torch.get_num_threads(), small

    assert numbers(threads=3) == (3, 3)
    assert numbers(threads=3, tensor_parallel_size=2) == (3, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)  # As torch does when it is loaded.
    assert numbers() == (2, 2)
    assert numbers(tensor_parallel_size=2) == (2, 2)


def test_ranks_share_the_cores_and_nobody_takes_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for torchs, cores, ranks, expected in ((8, 8, 1, 8), (8, 3, 1, 3), (8, 8, 2, 4), (8, 3, 4, 1), (2, 8, 1, 2)):
        monkeypatch.setattr("cdlm.scheduler.steps.threads.free_cores", lambda cores=cores: cores)
        torch.set_num_threads(torchs)
        Threads(EngineOptions(model="", tensor_parallel_size=ranks))
        assert torch.get_num_threads() == expected


def test_free_cores_are_those_that_the_process_is_bound_to() -> None:
    cores = os.sched_getaffinity(0)
    assert 1 <= free_cores() <= len(cores)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert free_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        # A path of the host, which a container does not see: what is mounted is its own group.
        ("0::/kubepods/pod1\n", {"cpu.max": "100000 50000\n"}, 2.0),
        ("0::/../../x\n", {"cpu.max": "100000 50000\n"}, 2.0),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/a\n", {}, None),
        ("0::/a\n", {"a/cpu.max": "\n"}, None),
        ("2:cpu,pids:/d\n0::/\n", {"cpu,pids/d/cpu.cfs_quota_us": "300", "cpu,pids/d/cpu.cfs_period_us": "100"}, 3.0),
        ("1:cpu:/d\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/d\n3:cpuset:/\n", {"cpuset/cpu.max": "1 1", "cpu/d/cpu.cfs_quota_us": "x"}, None),
        ("nonsense\n", {}, None),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(groups: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "root") == expected
    assert cpu_quota(tmp_path / "nowhere", tmp_path / "root") is None


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "1"}])
def test_how_threads_wait_is_left_to_a_user_who_says_it(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}.items() <= child.environment().items()
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert {name: child.environment()[name] for name in child.WAITING if name in child.environment()} == own


SPY = """
import json, os, pathlib
pathlib.Path(os.environ["SPY"], f"{os.getpid()}").write_text(json.dumps(dict(os.environ)))
"""


def test_waiting_threads_of_every_engine_process_sleep(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(SPY)
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setenv("SPY", str(tmp_path / "seen"))
    here = dict(os.environ)

    async def pids() -> list[int]:
        client = EngineClient(EngineOptions(model=str(directory), tensor_parallel_size=2, page_size=8))
        await client.start()
        try:
            await client.wait_ready()
            assert client.pid is not None
            return [client.pid, *children(client.pid)]
        finally:
            await client.stop()

    engine, rank = asyncio.run(pids())
    for pid in (engine, rank):
        seen = json.loads((tmp_path / "seen" / str(pid)).read_text())
        assert seen["OMP_WAIT_POLICY"] == "PASSIVE"
    assert dict(os.environ) == here
