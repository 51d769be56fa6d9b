"""Every bad request gets the one error shape, names its field, and leaves the server as it was."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench(lasting_bench: Bench) -> Iterator[Bench]:
    """The same server for all; whatever it refuses leaves it as it was."""
    before = lasting_bench.engine.ready
    yield lasting_bench
    assert lasting_bench.services.gate.in_flight == 0
    lasting_bench.engine.ready = before
    lasting_bench.engine.requests.clear()


PROMPT: dict[str, Any] = {"prompt": "hi"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
LONG = "hi " * 200

COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [5, True]}, "prompt"),
    ({"prompt": [5.5]}, "prompt"),
    ({"prompt": [5, -1]}, "prompt"),
    ({"prompt": [10**6]}, "prompt"),
    ({"prompt": [0]}, "prompt"),
    ({"prompt": [[5], "a"]}, "prompt"),
    ({"prompt": LONG}, "prompt"),
    ({"prompt": [5] * 64}, "prompt"),
    (PROMPT | {"max_tokens": 64}, "prompt"),
    (PROMPT | {"max_tokens": -1}, "max_tokens"),
    (PROMPT | {"max_tokens": 2**63}, "prompt"),
    (PROMPT | {"best_of": 10**9}, "best_of"),
    (PROMPT | {"n": 3, "best_of": 2}, "best_of"),
    (PROMPT | {"n": 2, "best_of": 3, "stream": True}, "best_of"),
    (PROMPT | {"logprobs": -1}, "logprobs"),
    (PROMPT | {"logprobs": 6}, "logprobs"),
    (PROMPT | {"logprobs": True}, "logprobs"),
    (PROMPT | {"logprobs": 10**9}, "logprobs"),
    (PROMPT | {"suffix": 5}, "suffix"),
    (PROMPT | {"suffix": "x", "echo": True}, "suffix"),
    (PROMPT | {"suffix": LONG}, "suffix"),
    ({"prompt": [5], "suffix": "x"}, "suffix"),
    (PROMPT | {"echo": 1}, "echo"),
    (PROMPT | {"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    (PROMPT | {"stream_options": {"include_usage": True}, "stream": False}, "stream_options"),
    (PROMPT | {"response_format": {"type": "json_object"}, "suffix": "x"}, "suffix"),
    (PROMPT | {"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    (PROMPT | {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    (PROMPT | {"messages": [{"role": "user", "content": "hi"}]}, "messages"),
    (PROMPT | {"max_completion_tokens": 3}, "max_completion_tokens"),
    (PROMPT | {"top_logprobs": 3}, "top_logprobs"),
]
CHATS: list[tuple[dict[str, Any], str]] = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        "messages[0].content",
    ),
    ({"messages": [{"role": "user", "content": LONG}]}, "messages"),
    (CHAT | {"max_tokens": 0}, "max_tokens"),
    (CHAT | {"max_completion_tokens": 64}, "messages"),
    (CHAT | {"logprobs": 1}, "logprobs"),
    (CHAT | {"top_logprobs": 3}, "top_logprobs"),
    (CHAT | {"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
    (CHAT | {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT | {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    (CHAT | {"response_format": {"type": "xml"}}, "response_format.type"),
    (CHAT | {"tools": [{"type": "function"}]}, "tools[0].function"),
    (CHAT | {"tool_choice": "required"}, "tool_choice"),
    (CHAT | {"functions": [{"name": "f"}]}, "functions"),
    (CHAT | {"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "functions"),
    (CHAT | {"function_call": {"name": "f"}}, "function_call"),
    (CHAT | {"web_search_options": {}}, "web_search_options"),
    (CHAT | {"moderation": {"model": "m"}}, "moderation"),
    (CHAT | {"audio": {"voice": "ash", "format": "mp3"}}, "audio"),
    (CHAT | {"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    (CHAT | {"stream_options": {"continuous_usage_stats": True}, "stream": False}, "stream_options"),
    ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
    ({"messages": [{"role": "assistant", "refusal": "No."}]}, "messages[0].refusal"),
    ({"messages": [{"role": "assistant", "audio": {"id": "1"}}]}, "messages[0].audio"),
    (CHAT | {"modalities": ["audio"]}, "modalities"),
    (CHAT | {"prompt": "hi"}, "prompt"),
    (CHAT | {"suffix": "x"}, "suffix"),
    (CHAT | {"echo": True}, "echo"),
    (CHAT | {"best_of": 3}, "best_of"),
    (CHAT | {"max_output_tokens": 3}, "max_output_tokens"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].function"),
]
BOTH: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": "10"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "7"}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 10**9}, "n"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": ["a"] * 1000}, "stop"),
    ({"stop": "a" * 10**6}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop_token_ids": [10**9]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"confidence_threshold": 0}, "confidence_threshold"),
    ({"confidence_threshold": 1.1}, "confidence_threshold"),
    ({"max_steps_per_block": 0}, "max_steps_per_block"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"presence_penalty": "1"}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": -1.0}, "repetition_penalty"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": -100.5}}, "logit_bias"),
    ({"logit_bias": {"5": "1"}}, "logit_bias"),
    ({"logit_bias": {"5": True}}, "logit_bias"),
    ({"logit_bias": {"5": None}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-5": 1}}, "logit_bias"),
    ({"logit_bias": {"5.0": 1}}, "logit_bias"),
    ({"logit_bias": {"": 1}}, "logit_bias"),
    ({"logit_bias": {"0": 1}}, "logit_bias"),
    ({"logit_bias": {"274": 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 30: 1}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"logit_bias": {str(token): -100 for token in range(1, 274)}}, "logit_bias"),
    ({"logit_bias": {str(token): -100 for token in range(2, 274)}, "min_tokens": 1}, "logit_bias"),
    ({"logit_bias": {str(token): 1 for token in range(2000)}}, "logit_bias"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 1.5}, "min_tokens"),
    ({"min_tokens": 64}, "min_tokens"),
    ({"min_tokens": 8, "max_tokens": 7}, "min_tokens"),
    ({"stream": False, "diffusing": True}, "diffusing"),
    ({"decoding": "x"}, "decoding"),
    ({"stream": False, "stream_granularity": "step"}, "stream_granularity"),
    ({"stream": True, "stream_granularity": "word"}, "stream_granularity"),
    ({"stream": True, "diffusing": 1}, "diffusing"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    ({"logits_processors": ["os.system"]}, "logits_processors"),
    ({"trust_remote_code": True}, "trust_remote_code"),
]
OTHER_NAMES = {"max_tokens", "n"}  # Responses have other names for them, or none.
CASES = (
    [("/v1/completions", body, param) for body, param in COMPLETIONS]
    + [("/v1/chat/completions", body, param) for body, param in CHATS]
    + [("/v1/completions", PROMPT | fields, param) for fields, param in BOTH]
    + [("/v1/chat/completions", CHAT | fields, param) for fields, param in BOTH]
    + [("/v1/responses", {"input": "hi"} | fields, param) for fields, param in BOTH if not fields.keys() & OTHER_NAMES]
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "param"), CASES)
async def test_bad_fields_are_named(bench: Bench, path: str, body: dict[str, Any], param: str, stream: bool) -> None:
    response = await bench.post(path, {"stream": stream} | body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param.partition("[")[0] in error["message"] or error["code"] == "context_length_exceeded"
    assert bench.engine.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nope",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"prompt": "hi", "temperature": NaN}',
        b'{"prompt": "hi", "temperature": 1e999}',
        b'{"prompt": "hi", "presence_penalty": NaN}',
        b'{"prompt": "hi", "repetition_penalty": Infinity}',
        b'{"prompt": "hi", "logit_bias": {"5": NaN}}',
        b'{"prompt": "hi", "logit_bias": {"5": 1e999}}',
        b'{"prompt": "hi", "max_tokens": 1' + b"0" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "hi", "logit_bias": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    ],
)
async def test_bodies_that_are_not_json(bench: Bench, raw: bytes) -> None:
    response = await bench.client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    await bench.complete()


async def test_other_content_types(bench: Bench) -> None:
    response = await bench.client.post("/v1/completions", data={"prompt": "hi"})
    assert response.status_code == 400
    assert "Content-Type" in response.json()["error"]["message"]
    response = await bench.client.post("/v1/completions", content=b"{}", headers={"content-encoding": "gzip"})
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("GET", "/v1/completions", 405, None),
        ("DELETE", "/health", 405, None),
        ("GET", "/v1/models/x/y", 404, "model_not_found"),
    ],
)
async def test_framework_errors_have_the_shape(
    bench: Bench, method: str, path: str, status: int, code: str | None
) -> None:
    response = await bench.client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_unknown_models(bench: Bench) -> None:
    for body in (PROMPT, CHAT):
        path = "/v1/completions" if body is PROMPT else "/v1/chat/completions"
        response = await bench.post(path, body | {"model": "gpt-\u202e\x1b"})
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("model", "model_not_found")


async def test_odd_text_is_served(bench: Bench) -> None:
    for prompt in ("\x00", "\x1b[31m", "\u202e", "<|mask|>"):
        await bench.complete(prompt=prompt)
    response = await bench.client.post(
        "/v1/completions", content=rb'{"prompt": "\ud800"}', headers={"content-type": "application/json"}
    )
    assert response.status_code == 200
    assert all(0 not in request.prompt_ids for request in bench.engine.requests)
