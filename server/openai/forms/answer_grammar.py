"""From the fields that say what an answer must be to its grammar (docs/structured-output.md)."""

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

# Replaces what a schema may say itself: no free white space, nothing ignored silently.
_OPTIONS: dict[str, JsonValue] = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
_NO_CALL = f"~/(?s:.*){CALL_MARK}(?s:.*)/"


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """A grammar and the field of the request that it comes from.

    ``parts`` are what it leaves a choice between; they must be possible each. ``sources`` are the schemas that it is
    made of: where it is not possible, the one to blame is among them. ``language`` is what ``text`` is written in: the
    Lark dialect of llguidance, which the engine takes, or what a client wrote, in that or in GBNF. An answer that
    ``may_be_cut`` is begun even where the tokens are too few for any.
    """

    text: str
    param: str
    parts: tuple["AnswerGrammar", ...] = ()
    sources: tuple["AnswerGrammar", ...] = ()
    language: Literal["lark", "client"] = "lark"
    may_be_cut: bool = False


def answer_grammar(constraint: Constraint | None, use: ToolUse) -> AnswerGrammar | None:
    """The grammar of answers that are what ``constraint`` says or calls of tools; ``None`` for free text.

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
    # A text that looked like a call would be taken for one; JSON never does.
    lines += [f"start: calls | {'answer' if constraint.kind == 'json' else 'ANSWER'}"]
    lines += [f"answer: {form}" if constraint.kind == "json" else f"ANSWER: ({form}) & {_NO_CALL}"]
    return AnswerGrammar("\n".join(lines), "tools", (answer, calls))


def constraint_grammar(constraint: Constraint) -> AnswerGrammar:
    """The grammar of answers that are what ``constraint`` says.

    Raises ``ApiError`` 400 for a schema that is nested too deeply or cannot be kept by a grammar.
    """
    param = constraint.param
    match constraint.kind:
        case "json":
            return AnswerGrammar(f"start: {_json(constraint.value, param)}", param)
        case "regex":
            # Letters and digits are those of ASCII, which every engine of regular expressions counts among them.
            text = regex_to_lark(constraint.value, use_ascii="dws")
            return AnswerGrammar(f"start: /{text}/", param)
        case "choice":
            texts = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in constraint.value)
            return AnswerGrammar(f"start: {texts}", param)
        case "grammar":
            return AnswerGrammar(constraint.value, param, language="client")


def _calls(use: ToolUse) -> tuple[list[str], tuple[AnswerGrammar, ...]]:
    """The rules of ``calls``, and what the arguments of each function are."""
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
