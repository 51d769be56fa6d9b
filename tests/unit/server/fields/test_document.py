"""The published schema of a body accepts exactly what the body's model accepts."""

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from cdlm.server.app import OPERATIONS
from tests.support.server.bench import Bench
from tests.unit.server.fields.test_protocol import EDIT, JSON, PLAIN

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
}
NAMED = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"name": "a", "description": "d", "schema": {"type": "integer"}, "strict": True}
COMMON: dict[str, Any] = {
    "stop": ["a", "b"], "stop_token_ids": [5], "logit_bias": {"5": 1.5}, "temperature": 0.5, "seed": 7,
    "reasoning_effort": "low", "stream_options": {"include_usage": True, "continuous_usage_stats": False},
    "decoding": "threshold", "mirostat": 0, "service_tier": "auto", "regex": "a+",
    "structured_outputs": {"choice": ["a", "b"]}, "response_format": {"type": "json_schema", "json_schema": SCHEMA},
}  # fmt: skip
FULL: dict[str, list[dict[str, Any]]] = {
    "/v1/completions": [
        {"prompt": "hi", **COMMON}, {"prompt": ["a", "b"]}, {"prompt": [5, 6]}, {"prompt": [[5], [6, 7]]},
    ],
    "/v1/fim/completions": [
        {
            "prompt": "hi", "suffix": "x", "max_tokens": 5, "stop": ["a"], "top_k": -1, "presence_penalty": 1.5, "n": 1,
            "stream": True, "stream_options": {"include_usage": True}, "diffusing": True, "seed": 7, "tools": [],
        },
    ],
    "/v1/edit/completions": [
        {**PLAIN["/v1/edit/completions"], "max_tokens": 5, "temperature": 0.3, "stream": False, "stop": "a"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": EDIT}]}], "stream_granularity": "block"},
    ],
    "/v1/chat/completions": [
        {
            "messages": [
                {"role": "system", "content": "a", "name": "n"},
                {"role": "user", "content": [{"type": "text", "text": "b", "prompt_cache_breakpoint": {}}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "c", "tool_call_id": "1"},
            ],
            "tools": [TOOL], "tool_choice": NAMED, **COMMON,
        },
        {"messages": [{"role": "user", "content": "a"}], "n": 2, "vote": {"pattern": "(a)"}},
        {
            "messages": [{"role": "assistant"}], "tools": [TOOL], "response_format": {"type": "json_object"},
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
        },
    ],
    "/v1/responses": [
        {"input": "hi", "text": {"format": {"type": "json_schema", **SCHEMA}}, "metadata": {"a": "b"}, "seed": 5},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}], "id": "1"},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "5"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
            "tool_choice": {"type": "function", "name": "f"}, "reasoning": {"effort": "low"},
            "include": ["message.output_text.logprobs"], "stream_options": {},
        },
        {
            "input": "a", "tools": [{"type": "function", "name": "f"}],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        },
    ],
    "/v1/decisions": [
        {
            "input": "a", "model": "m", "priority": 5, "cache_salt": "s", "safety_identifier": "u",
            "prompt_cache_options": {"mode": "implicit"}, "questions": [
                {"type": "predicate", "instructions": "b", "name": "n"},
                {"type": "choice", "instructions": [{"type": "input_text", "text": "b"}], "choices": [
                    {"value": "x", "description": "d"}, {"value": True},
                ]},
                {"type": "score", "instructions": "c", "levels": [{"label": "x"}, {"label": "y", "description": "d"}]},
            ],
        },
        {
            "input": [
                {"role": "user", "content": [
                    {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    {"type": "input_json", "data": {"x": [1, None]}}, {"type": "input_json", "data": [{}]},
                ]},
                {"type": "message", "role": "assistant", "phase": "commentary", "content": [
                    {"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"},
                ]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "id": "i"},
                {"type": "function_call_output", "call_id": "1", "output": "5", "status": "completed"},
                {"type": "custom_tool_call", "call_id": "2", "name": "f", "input": "a", "id": "i"},
                {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "a"}]},
            ],
            "questions": [{"type": "predicate", "instructions": "b"}],
        },
    ],
    "/v1/messages": [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "b", "signature": "c"}, {"type": "text", "text": "d"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "e"}]},
                    {"type": "tool_result", "tool_use_id": "1", "content": "e", "is_error": True},
                ]},
                {"role": "assistant", "content": []},
            ],
            "system": [{"type": "text", "text": "s"}], "max_tokens": 5, "stop_sequences": ["a"], "temperature": 0.5,
            "tools": [{"type": "custom", "name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "top_k": 5,
            "metadata": {"user_id": "u"}, "thinking": {"type": "disabled"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "integer"}}},
        },
        {
            "messages": [{"role": "user", "content": "a"}], "system": "s", "max_tokens": 5, "stream": True,
            "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "any"},
        },
    ],
    "/v1/messages/count_tokens": [
        {
            "messages": [{"role": "user", "content": "a"}], "system": "s", "model": "m",
            "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "auto"},
        },
    ],
    "/v1/tokenize": [{"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}], "model": "m"}],
    "/v1/detokenize": [{"tokens": [5]}],
}  # fmt: skip


ODD: list[Any] = [True, False, 1.5, 5.0, [5.0], 1e300, 10**400, [[]], [""], {"": 1}, "x" * 1025]
VALUES = JSON | st.sampled_from(ODD)


@pytest.fixture
def document(make_bench: Callable[..., Bench]) -> dict[str, Any]:
    bench = make_bench()
    found: dict[str, Any] = anyio.run(bench.client.get, "/openapi.json").json()
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in parts for found in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with its part at ``path`` exchanged; a key that is not there is added."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]] if len(path) > 1 else None, path[1:], new)
    return copy


@st.composite
def mutated(draw: st.DrawFn, route: str, names: list[str]) -> Any:
    """A body of the route in which one part is something else, or absent."""
    body = draw(st.sampled_from([*FULL[route], PLAIN.get(route, FULL[route][0])]))
    path = draw(st.sampled_from(places(body)))
    here = body
    for step in path:
        here = here[step]
    if isinstance(here, dict) and draw(st.booleans()):
        inside = sorted(set(here) | set(names if not path else ["name", "type", "strict", "x", "text", "schema"]))
        path = (*path, draw(st.sampled_from(inside)))
    elif path and isinstance(path[-1], str) and draw(st.integers(0, 3)) == 0:
        parent = body
        for step in path[:-1]:
            parent = parent[step]
        return replaced(body, path[:-1], {key: part for key, part in parent.items() if key != path[-1]})
    return replaced(body, path, draw(VALUES))


@pytest.mark.parametrize("route", FULL)
def test_the_schema_accepts_what_the_model_accepts(route: str, document: dict[str, Any]) -> None:
    model = OPERATIONS[route].body
    assert model is not None
    reference = {"$ref": f"#/components/schemas/{model.__name__}", "components": document["components"]}
    schema = Draft202012Validator(reference)
    names = sorted(document["components"]["schemas"][model.__name__]["properties"])

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutated(route, names))
    def agree(body: Any) -> None:
        try:
            model.model_validate(json.loads(json.dumps(body, allow_nan=False)))
            wrong = None
        except ValidationError as error:
            wrong = error
        except ValueError:  # NaN is no JSON.
            return
        if "this text is no JSON" in str(wrong):  # JSON Schema cannot say that a text is one.
            return
        assert (wrong is None) == schema.is_valid(body), f"{json.dumps(body)}\nmodel: {wrong}"

    for body in (*FULL[route], {}, []):
        try:
            model.model_validate(body)
            assert schema.is_valid(body), body
        except ValidationError:
            assert not schema.is_valid(body), body
    agree()
