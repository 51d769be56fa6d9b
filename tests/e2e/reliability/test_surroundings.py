"""What happens around the server: a full disk for its log, a clock that jumps."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.reliability.load import Streams, check_well
from tests.e2e.reliability.report import Report
from tests.support.forks import script
from tests.support.places import ROOT
from tests.support.server.served import Server, free_port, running_server

FEW_STEPS = {"prompt": "hello", "confidence_threshold": 0.3}
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def test_a_full_disk_for_the_log(tmp_path: Path, report: Report) -> None:
    port = free_port()
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "cdlm", "serve", "--port", str(port), "--threads", "1"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=full, stderr=full)
    (tmp_path / "log").write_text("the log went to /dev/full")
    server = Server(process, f"http://127.0.0.1:{port}", tmp_path / "log")
    try:
        server.wait_ready()
        answers = Streams(server, [FEW_STEPS | {"max_tokens": 64}] * 20).join()
        check_well(server)
        report.row("no room for the log", tried=20, survived=sum(answer.complete for answer in answers))
    finally:
        server.client.close()
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian package faketime)")
def test_a_clock_that_jumps(tmp_path: Path, report: Report) -> None:
    """A day ahead and two back, while streams run: nothing times out, and no interval is negative."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    variables = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    flags = ("--confidence-threshold", "1", "--request-timeout-s", "120", "--engine-hang-timeout-s", "60")
    with running_server(tmp_path / "log", *flags, **variables) as server:
        expected = server.complete()["choices"]
        body = {"prompt": "hello", "max_tokens": 300, "ignore_eos": True}
        streams = Streams(server, [body] * 8)
        server.wait_for(lambda: all(answer.begun for answer in streams.answers), 60)
        for jump in ("+1d", "-1d", "+0"):
            clock.write_text(jump)
            created = server.complete()["created"]
            assert abs(created - time.time() - {"+1d": 86400, "-1d": -86400, "+0": 0}[jump]) < 60
        answers = streams.join()
        sums = [line for line in server.client.get("/metrics").text.splitlines() if "_seconds_sum" in line]
        assert sums
        assert all(0 <= float(line.rsplit(" ", 1)[1]) < 3600 for line in sums)
        check_well(server, expected)
        assert server.metric("cdlm_engine_restarts_total") == 0
        report.row("the clock jumps by days", tried=8, survived=sum(answer.complete for answer in answers))


def test_a_process_limit_on_open_files(tmp_path: Path, report: Report) -> None:
    """More clients than file descriptors: those that get none wait or fail, and the server goes on."""
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); from cdlm.cli.main import main; main()"
    )
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CDLM_")}
    environment["CDLM_MODEL"] = "cdlm-nano"
    with (tmp_path / "log").open("wb") as sink:
        command = script.command(limited, "serve", "--port", str(port), "--threads", "1")
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=sink)
    server = Server(process, f"http://127.0.0.1:{port}", tmp_path / "log")
    try:
        server.wait_ready()
        answers = Streams(server, [FEW_STEPS | {"max_tokens": 32}] * 80).join()
        served = sum(answer.complete for answer in answers)
        check_well(server)
        assert served
        report.row("80 clients, 64 file descriptors", tried=80, survived=served)
    finally:
        server.client.close()
        process.terminate()
        process.wait(30)
    said = (tmp_path / "log").read_text()
    assert "connections wait, since none can be accepted: Too many open files" in said
    assert said.count("none can be accepted") < 20  # Not once for every attempt.
    assert "Traceback" not in said
