"""From formats and ``tools`` to the grammar of an answer (docs/structured-output.md)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from server.errors import invalid
from server.protocol.chat import ChatRequest
from server.protocol.formats import ResponseFormat, TextFormat
from server.protocol.tools import ChosenTool, Tool
from server.tool_format import CALL_BEGIN, CALL_END, CALL_MARK, CALL_SEPARATOR, call_head

MAX_DEPTH = 64

# Replaces what a schema may say itself: no free white space, nothing ignored silently.
_OPTIONS: dict[str, JsonValue] = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """A grammar and the field of the request that it comes from.

    ``parts`` are what it leaves a choice between; they must be possible each.
    """

    text: str
    param: str
    parts: tuple["AnswerGrammar", ...] = ()


def answer_grammar(body: ChatRequest) -> AnswerGrammar | None:
    """The grammar of the answers to ``body``; ``None`` for free text.

    Raises ``ApiError`` 400 for a schema that is nested too deeply or cannot be kept by a grammar.
    """
    answer = None
    if body.response_format is not None and (body.tool_choice == "auto" or not body.offered_tools):
        answer = format_grammar(body.response_format, "response_format")
    if not body.offered_tools:
        return answer
    lines = _calls(body.offered_tools, body)
    calls = AnswerGrammar("\n".join(["start: calls", *lines]), "tools")
    if body.tool_choice != "auto":
        return calls
    if answer is None:
        lines += ["start: calls | TEXT", f"TEXT: /(?s:.*)/ & ~/(?s:.*){CALL_MARK}(?s:.*)/"]
        return AnswerGrammar("\n".join(lines), "tools", (calls,))
    lines += ["start: calls | answer", answer.text.replace("start", "answer", 1)]
    return AnswerGrammar("\n".join(lines), "tools", (answer, calls))


def format_grammar(wanted: ResponseFormat | TextFormat, param: str) -> AnswerGrammar | None:
    """The grammar of the answers in a format, which is the field ``param``; ``None`` for free text.

    Raises ``ApiError`` 400 for a schema that is nested too deeply or cannot be kept by a grammar.
    """
    schema = wanted.schema_of_answer
    return None if schema is None else AnswerGrammar(f"start: {_json(schema, param)}", param)


def _calls(tools: Sequence[Tool], body: ChatRequest) -> list[str]:
    chosen = body.tool_choice.function.name if isinstance(body.tool_choice, ChosenTool) else None
    several = body.parallel_tool_calls and chosen is None
    lines, names = ["calls: call" + (f" ({json.dumps(CALL_SEPARATOR)} call)*" if several else "")], []
    for index, tool in enumerate(tools):
        function = tool.function
        if chosen not in (None, function.name):
            continue
        if function.parameters.get("type", "object") != "object":
            param = f"tools[{index}].function.parameters"
            raise invalid(f"{param}: arguments are an object, so the type must be 'object'", param)
        head = json.dumps(CALL_BEGIN + call_head(function.name))
        names.append(f"call_{index}")
        lines.append(f"call_{index}: {head} arguments_{index} {json.dumps(CALL_END)}")
        parameters: dict[str, JsonValue] = {"type": "object", **function.parameters}
        lines.append(f"arguments_{index}: {_json(parameters, 'tools')}")
    return [*lines, "call: " + " | ".join(names)]


def _json(schema: dict[str, JsonValue], param: str) -> str:
    _check(schema, param, MAX_DEPTH)
    return "%json " + json.dumps(schema | {"x-guidance": _OPTIONS})


def _check(value: JsonValue, param: str, depth: int) -> None:
    if depth == 0:
        raise invalid(f"{param}: the schema is nested more than {MAX_DEPTH} levels deep", param)
    if isinstance(value, dict):
        least, required = value.get("minProperties"), value.get("required")
        known = len(required) if isinstance(required, list) else 0
        # A grammar cannot keep additional names different from each other, so two of them may count as one.
        if isinstance(least, int) and least > known + 1:
            raise invalid(f"{param}: minProperties may be one more than the required properties, not {least}", param)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in parts:
        _check(item, param, depth - 1)
