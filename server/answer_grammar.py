"""From formats and ``tools`` to the grammar of an answer (docs/structured-output.md)."""

import json
from dataclasses import dataclass

from pydantic import JsonValue

from server.errors import invalid
from server.protocol.formats import ResponseFormat, TextFormat
from server.protocol.tools import ToolUse
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


def answer_grammar(wanted: ResponseFormat | TextFormat | None, param: str, use: ToolUse) -> AnswerGrammar | None:
    """The grammar of answers in a format, which is the field ``param``, that may call tools; ``None`` for free text.

    Raises ``ApiError`` 400 for a schema that is nested too deeply or cannot be kept by a grammar.
    """
    answer = None
    if wanted is not None and not use.required:
        answer = format_grammar(wanted, param)
    if not use.functions:
        return answer
    lines = _calls(use)
    calls = AnswerGrammar("\n".join(["start: calls", *lines]), "tools")
    if use.required:
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


def _calls(use: ToolUse) -> list[str]:
    lines, names = ["calls: call" + (f" ({json.dumps(CALL_SEPARATOR)} call)*" if use.several else "")], []
    for index, function in enumerate(use.functions):
        if function.name not in use.names:
            continue
        if function.parameters.get("type", "object") != "object":
            param = use.parameters.format(index)
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
