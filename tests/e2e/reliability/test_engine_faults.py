"""The engine process dies, hangs, loses a rank or runs out of memory under load."""

import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.reliability.load import Streams, check_well, children, engine_of
from tests.e2e.reliability.report import Report
from tests.support.matrix import some
from tests.support.server.served import Server, running_server

HANG_S, RUNNING, QUEUED = 2.0, 8, 4
# One token a step: long enough that everything is still running when the fault comes.
SLOW = ("--confidence-threshold", "1")


def bodies(count: int, max_tokens: int) -> list[dict[str, Any]]:
    return [{"prompt": f"hello {number}", "max_tokens": max_tokens, "ignore_eos": True} for number in range(count)]


def ready(server: Server) -> bool:
    return server.client.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine dies and hangs, one after the other."""
    flags = ("--max-num-seqs", str(RUNNING), "--engine-hang-timeout-s", f"{HANG_S:g}", *SLOW)
    with running_server(tmp_path_factory.mktemp("slow") / "log", *flags) as server:
        yield server


# How a hang is found is in tests/e2e/engine/test_client.py as well; what follows is the same.
@pytest.mark.parametrize("fault", some([signal.SIGKILL, signal.SIGSTOP], every=2))
def test_streams_that_had_begun_end_with_an_error_and_queued_ones_are_served(
    fault: int, slow: Server, report: Report
) -> None:
    """Of 12 requests 8 run: those get an error event, the others never notice."""
    server, running, count = slow, RUNNING, RUNNING + QUEUED
    restarts = server.metric("cdlm_engine_restarts_total")
    expected = server.complete()["choices"]
    streams = Streams(server, bodies(count, 128))
    server.wait_for(lambda: sum(answer.begun for answer in streams.answers) == running, 120)
    server.wait_for(lambda: server.metric("cdlm_num_requests_waiting") == count - running, 60)
    begun = [answer for answer in streams.answers if answer.begun]
    os.kill(engine_of(server), fault)
    struck = time.monotonic()
    server.wait_for(lambda: not ready(server), 60)
    unready_s = time.monotonic() - struck
    server.wait_for(lambda: all(answer.failed for answer in begun), 60)
    server.wait_ready()
    recovery_s = time.monotonic() - struck
    answers = streams.join()
    assert all(answer.failed for answer in begun)
    served = [answer for answer in answers if answer.complete and answer.status == 200]
    assert len(served) == count - running
    check_well(server, expected)
    assert server.metric("cdlm_engine_restarts_total") == restarts + 1
    errors_s = max(answer.ended for answer in begun) - struck
    waited = {signal.SIGKILL: "killed", signal.SIGSTOP: f"stopped, hang limit {HANG_S:g} s"}[signal.Signals(fault)]
    report.row(
        f"engine {waited}, {running} streams running, {count - running} requests queued", tried=count,
        survived=len(begun) + len(served), recovery_s=recovery_s, error_events_s=round(errors_s, 2),
        unready_s=round(unready_s, 2),
    )  # fmt: skip


def test_restarts_of_an_engine_that_keeps_dying_are_spaced(tmp_path: Path, report: Report) -> None:
    with running_server(tmp_path / "log") as server:
        times = []
        for _ in range(2):
            started = time.monotonic()
            os.kill(engine_of(server), signal.SIGKILL)
            server.wait_for(lambda: not ready(server))
            server.wait_ready()
            times.append(time.monotonic() - started)
        check_well(server)
        assert re.findall(r"starting it again in ([0-9.]+) s", server.log.read_text()) == ["0.2", "0.4"]
        report.row("engine killed twice in a row", tried=2, survived=len(times), recovery_s=max(times))


@pytest.mark.parametrize("count", some([2, 0], every=2))
def test_a_lost_rank_costs_what_a_lost_engine_does(count: int, tmp_path: Path, report: Report) -> None:
    """Two processes share the layers: requests that run when one dies end with an error, and both come back."""
    flags = ("--tensor-parallel-size", "2", "--threads", "1", *SLOW)
    with running_server(tmp_path / "log", *flags) as server:
        expected = server.complete()["choices"]
        streams = Streams(server, bodies(count, 1500))
        server.wait_for(lambda: all(answer.begun for answer in streams.answers), 60)
        (rank,) = children(engine_of(server))
        os.kill(rank, signal.SIGKILL)
        struck = time.monotonic()
        server.wait_for(lambda: not ready(server), 60)
        server.wait_ready()
        recovery_s = time.monotonic() - struck
        answers = streams.join()
        assert all(answer.failed for answer in answers)
        check_well(server, expected)
        assert server.metric("cdlm_engine_restarts_total") == 1
        report.row(
            "a process that shares the layers killed", tried=count, survived=sum(answer.failed for answer in answers),
            recovery_s=recovery_s,
        )  # fmt: skip


def test_an_engine_without_memory_ends_requests_and_serves_again(tmp_path: Path, report: Report) -> None:
    """Allocations fail for real: the engine's address space is limited to what it has, under load."""
    with running_server(tmp_path / "log", "--max-num-seqs", "16", *SLOW) as server:
        expected = server.complete()["choices"]
        streams = Streams(server, bodies(8, 120))
        server.wait_for(lambda: all(answer.begun for answer in streams.answers), 60)
        engine = engine_of(server)
        limits = resource.prlimit(engine, resource.RLIMIT_AS)
        size = int(Path(f"/proc/{engine}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.prlimit(engine, resource.RLIMIT_AS, (size, limits[1]))
        # A prompt this long needs memory that no request before it has needed.
        long = {"prompt": list(range(10, 60)) * 36, "max_tokens": 8, "ignore_eos": True}
        more = Streams(server, [long | {"seed": number} for number in range(4)])
        struck = time.monotonic()
        answers = [*streams.join(), *more.join()]
        recovery_s = None
        if children(server.process.pid) == [engine]:
            resource.prlimit(engine, resource.RLIMIT_AS, limits)
        else:
            server.wait_ready()
            recovery_s = time.monotonic() - struck
        check_well(server, expected)
        told = [answer for answer in answers if answer.failed or answer.refused]
        assert told
        report.row(
            "engine's allocations fail", tried=len(answers), recovery_s=recovery_s, errors=len(told),
            survived=len(told) + sum(answer.complete for answer in answers),
            engine="went on" if recovery_s is None else "restarted",
        )  # fmt: skip
