"""More than fits: bursts, keys that flood, a pool that is too small, clients that leave or never read."""

import json
import socket
import statistics
import time
from pathlib import Path
from typing import Any

from cdlm.server.access.keys import new_key
from tests.e2e.reliability.load import Answer, Streams, check_well, engine_of, resident_mb
from tests.e2e.reliability.report import Report
from tests.support.server.served import Server, running_server

ROWS, WAITING = 2, 4
CAPACITY = ROWS + WAITING


def body(number: int, max_tokens: int = 64) -> dict[str, Any]:
    return {"prompt": f"Tom has {number} apples.", "max_tokens": max_tokens, "ignore_eos": True}


def text(answer: Answer) -> str:
    events = [json.loads(line.removeprefix("data: ")) for line in answer.lines[:-1]]
    return "".join(event["choices"][0]["text"] for event in events if event["choices"])


def p99(answers: list[Answer]) -> float:
    return statistics.quantiles([answer.ended - answer.started for answer in answers], n=100)[98]


def test_a_burst_of_ten_times_what_fits(tmp_path: Path, report: Report) -> None:
    """Whoever is admitted gets the answer that the request gets alone; everyone else a 429 at once."""
    count = 10 * CAPACITY
    flags = ("--max-num-seqs", str(ROWS), "--max-waiting-requests", str(WAITING))
    with running_server(tmp_path / "log", *flags) as server:
        alone = [server.complete(**body(number))["choices"][0]["text"] for number in range(CAPACITY)]
        calm = Streams(server, [body(number) for number in range(CAPACITY)]).join()
        assert all(answer.complete for answer in calm)
        before = resident_mb(server.process.pid), resident_mb(engine_of(server))
        answers = Streams(server, [body(number % CAPACITY) for number in range(count)]).join()
        after = resident_mb(server.process.pid), resident_mb(engine_of(server))
        admitted = [(number, answer) for number, answer in enumerate(answers) if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429 and answer.refused]
        assert len(admitted) >= CAPACITY
        assert refused
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        right = [answer for number, answer in admitted if answer.complete and text(answer) == alone[number % CAPACITY]]
        check_well(server)
        report.row(
            f"burst of {count} for {CAPACITY} places", tried=count, survived=len(right) + len(refused),
            admitted=len(admitted), p99_admitted_over_p99_at_capacity=round(
                p99([answer for _, answer in admitted]) / p99(calm), 2
            ),
            grown_mb=[round(there - here, 1) for here, there in zip(before, after, strict=True)],
        )  # fmt: skip


def test_a_key_that_floods_does_not_hold_up_another(tmp_path: Path, report: Report) -> None:
    (flooding, one), (polite, other) = new_key("flooding"), new_key("polite")
    (tmp_path / "keys").write_text(f"{one}\n{other}\n")
    flags = ("--max-num-seqs", "2", "--api-key-file", str(tmp_path / "keys"))
    with running_server(tmp_path / "log", *flags) as server:
        server.client.headers["authorization"] = f"Bearer {polite}"
        server.complete()
        flood = Streams(server, [body(number, 128) for number in range(12)], headers=bearer(flooding))
        server.wait_for(lambda: server.metric("cdlm_num_requests_waiting") >= 9, 60)
        mine = Streams(server, [body(number, 64) for number in range(3)], headers=bearer(polite)).join()
        done = sum(bool(answer.ended) for answer in flood.answers)
        theirs = flood.join()
        assert all(answer.complete for answer in (*mine, *theirs))
        assert done < 6, "the polite key waited for the flood"
        check_well(server)
        report.row("12 requests of one key before 3 of another", tried=15, flood_done_before=done,
                   survived=sum(answer.complete for answer in (*mine, *theirs)))  # fmt: skip


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_requests_that_do_not_fit_the_pool_together_are_preempted_and_right(
    server: Server, tmp_path: Path, report: Report
) -> None:
    bodies = [body(number, 128) for number in range(4)]
    alone = [server.complete(**each)["choices"][0]["text"] for each in bodies]
    page_bytes = page_size_in_bytes()
    # One full context and a little: far less than eight requests of five pages.
    flags = ("--kv-cache-memory", str(page_bytes * 24), "--max-model-len", "640", "--enable-prefix-caching", "false")
    with running_server(tmp_path / "log", *flags) as tight:
        answers = Streams(tight, bodies * 2).join()
        right = [answer for answer, expected in zip(answers, alone * 2, strict=True) if text(answer) == expected]
        check_well(tight)
        preemptions = tight.metric("cdlm_preemptions_total")
        assert preemptions > 0
        report.row("8 requests, pages for 4", tried=8, survived=len(right), preemptions=int(preemptions))


def page_size_in_bytes() -> int:
    from cdlm.model.assets import BUNDLED_STUDENT
    from cdlm.model.attention.cache import PagedCache
    from cdlm.model.loading.checkpoint import load_checkpoint

    transformer = load_checkpoint(BUNDLED_STUDENT).transformer
    return PagedCache.bytes_per_page(transformer.config, 32, transformer.embed_tokens.weight.dtype)


def open_stream(server: Server, max_tokens: int, receive_buffer: int | None = None) -> socket.socket:
    """Sends a request for a stream and reads nothing."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    content = json.dumps({"stream": True, "diffusing": True} | body(1, max_tokens)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def test_clients_that_leave_at_any_time(tmp_path: Path, report: Report) -> None:
    """While queued, in prefill, in a block, and after the last one."""
    with running_server(tmp_path / "log", "--max-num-seqs", "4", "--confidence-threshold", "1") as server:
        expected = server.complete()["choices"]
        started = time.monotonic()
        connections = []
        for number in range(36):
            connections.append(open_stream(server, 1000))
            time.sleep(0.004 * (number % 7))
            if number % 3:
                connections.pop(number % len(connections)).close()
        for connection in connections:
            connection.close()
        left = time.monotonic()
        server.wait_idle()
        settled = time.monotonic() - left
        check_well(server, expected)
        right = sum(server.complete()["choices"] == expected for _ in range(10))
        report.row("10 requests after 36 clients that left", tried=10, survived=right,
                   all_pages_back_s=round(settled, 2), took_s=round(left - started, 1))  # fmt: skip


def test_clients_that_never_read(tmp_path: Path, report: Report) -> None:
    """What they are sent stays bounded, and others are served meanwhile."""
    with running_server(tmp_path / "log", "--request-timeout-s", "2", "--confidence-threshold", "1") as server:
        expected = server.complete()["choices"]
        before = resident_mb(server.process.pid)
        connections = [open_stream(server, 1900, receive_buffer=4096) for _ in range(10)]
        server.wait_for(lambda: server.metric("cdlm_num_requests_running") > 0)
        right = sum(server.complete()["choices"] == expected for _ in range(5))
        server.wait_for(lambda: server.metric("cdlm_num_requests_running") == 0, 120)
        grown = resident_mb(server.process.pid) - before
        check_well(server, expected)
        for connection in connections:
            connection.close()
        assert grown < 100
        report.row("5 requests beside 10 clients that never read", tried=5, survived=right, grown_mb=round(grown, 1))
