"""The OpenAPI document holds for what the server really takes and answers."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cdlm.scheduler.errors import EngineDeadError
from cdlm.server.app import OPERATIONS
from cdlm.server.openai.schema.examples import EXAMPLES
from cdlm.server.page.reference import render
from tests.support.server.bench import Bench, widen

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
MORE: dict[str, Any] = {"return_token_ids": True, "stop": ["there"], "seed": 7}
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}

QUESTIONS = [
    {"type": "predicate", "instructions": "a"},
    {"type": "choice", "name": "b", "instructions": "b", "choices": [{"value": "x"}, {"value": True}]},
    {"type": "score", "instructions": "c", "levels": [{"label": "x"}, {"label": "y"}]},
]
SCHEMA = {"type": "json_schema", "name": "a", "description": "b", "schema": {"type": "boolean"}, "strict": None}

# Requests and the model of their answer; of a stream that of its events.
REQUESTS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": "hi"}, "Completion"),
    ("/v1/completions", {"prompt": "hi", "logprobs": 3, "echo": True, "n": 2} | MORE, "Completion"),
    ("/v1/completions", {"prompt": "hi", "suffix": "x", "reasoning_effort": "high"}, "Completion"),
    ("/v1/completions", {"prompt": "hi", "stream": True}, "CompletionChunk"),
    ("/v1/completions", {"prompt": "hi", "return_step_map": True}, "Completion"),
    ("/v1/completions", {"prompt": "hi", "return_step_map": True, "stream": True}, "CompletionChunk"),
    ("/v1/completions", {"prompt": "hi", "logprobs": 0, "echo": True, "n": 2} | MORE | STREAM, "CompletionChunk"),
    ("/v1/fim/completions", {"prompt": "hi"}, "FimCompletion"),
    ("/v1/fim/completions", {"prompt": "hi", "suffix": "x"} | MORE, "FimCompletion"),
    ("/v1/fim/completions", {"prompt": "hi", "suffix": "x"} | MORE | STREAM, "FimChunk"),
    ("/v1/edit/completions", EXAMPLES["EditRequest"], "EditCompletion"),
    ("/v1/edit/completions", EXAMPLES["EditRequest"] | MORE, "EditCompletion"),
    ("/v1/chat/completions", CHAT, "ChatCompletion"),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2, "n": 2} | MORE, "ChatCompletion"),
    ("/v1/completions", {"prompt": ["hi", "a"], "n": 2, "vote": True}, "Completion"),
    ("/v1/chat/completions", CHAT | {"n": 2, "vote": {"pattern": "(world)"}}, "ChatCompletion"),
    ("/v1/chat/completions", CHAT | {"stream": True}, "ChatCompletionChunk"),
    ("/v1/chat/completions", CHAT | {"return_step_map": True}, "ChatCompletion"),
    ("/v1/chat/completions", CHAT | {"return_step_map": True, "stream": True}, "ChatCompletionChunk"),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "n": 2} | MORE | STREAM, "ChatCompletionChunk"),
    ("/v1/responses", {"input": "hi"}, "ResponseAnswer"),
    ("/v1/responses", {"input": CHAT["messages"], "max_output_tokens": 2, "metadata": {"a": "b"}}, "ResponseAnswer"),
    (
        "/v1/responses",
        {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1, "stream": True} | MORE,
        "ResponseEvent",
    ),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 2, "stream": True}, "ResponseEvent"),
    ("/v1/responses", {"input": "hi", "text": {"format": {"type": "json_object"}}}, "ResponseAnswer"),
    ("/v1/responses", {"input": "hi", "text": {"format": SCHEMA}, "stream": True}, "ResponseEvent"),
    ("/v1/decisions", {"input": "hi", "questions": QUESTIONS}, "Decision"),
    ("/v1/decisions", {"input": CHAT["messages"], "questions": QUESTIONS[:1], "priority": 5}, "Decision"),
    ("/v1/messages", CHAT | {"max_tokens": 8}, "MessageAnswer"),
    ("/v1/messages", CHAT | {"max_tokens": 8, "stop_sequences": [", hello"]}, "MessageAnswer"),
    ("/v1/messages", CHAT | {"max_tokens": 8, "stream": True}, "MessageEvent"),
    ("/v1/messages/count_tokens", CHAT, "TokenCount"),
    ("/v1/tokenize", {"prompt": "hi"}, "Tokenized"),
    ("/v1/tokenize", CHAT, "Tokenized"),
    ("/v1/detokenize", {"tokens": [5]}, "Detokenized"),
]


@pytest.fixture(scope="module")
async def document(lasting_bench: Bench) -> dict[str, Any]:
    """What any server says of its API."""
    found: dict[str, Any] = (await lasting_bench.client.get("/openapi.json")).json()
    return found


def check(document: dict[str, Any], model: str, value: object) -> None:
    schema = {"$ref": f"#/components/schemas/{model}", "components": document["components"]}
    Draft202012Validator(schema).validate(value)


def payloads(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(("path", "body", "model"), REQUESTS)
async def test_answers_are_as_documented(
    bench: Bench, document: dict[str, Any], path: str, body: dict[str, Any], model: str
) -> None:
    if path in ("/v1/decisions", "/v1/edit/completions"):
        widen(bench)
    operation = OPERATIONS[path]
    assert model in {shown.__name__ for shown in (operation.answer, operation.event) if shown}
    assert operation.body is not None
    check(document, operation.body.__name__, body)
    check(document, operation.body.__name__, body | {"model": None, "seed": None})
    response = await bench.post(path, body)
    assert response.status_code == 200, response.text
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    assert response.headers["content-type"].partition(";")[0] in content
    found = payloads(response.text) if body.get("stream") else [response.json()]
    assert found
    for value in found:
        check(document, model, value)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/health", "/ping", "/readyz", "/livez", "/version"])
async def test_plain_routes_are_as_documented(bench: Bench, document: dict[str, Any], path: str) -> None:
    operation = OPERATIONS["/v1/models/{name}" if path.endswith("tiny") else path]
    assert operation.answer is not None
    check(document, operation.answer.__name__, (await bench.client.get(path)).json())


@pytest.mark.parametrize("path", [path for path, operation in OPERATIONS.items() if operation.event])
async def test_errors_are_as_documented(bench: Bench, document: dict[str, Any], path: str) -> None:
    described = document["paths"][path]["post"]["responses"]
    operation = OPERATIONS[path]
    error, unready = operation.error.__name__, 529 if path == "/v1/messages" else 503
    assert set(described) == {
        "200", "400", "401", "404", "408", "413", "415", "429", "431", "500", str(unready), "504",
    }  # fmt: skip
    assert operation.event is not None
    body = next(given for known, given, _ in REQUESTS if known == path)
    found = [
        await bench.post(path, body | {"temperature": 9}),
        await bench.post(path, body | {"model": "nope"}),
        await bench.client.post(path, content=b"{}", headers={"content-encoding": "br"}),
        await bench.client.post(path, content=b"{", headers={"content-type": "application/json"}),
    ]
    bench.engine.fail_after = (0, EngineDeadError("gone"))
    found.append(await bench.post(path, body))
    assert [response.status_code for response in found] == [400, 404, 415, 400, unready]
    for response in found:
        check(document, error, response.json())
        assert str(response.status_code) in described
        assert ("retry-after" in response.headers) == ("retry-after" in described[str(response.status_code)]["headers"])
    bench.engine.fail_after = (1, EngineDeadError("gone"))
    *pieces, last = payloads((await bench.post(path, body | {"stream": True})).text)
    for piece in pieces:
        check(document, operation.event.__name__, piece)
    check(document, "ResponseEvent" if "input" in body else error, last)


async def test_every_route_is_described_and_every_example_holds(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == set(OPERATIONS)
    assert document["openapi"].startswith("3.1")
    Draft202012Validator.check_schema({"components": document["components"]})
    for name, example in EXAMPLES.items():
        check(document, name, example)
    for path, operation in OPERATIONS.items():
        if operation.body is not None:
            operation.body.model_validate(EXAMPLES[operation.body.__name__])
        [described] = document["paths"][path].values()
        assert described["summary"]
        assert "422" not in described["responses"]
    text = json.dumps(document)
    used = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used == set(document["components"]["schemas"])


async def test_the_page_shows_every_route_and_loads_nothing(bench: Bench, document: dict[str, Any]) -> None:
    response = await bench.client.get("/docs")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = response.text
    assert all(path in page for path in document["paths"])
    assert all(f'id="{name}"' in page for name in document["components"]["schemas"])
    assert not any(word in page for word in ("<script", "http://", "https://", "src=", "@import"))
    hostile = document | {"info": {"title": "<b>", "version": "&", "description": "<img>"}}
    assert not any(word in "".join(render(hostile)) for word in ("<b>", "<img"))
