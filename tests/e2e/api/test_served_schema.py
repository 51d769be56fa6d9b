"""What a real server sends, canvases and log-probabilities included, is what its OpenAPI document says."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.server.served import Server

CHAT = [{"role": "user", "content": "hello"}]
MORE: dict[str, Any] = {"return_token_ids": True, "seed": 7, "temperature": 1, "reasoning_effort": "low"}
LOGPROBS = ["message.output_text.logprobs"]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("completions", MORE | {"prompt": "Tom has", "max_tokens": 40, "logprobs": 5, "echo": True}),
    ("completions", MORE | {"prompt": "Tom has", "suffix": " apples", "max_tokens": 40, "n": 2}),
    ("chat/completions", MORE | {"messages": CHAT, "max_tokens": 40, "logprobs": True, "top_logprobs": 3}),
    ("responses", {"input": CHAT, "max_output_tokens": 40, "include": LOGPROBS, "top_logprobs": 3}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "body"), CASES)
def test_answers_are_as_documented(server: Server, route: str, body: dict[str, Any], stream: bool) -> None:
    document = server.client.get("/openapi.json").json()
    extra = {"stream": True, "diffusing": True, "stream_granularity": "step"} if stream else {}
    response = server.post(f"/v1/{route}", body | extra)
    assert response.status_code == 200, response.text
    kind = response.headers["content-type"].partition(";")[0]
    schema = document["paths"][f"/v1/{route}"]["post"]["responses"]["200"]["content"][kind]["schema"]
    found = [response.text]
    if stream:
        data = schema["properties"]["data"]
        schema = data.get("contentSchema") or data["anyOf"][0]["contentSchema"]
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        found = [line for line in lines if line != "[DONE]"]
        assert any('"diffusing"' in line for line in found)
    validator = Draft202012Validator(schema | {"components": document["components"]})
    for payload in found:
        validator.validate(json.loads(payload))
