"""What clients see when the engine process dies or hangs under load."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Server, running_server

RUNNING, STREAMS = 4, 16


def engine_of(server: Server) -> int:
    """Process id of the engine."""
    pid = server.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def start_streams(server: Server, count: int, max_tokens: int) -> tuple[list[threading.Thread], list[list[str]]]:
    """Reads that many streams, each in a thread, into lists of lines."""
    lines: list[list[str]] = [[] for _ in range(count)]

    def read(number: int) -> None:
        body = {"prompt": f"hello {number}", "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.Client(base_url=server.url, timeout=240) as client,
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines[number].append(str(response.status_code))
            lines[number].extend(line for line in response.iter_lines() if line)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, lines


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_streams_that_had_begun_end_with_an_error_and_queued_ones_are_served(fault: int, tmp_path: Path) -> None:
    flags = ("--max-num-seqs", str(RUNNING), "--engine-hang-timeout-s", "3", "--confidence-threshold", "1")
    with running_server(tmp_path / "log", *flags) as server:
        server.complete()
        threads, lines = start_streams(server, STREAMS, 256)
        server.wait_for(lambda: server.metric("cdlm_num_requests_waiting") == STREAMS - RUNNING, 60)
        server.wait_for(lambda: sum(len(stream) > 1 for stream in lines) == RUNNING, 60)
        os.kill(engine_of(server), fault)
        server.wait_for(lambda: server.client.get("/readyz").status_code == 503, 30)
        ended = [stream for stream in lines if len(stream) > 1]
        assert len(ended) == RUNNING
        server.wait_for(lambda: all(stream[-1] == "data: [DONE]" for stream in ended))
        assert all('"server_error"' in stream[-2] for stream in ended)
        server.wait_ready()
        for thread in threads:
            thread.join(240)
        served = [stream for stream in lines if all(stream is not other for other in ended)]
        assert len(served) == STREAMS - RUNNING
        for stream in served:
            assert stream[0] == "200"
            assert '"finish_reason":"length"' in stream[-2]
            assert stream[-1] == "data: [DONE]"
        server.wait_idle()
        server.complete()
        assert server.metric("cdlm_engine_restarts_total") == 1


def test_restarts_of_an_engine_that_keeps_dying_are_spaced(tmp_path: Path) -> None:
    with running_server(tmp_path / "log") as server:
        for restart in range(1, 4):
            started = time.monotonic()
            os.kill(engine_of(server), signal.SIGKILL)
            server.wait_for(lambda: server.client.get("/readyz").status_code == 503)
            server.wait_ready()
            assert time.monotonic() - started > 0.2 * 2 ** (restart - 1)  # The pauses are 0.2, 0.4, 0.8 s.
            assert server.metric("cdlm_engine_restarts_total") == restart
        server.complete()


def test_a_lost_rank_costs_what_a_lost_engine_does(tmp_path: Path) -> None:
    """Two processes share the layers: a request that runs when one dies ends with an error, and both come back."""
    flags = ("--tensor-parallel-size", "2", "--threads", "1", "--confidence-threshold", "1")
    with running_server(tmp_path / "log", *flags) as server:
        expected = server.complete()["choices"]
        for when in ("idle", "running"):
            threads, lines = start_streams(server, 2 if when == "running" else 0, 1500)
            server.wait_for(lambda lines=lines: all(len(stream) > 1 for stream in lines))  # type: ignore[misc]
            engine = engine_of(server)
            (rank,) = Path(f"/proc/{engine}/task/{engine}/children").read_text().split()
            os.kill(int(rank), signal.SIGKILL)
            server.wait_for(lambda: server.client.get("/readyz").status_code == 503)
            server.wait_ready()
            for thread in threads:
                thread.join(60)
            assert all('"server_error"' in stream[-2] for stream in lines)
            assert server.complete()["choices"] == expected
        server.wait_idle()
        assert server.metric("cdlm_engine_restarts_total") == 2
