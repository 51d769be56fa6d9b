"""The names that servers have for a form of answers: each becomes the grammar it means, or a 400 that names it."""

import json
from typing import Any

import pytest

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.server.openai.forms.client_grammar import lark_of
from tests.support.server.bench import Bench, widen

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"prompt": "hi"}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", PROMPT)]
POINT: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
EMAIL = 'root ::= name "@" name\nname ::= [a-z]{1,3}'


def admits(bench: Bench, grammar: str | None, text: str) -> bool:
    """Whether an answer may be all of ``text``."""
    assert grammar is not None
    assert bench.engine.ready is not None
    vocabulary = bench.codec.vocabulary(bench.engine.ready.vocab_size)
    tokens = vocabulary.tokenize(text.encode())
    matcher = CompiledGrammar(grammar, vocabulary, 100).fresh()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


FORMS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"structured_outputs": {"json": POINT}}, ['{"x":1}'], ['{"x":"1"}', '{"x":1,"y":2}']),
    ({"structured_outputs": {"json": json.dumps(POINT)}}, ['{"x":1}'], ["{}"]),
    ({"structured_outputs": {"json_object": True}}, ["{}", '{"a":[1]}'], ["[]"]),
    ({"structured_outputs": {"regex": r"\d{3}-[a-z/]+"}}, ["123-a/b"], ["12-a", "123-A", "x123-a"]),
    ({"structured_outputs": {"regex": "^(yes|no)$"}}, ["yes", "no"], ["yesno", "maybe"]),
    ({"structured_outputs": {"regex": "a\nb"}}, ["a\nb"], ["ab"]),
    ({"structured_outputs": {"choice": ["Ja \"1\"", "größer", "a\\n"]}}, ['Ja "1"', "größer", "a\\n"], ["Ja", "a\n"]),
    ({"structured_outputs": {"grammar": EMAIL}}, ["a@bc"], ["a@", "@", "a"]),
    ({"structured_outputs": {"grammar": 'start: "a" b+\nb: /[0-9]/'}}, ["a1", "a12"], ["a", "1"]),
    ({"structured_outputs": {"grammar": '?start: x | "<"\nx: "::="'}}, ["::=", "<"], ["x"]),
    ({"structured_outputs": {"regex": "a|b", "json": None, "disable_any_whitespace": True}}, ["a"], ["c"]),
    ({"json_schema": json.dumps(POINT)}, ['{"x":1}'], ["{}"]),
    ({"json_schema": POINT}, ['{"x":1}'], ["{}"]),
    ({"regex": "(a|b){2}"}, ["ab"], ["a", "abc"]),
    ({"ebnf": EMAIL}, ["a@bc"], ["a@"]),
    ({"ebnf": 'root ::= "\\u00e9" [\\u4e00-\\u9fff]'}, ["é日"], ["e日"]),
    ({"grammar": EMAIL}, ["a@bc"], ["a@"]),
    ({"response_format": {"type": "json_object", "schema": POINT}}, ['{"x":1}'], ["{}"]),
    ({"response_format": {"type": "json_object", "schema": {"properties": {"a": {}}}}}, ["{}", '{"a":2}'], ["3"]),
    ({"response_format": {"type": "json_schema", "schema": POINT}}, ['{"x":1}'], ["{}"]),
    ({"response_format": {"type": "text"}, "regex": "a"}, ["a"], ["b"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize(("fields", "valid", "wrong"), FORMS)
async def test_a_form_becomes_its_grammar(
    bench: Bench, path: str, body: dict[str, Any], fields: dict[str, Any], valid: list[str], wrong: list[str]
) -> None:
    response = await bench.post(path, body | fields)
    assert response.status_code == 200, response.text
    grammar = bench.engine.requests[0].grammar
    assert [text for text in valid if not admits(bench, grammar, text)] == []
    assert [text for text in wrong if admits(bench, grammar, text)] == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": "x"}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
    ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
    ({"structured_outputs": {"regex": "a", "flavor": 1}}, "structured_outputs.flavor"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": []}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs.json"),
    ({"structured_outputs": {"grammar": "nonsense"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"grammar": 'start: "a" start'}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"grammar": "start: <[7]>"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"grammar": 'start: "a" <|endoftext|>'}}, "structured_outputs.grammar"),
    ({"ebnf": "root ::= x"}, "ebnf"),
    ({"ebnf": "root ::= " + "(" * 5000}, "ebnf"),
    ({"grammar": 'root ::= "' + "x" * 70_000 + '"'}, "grammar"),
    ({"regex": "a", "ebnf": EMAIL}, "ebnf"),
    ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
    ({"json_schema": "x"}, "json_schema"),
    ({"regex": "a", "ignore_eos": True}, "ignore_eos"),
    ({"regex": "a", "stop_token_ids": [20]}, "stop_token_ids"),
    ({"response_format": {"type": "text", "schema": POINT}}, "response_format"),
    ({"response_format": {"type": "json_schema", "schema": POINT, "json_schema": {"name": "x"}}}, "response_format"),
]


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize(("fields", "param"), BAD)
async def test_what_cannot_be_kept_is_named(
    bench: Bench, path: str, body: dict[str, Any], fields: dict[str, Any], param: str
) -> None:
    response = await bench.post(path, body | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    assert bench.engine.requests == []
    for inside in ("x-guidance", "failed to compile", "coerce_one_of", "\n", "%json", "⟦"):
        assert inside not in error["message"]


async def test_completions_of_several_prompts_share_a_grammar(bench: Bench) -> None:
    response = await bench.post("/v1/completions", {"prompt": ["a", "b"], "n": 2, "regex": "x+"})
    assert response.status_code == 200, response.text
    assert {request.grammar for request in bench.engine.requests} == {"start: /x+/"}
    assert len(bench.engine.requests) == 4


@pytest.mark.parametrize("form", [{"regex": "a"}, {"structured_outputs": {"regex": "a"}}, {"json_schema": {}}])
async def test_responses_point_to_their_own_field(bench: Bench, form: dict[str, Any]) -> None:
    response = await bench.post("/v1/responses", {"input": "hi"} | form)
    empty = form == {"json_schema": {}}
    assert response.status_code == (200 if empty else 400), response.text
    assert empty or response.json()["error"]["param"] in form


TOOL = {"type": "function", "function": {"name": "f"}}
MARKED = "<tool_call>x"


@pytest.mark.parametrize(
    "form", [{"regex": "[<>a-z_]+"}, {"structured_outputs": {"choice": ["yes", MARKED]}}, {"json_schema": {"const": 1}}]
)
async def test_a_form_beside_tools_leaves_the_choice(bench: Bench, form: dict[str, Any]) -> None:
    widen(bench)
    response = await bench.post("/v1/chat/completions", CHAT | {"tools": [TOOL]} | form)
    assert response.status_code == 200, response.text
    grammar = bench.engine.requests[0].grammar
    assert admits(bench, grammar, "1" if "json_schema" in form else "yes")
    assert admits(bench, grammar, '<tool_call>\n{"name":"f","arguments":{}}\n</tool_call>')
    assert not admits(bench, grammar, MARKED)


WRONG = [({"type": "unknown_type"}, ("auto", "required", "g")), ({"type": "string", "pattern": "("}, ("auto", "g"))]
WRONG += [({"$ref": "#/$defs/no"}, ("required", "g")), ({"type": "string", "minLength": 9999}, ("g",))]


@pytest.mark.parametrize(("schema", "choice"), [(schema, choice) for schema, choices in WRONG for choice in choices])
async def test_a_schema_that_cannot_be_kept_is_named_by_its_tool(
    bench: Bench, schema: dict[str, Any], choice: str
) -> None:
    """``g`` stands for the choice of that tool."""
    widen(bench)
    wrong = {"name": "g", "parameters": {"type": "object", "properties": {"a": schema}, "required": ["a"]}}
    offered = [{"name": "f"}, wrong, {"name": "h"}]
    for path, body, tools, named, param in (
        ("chat/completions", CHAT, [{"type": "function", "function": one} for one in offered],
         {"type": "function", "function": {"name": "g"}}, "tools[1].function.parameters"),
        ("responses", {"input": "hi"}, [{"type": "function", **one} for one in offered],
         {"type": "function", "name": "g"}, "tools[1].parameters"),
    ):  # fmt: skip
        form = {"tools": tools, "tool_choice": named if choice == "g" else choice}
        response = await bench.post(f"/v1/{path}", body | form)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"] == param
        assert error["message"].startswith(f"{param}: ")


async def test_a_grammar_beside_tools_that_may_be_called_is_refused(bench: Bench) -> None:
    body = CHAT | {"tools": [TOOL], "grammar": EMAIL}
    response = await bench.post("/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "grammar")


async def test_escapes_of_a_grammar_are_characters() -> None:
    assert "日" in lark_of('root ::= "\\u65e5"')
    assert "\\\\u65e5" in lark_of('root ::= "\\\\u65e5"')
