"""Any JSON as a body: an answer or a 400 that says why, never a failure; and every request leaves nothing behind."""

import json
import math
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import RootModel

from cdlm.server.http.sse import event
from tests.support.server.bench import Bench

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from([0, 1, 2, -1, 0.5, "", "text", "auto", "none", "low"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip

EDIT = "<|current_file_content|><|code_to_edit|>a<|cursor|><|/code_to_edit|><|/current_file_content|>"
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/fim/completions": {"prompt": "hi"},
    "/v1/edit/completions": {"messages": [{"role": "user", "content": EDIT}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/decisions": {"input": "hi", "questions": [{"type": "predicate", "instructions": "a"}]},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5]},
}


def names(path: str) -> list[str]:
    """The fields of a route's body, as its OpenAPI schema has them."""
    from cdlm.server.openai.chat.request import ChatRequest
    from cdlm.server.openai.completions.request import CompletionRequest
    from cdlm.server.openai.decisions.request import DecisionsRequest
    from cdlm.server.openai.edit.request import EditRequest
    from cdlm.server.openai.fim.request import FimRequest
    from cdlm.server.openai.responses.request import ResponsesRequest

    models: dict[str, Any] = {
        "/v1/completions": CompletionRequest,
        "/v1/fim/completions": FimRequest,
        "/v1/edit/completions": EditRequest,
        "/v1/chat/completions": ChatRequest,
        "/v1/responses": ResponsesRequest,
        "/v1/decisions": DecisionsRequest,
    }
    model = models.get(path)
    return sorted(model.model_fields) if model else ["prompt", "tokens", "messages", "add_special_tokens"]


def changed(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """A good body in which some fields hold anything."""
    fields = st.dictionaries(st.sampled_from(names(path)), JSON, min_size=1, max_size=3)
    return fields.map(lambda some: PLAIN[path] | some)


def check(bench: Bench, path: str, body: object) -> None:
    async def post() -> httpx.Response:
        # ``json.dumps`` writes NaN and Infinity, which are no JSON: they must be refused as well.
        content = json.dumps(body).encode()
        return await bench.client.post(path, content=content, headers={"content-type": "application/json"})

    response = anyio.run(post)
    if response.status_code != 200:
        error = response.json()["error"]
        assert response.status_code == (404 if error["code"] == "model_not_found" else 400), response.text
        assert error["type"] == "invalid_request_error"
        assert error["message"]
    assert bench.services.gate.in_flight == 0


@pytest.mark.parametrize("path", PLAIN)
def test_any_values_in_known_fields(make_bench: Callable[..., Bench], path: str) -> None:
    bench = make_bench()

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(changed(path))
    def fuzz(body: dict[str, Any]) -> None:
        check(bench, path, body)

    fuzz()


@pytest.mark.parametrize("path", PLAIN)
def test_any_json(make_bench: Callable[..., Bench], path: str) -> None:
    bench = make_bench()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(JSON)
    def fuzz(body: object) -> None:
        check(bench, path, body)

    fuzz()


def finite(value: Any) -> Any:
    """A value with null in the place of numbers that JSON has not."""
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(JSON)
def test_an_event_is_one_line_and_comes_back(payload: object) -> None:
    """Clients split at line ends, some at Unicode's as well: none may be inside an event."""
    sent = event(RootModel[Any](payload))
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    text = sent.decode("ascii")
    assert len(text[:-2].splitlines()) == 1
    assert repr(json.loads(text[6:])) == repr(json.loads(json.dumps(finite(payload))))
