"""Converts the output format of a request to a grammar (docs/structured-output.md)."""

import json
from dataclasses import dataclass, replace
from typing import Literal

from llguidance import regex_to_lark
from pydantic import JsonValue

from cdlm.server.errors import invalid
from cdlm.server.openai.forms.json_schema import prepared
from cdlm.server.openai.protocol.formats import Constraint
from cdlm.server.openai.protocol.tools import ToolUse
from cdlm.server.text.tool_format import CALL_BEGIN, CALL_END, CALL_MARK, CALL_SEPARATOR, call_head

# Overrides options inside schemas: no free white space, nothing ignored silently.
_OPTIONS: dict[str, JsonValue] = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
_NO_CALL = f"~/(?s:.*){CALL_MARK}(?s:.*)/"


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """A grammar and the field of the request that it comes from.

    ``parts`` are its alternatives, each of which must be satisfiable. ``sources`` are the schemas it consists of: if it
    is unsatisfiable, one of them is at fault. ``language`` is the language of ``text``: llguidance's Lark dialect,
    which the engine takes, or the client's text in Lark or GBNF. With ``may_be_cut``, an answer may start although the
    budget is too small for any complete one.
    """

    text: str
    param: str
    parts: tuple["AnswerGrammar", ...] = ()
    sources: tuple["AnswerGrammar", ...] = ()
    language: Literal["lark", "client"] = "lark"
    may_be_cut: bool = False


def answer_grammar(constraint: Constraint | None, use: ToolUse) -> AnswerGrammar | None:
    """The grammar of answers that satisfy ``constraint`` or are tool calls; ``None`` for free text.

    Raises ``ApiError`` 400 for a schema that is nested too deeply or cannot be kept by a grammar.
    """
    if not use.functions:
        return None if constraint is None else constraint_grammar(constraint)
    lines, schemas = _calls(use)
    calls = AnswerGrammar("\n".join(["start: calls", *lines]), "tools", sources=schemas)
    if use.required:
        return replace(calls, may_be_cut=True)
    if constraint is None:
        lines += ["start: calls | TEXT", f"TEXT: /(?s:.*)/ & {_NO_CALL}"]
        return AnswerGrammar("\n".join(lines), "tools", (calls,))
    if constraint.kind == "grammar":
        message = f"{constraint.param} cannot be combined with tools that the model may choose to call"
        raise invalid(message, constraint.param)
    answer = constraint_grammar(constraint)
    form = answer.text.removeprefix("start: ")
    # Text that looks like a call would be parsed as one; JSON never does.
    lines += [f"start: calls | {'answer' if constraint.kind == 'json' else 'ANSWER'}"]
    lines += [f"answer: {form}" if constraint.kind == "json" else f"ANSWER: ({form}) & {_NO_CALL}"]
    return AnswerGrammar("\n".join(lines), "tools", (answer, calls))


def constraint_grammar(constraint: Constraint) -> AnswerGrammar:
    """The grammar of answers that satisfy ``constraint``.

    Raises ``ApiError`` 400 for a schema that is nested too deeply or cannot be kept by a grammar.
    """
    param = constraint.param
    match constraint.kind:
        case "json":
            return AnswerGrammar(f"start: {_json(constraint.value, param)}", param)
        case "regex":
            # Classes of letters, digits and spaces are ASCII, on which all regular expression engines agree.
            text = regex_to_lark(constraint.value, use_ascii="dws")
            return AnswerGrammar(f"start: /{text}/", param)
        case "choice":
            texts = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in constraint.value)
            return AnswerGrammar(f"start: {texts}", param)
        case "grammar":
            return AnswerGrammar(constraint.value, param, language="client")


def _calls(use: ToolUse) -> tuple[list[str], tuple[AnswerGrammar, ...]]:
    """The grammar rules of ``calls``, and the grammars of each function's arguments."""
    lines, names = ["calls: call" + (f" ({json.dumps(CALL_SEPARATOR)} call)*" if use.several else "")], []
    schemas = []
    for index, function in enumerate(use.functions):
        param = use.parameters.format(index)
        if function.name not in use.names:
            continue
        if function.parameters.get("type", "object") != "object":
            raise invalid(f"{param}: arguments are an object, so the type must be 'object'", param)
        head = json.dumps(CALL_BEGIN + call_head(function.name))
        names.append(f"call_{index}")
        lines.append(f"call_{index}: {head} arguments_{index} {json.dumps(CALL_END)}")
        form = _json({"type": "object", **function.parameters}, param)
        lines.append(f"arguments_{index}: {form}")
        schemas.append(AnswerGrammar(f"start: {form}", param))
    return [*lines, "call: " + " | ".join(names)], tuple(schemas)


def _json(schema: dict[str, JsonValue], param: str) -> str:
    return "%json " + json.dumps(prepared(schema, param) | {"x-guidance": _OPTIONS})
