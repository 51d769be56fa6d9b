"""A limit that no answer of the form asked for fits in is refused, with the number of tokens that one needs."""

import json
import re
from typing import Any

import pytest

from cdlm.model.decoding.grammar.endings.ending import Speller
from tests.support.server.bench import Bench, widen
from tests.unit.server.forms.test_structured import CHAT, POINT, TOOL

pytestmark = pytest.mark.anyio

CHATS, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PROMPT = {"prompt": "hi"}
SCHEMA: dict[str, Any] = {"json_schema": {"name": "point", "schema": POINT}, "type": "json_schema"}
TEXT = '{"x":0}'
FORMS: list[tuple[str, dict[str, Any], str, str, str]] = [
    (CHATS, CHAT | {"response_format": SCHEMA}, "max_tokens", "response_format", TEXT),
    (CHATS, CHAT | {"response_format": SCHEMA, "stream": True}, "max_completion_tokens", "response_format", TEXT),
    (CHATS, CHAT | {"response_format": {"type": "json_object"}, "n": 2}, "max_tokens", "response_format", "{}"),
    (CHATS, CHAT | {"structured_outputs": {"json": POINT}}, "max_tokens", "structured_outputs.json", TEXT),
    (CHATS, CHAT | {"structured_outputs": {"choice": ["hello", "hellu"]}}, "max_tokens", "structured_outputs.choice",
     "hello"),
    (COMPLETIONS, PROMPT | {"regex": "(ab|hello)c{3,}"}, "max_tokens", "regex", "helloccc"),
    (COMPLETIONS, PROMPT | {"ebnf": 'root ::= "[" [a-z]{4} "]"'}, "max_tokens", "ebnf", "[hell]"),
    (COMPLETIONS, {"prompt": ["a", "b"], "regex": "[0-9]{5}"}, "max_tokens", "regex", "00000"),
    (RESPONSES, {"input": "hi", "text": {"format": SCHEMA["json_schema"] | {"type": "json_schema"}}},
     "max_output_tokens", "text.format", TEXT),
]  # fmt: skip


def tokens_of(bench: Bench, text: str) -> int:
    """With the end token."""
    assert bench.engine.ready is not None
    return Speller(bench.codec.vocabulary(bench.engine.ready.vocab_size), []).ending(text.encode()).tokens + 1


@pytest.mark.parametrize(("path", "body", "field", "form", "text"), FORMS)
async def test_too_few_tokens_for_any_answer(
    bench: Bench, path: str, body: dict[str, Any], field: str, form: str, text: str
) -> None:
    needed = tokens_of(bench, text)
    for limit in {1, needed - 1}:
        response = await bench.post(path, body | {field: limit})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == field
        assert error["message"] == (
            f"{field}: no answer of at most {limit} tokens was found that {form} allows and that ends; "
            f"the shortest found has {needed}, its end token included"
        )
        assert bench.engine.requests == []
    assert (await bench.post(path, body | {field: needed})).status_code == 200
    assert bench.engine.requests[0].max_tokens == needed


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHATS, {"messages": [{"role": "user", "content": "a b c d " * 7}], "response_format": SCHEMA}, "messages"),
        (COMPLETIONS, {"prompt": "a b c d " * 7 + "e", "regex": "(hi)?[0-9]{9}"}, "prompt"),
        (RESPONSES, {"input": "a b c d " * 7, "text": {"format": SCHEMA["json_schema"] | {"type": "json_schema"}}},
         "input"),
    ],
)  # fmt: skip
async def test_a_prompt_that_leaves_too_few(bench: Bench, path: str, body: dict[str, Any], param: str) -> None:
    response = await bench.post(path, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert re.search(r"with \d tokens left, no answer was found", response.json()["error"]["message"])


async def test_the_same_form_in_another_field_is_named_as_it_came(bench: Bench) -> None:
    """Verdicts are kept by content."""
    fields: list[dict[str, Any]] = [{"response_format": SCHEMA}, {"structured_outputs": {"json": POINT}}]
    for body in fields:
        error = (await bench.post(CHATS, CHAT | body | {"max_tokens": 2})).json()["error"]
        assert next(iter(body)) in error["message"]


async def test_calls_that_must_come_are_cut(bench: Bench) -> None:
    """Other servers do the same; an answer that may be text or a call, or JSON or a call, is not too long as text."""
    widen(bench)
    for choice, form, status in (("required", None, 200), ("auto", None, 200), ("auto", SCHEMA, 400)):
        body = CHAT | {"tools": [TOOL], "tool_choice": choice, "response_format": form, "max_tokens": 1}
        response = await bench.post(CHATS, body)
        assert response.status_code == status, response.text
    response = await bench.post(CHATS, body | {"max_tokens": tokens_of(bench, TEXT)})
    assert response.status_code == 200, response.text


async def test_no_answer_at_all_needs_no_room(bench: Bench) -> None:
    body = PROMPT | {"echo": True, "max_tokens": 0, "regex": "[0-9]{5}"}
    response = await bench.post(COMPLETIONS, body)
    assert response.status_code == 200, response.text
    assert json.loads(response.text)["choices"][0]["text"] == "hi"
