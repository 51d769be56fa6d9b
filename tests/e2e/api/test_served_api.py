"""The interface of a real server: streams, chats, metrics, bad input, disconnects."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdlm.cli.eval.sets import is_right
from cdlm.training.data.mixture import draw_problems
from tests.support.server.served import Server

PROMPT = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"


def test_a_stream_joins_to_the_whole_answer(server: Server) -> None:
    body: dict[str, Any] = {
        "model": "cdlm-nano",
        "prompt": PROMPT,
        "max_tokens": 96,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    whole = server.complete(**body)
    chunks = server.stream("/v1/completions", body)
    choice = whole["choices"][0]
    assert whole["usage"]["completion_tokens"] == len(choice["token_ids"]) == 96
    assert whole["usage"]["denoise_steps"] >= 3
    assert len(chunks) == 3
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]
    assert [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]] == choice["token_ids"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_max_tokens_is_exact_and_extends(server: Server) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "ignore_eos": True, "return_token_ids": True}
    ids = [server.complete(max_tokens=n, **fields)["choices"][0]["token_ids"] for n in (1, 31, 33, 64)]
    assert [len(part) for part in ids] == [1, 31, 33, 64]
    assert all(ids[-1][: len(part)] == part for part in ids)


def test_a_chat_and_its_stream_agree(server: Server) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 64}
    answer = server.post("/v1/chat/completions", body).json()
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["content"]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    deltas = [event["choices"][0]["delta"] for event in server.stream("/v1/chat/completions", body)]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]


def test_several_prompts_and_answers_at_once(server: Server) -> None:
    answer = server.complete(prompt=[PROMPT, "hello"], n=3, temperature=1, seed=5, max_tokens=40)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    again = server.complete(prompt=[PROMPT, "hello"], n=3, temperature=1, seed=5, max_tokens=40)
    assert [c["finish_reason"] for c in again["choices"]] == [c["finish_reason"] for c in answer["choices"]]


def test_a_stop_string_ends_the_answer(server: Server) -> None:
    text = server.complete(prompt=PROMPT, max_tokens=64, ignore_eos=True)["choices"][0]["text"]
    stop = text[10:13]
    choice = server.complete(prompt=PROMPT, max_tokens=64, ignore_eos=True, stop=stop)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")
    server.wait_idle()


def test_word_problems_are_answered(server: Server) -> None:
    problems = draw_problems("words", 12, seed=3, split="development")
    body = {"prompt": [problem.prompt for problem in problems], "max_tokens": 192}
    answers = [choice["text"] for choice in server.complete(**body)["choices"]]
    assert sum(is_right(problem, answer) for problem, answer in zip(problems, answers, strict=True)) >= 6
    for problem, answer in zip(problems[:3], answers, strict=False):
        chunks = server.stream("/v1/completions", {"prompt": problem.prompt, "max_tokens": 192})
        streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert is_right(problem, streamed) == is_right(problem, answer)
        assert streamed.isprintable() or "\n" in streamed


def test_numbers_survive_their_tokens(server: Server) -> None:
    text = "7 bags of 12, 345 in all, not 2048 or 3.14"
    tokens = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json()["prompt"] == text
    echoed = server.complete(prompt=text, max_tokens=4, echo=True)["choices"][0]["text"]
    assert echoed.startswith(text)


def test_the_same_prompt_again_is_found_in_the_cache(server: Server) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT + " Say it again.", "max_tokens": 40, "return_token_ids": True}
    cold, warm = server.complete(**fields), server.complete(**fields)
    assert cold["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert warm["usage"]["prompt_tokens_details"] == {"cached_tokens": warm["usage"]["prompt_tokens"]}
    assert warm["choices"][0]["token_ids"] == cold["choices"][0]["token_ids"]
    assert server.metric("cdlm_prefix_cache_hits_total") >= warm["usage"]["prompt_tokens"]
    assert server.metric("cdlm_prefix_cache_queries_total") > server.metric("cdlm_prefix_cache_hits_total")
    server.wait_idle()
    assert server.metric("cdlm_kv_pages", state="cached") > 0


def test_the_model_is_listed(server: Server) -> None:
    data = server.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in data] == ["cdlm-nano"]
    assert data[0]["max_model_len"] >= 2048
    assert server.client.get("/v1/models/cdlm-nano").json()["id"] == "cdlm-nano"
    for path in ("/health", "/livez", "/readyz", "/ping", "/version", "/openapi.json"):
        assert server.client.get(path).status_code == 200


def test_metrics_count_the_work(server: Server) -> None:
    server.wait_idle()
    before = server.metric("cdlm_generation_tokens_total")
    pages = server.metric("cdlm_kv_pages")
    server.complete(max_tokens=40, ignore_eos=True)
    server.wait_idle()
    assert server.metric("cdlm_generation_tokens_total") == before + 40
    assert server.metric("cdlm_kv_pages") == pages > 0
    for name in (
        "cdlm_forward_duration_seconds_count",
        "cdlm_denoise_steps_per_block_count",
        "cdlm_tokens_finalized_per_forward_count",
        "cdlm_time_to_first_token_seconds_count",
        "cdlm_engine_up",
    ):
        assert server.metric(name) > 0


BAD: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("/v1/completions", {}, 400, "prompt"),
    ("/v1/completions", {"prompt": ""}, 400, "prompt"),
    ("/v1/completions", {"prompt": [[]]}, 400, "prompt"),
    ("/v1/completions", {"prompt": [10**7]}, 400, "prompt"),
    ("/v1/completions", {"prompt": "word " * 4000}, 400, "prompt"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 2**63}, 400, "prompt"),
    ("/v1/completions", {"prompt": "x", "max_tokens": "10"}, 400, "max_tokens"),
    ("/v1/completions", {"prompt": "x", "n": 10**9}, 400, "n"),
    ("/v1/completions", {"prompt": "x", "stop": [""]}, 400, "stop"),
    ("/v1/completions", {"prompt": "x", "confidence_threshold": 2}, 400, "confidence_threshold"),
    ("/v1/completions", {"prompt": "x", "logprobs": 6}, 400, "logprobs"),
    ("/v1/completions", {"prompt": "x", "model": "nope"}, 404, "model"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "x", "content": "y"}]}, 400, "messages[0].role"),
    ("/nope", {}, 404, None),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), BAD)
def test_bad_input_is_refused_and_harmless(
    server: Server, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    response = server.post(path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text
    assert response.headers["x-request-id"]
    server.complete()
    server.wait_idle()


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b'{"prompt": "x", "temperature": NaN}'])
def test_broken_json_is_refused(server: Server, raw: bytes) -> None:
    response = server.client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "message" in response.json()["error"]
    server.complete()


def test_an_oversized_chunked_body_is_refused(server: Server) -> None:
    response = server.client.post(
        "/v1/completions",
        content=(b" " * 100_000 for _ in range(200)),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 413
    server.complete()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_before_it_reads_sees_that_its_body_is_too_large(server: Server, chunked: bool) -> None:
    size, port = 11_000_000, int(server.url.rpartition(":")[2])
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + length + b"\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b" " * size) if chunked else b" " * size
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client, client.makefile("rb") as answer:
        client.sendall(head + body)
        text = answer.read()
    assert text.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 10000000 bytes" in text
    server.complete()


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_frees_the_pages(server: Server, stream: bool) -> None:
    server.wait_idle()
    before = server.metric("cdlm_requests_cancelled_total")
    body = {"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True, "stream": stream, "n": 4}
    body["confidence_threshold"] = 1.0  # One token a step: slow enough to leave in the middle.
    with httpx.Client(base_url=server.url, timeout=120) as client:
        if stream:
            with client.stream("POST", "/v1/completions", json=body) as response:
                first = next(response.iter_lines())
                assert json.loads(first.removeprefix("data: "))["choices"]
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=body, timeout=1.0)
    server.wait_for(lambda: server.metric("cdlm_requests_cancelled_total") == before + 4)
    server.wait_idle()
    server.complete()


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has loaded is read from /proc")
def test_torch_is_loaded_in_the_engine_alone(server: Server) -> None:
    """Chats, grammars and metrics of the tests above included."""
    server.complete(response_format={"type": "json_object"}, max_tokens=64)
    (engine,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    with_torch = ["libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in (server.process.pid, engine)]
    assert with_torch == [False, True]
