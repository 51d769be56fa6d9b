"""The text format of tool calls, which ``server/openai/forms/answer_grammar.py`` enforces."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

CALL_MARK = "<tool_call>"
CALL_BEGIN = f"{CALL_MARK}\n"
CALL_END = "}\n</tool_call>"
CALL_SEPARATOR = "\n"
_SHORT_ID = 9  # Mistral's templates require ids of this length.

_INTRODUCTION = """You may call functions. To call one, answer with nothing but
<tool_call>
{"name":NAME,"arguments":ARGUMENTS}
</tool_call>
where ARGUMENTS is a JSON object. Results come back between <tool_response> and </tool_response>. The functions:"""

Message = Mapping[str, JsonValue]


def call_head(name: str) -> str:
    """The text before a call's arguments."""
    return f'{{"name":{json.dumps(name)},"arguments":'


def plain_messages(messages: Sequence[Message], tools: Sequence[JsonValue]) -> list[dict[str, JsonValue]]:
    """Converts messages for a chat template without support for tools: declarations, calls and results become text.

    Declarations are appended to a first system message, or become a new one; calls are written as models write them;
    results become user messages with markers.
    """
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    text = "\n".join([_INTRODUCTION, *(json.dumps(tool, ensure_ascii=False) for tool in tools)])
    if plain[0]["role"] in ("system", "developer"):
        first = plain[0] | {"content": f"{plain[0]['content']}\n\n{text}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": text}, *plain]


def forms(messages: Sequence[Message]) -> tuple[list[list[Message]], str | None]:
    """Variants of messages that chat templates with support for tools may expect, most likely first, and distinct.

    The first is transformers': arguments are an object, null content is absent. Other templates concatenate arguments
    as text, test content for none, require content to be text, or require ids of nine characters. Also returns the
    place of arguments that are not a JSON object, if any.
    """
    parsed, unreadable = native_messages(messages)
    found: list[list[Message]] = []
    for fill in (None, {"content": None}, {"content": ""}):
        for each in (parsed, messages):
            form = [{**message, **fill} if fill and "content" not in message else message for message in each]
            found += [form] if form not in found else []
    short = [_with_short_ids(message) for message in parsed]
    return [*found, short] if short not in found else found, unreadable


def native_messages(messages: Sequence[Message]) -> tuple[list[dict[str, JsonValue]], str | None]:
    """Parses the arguments of calls into objects, for chat templates with support for tools.

    Empty arguments become an empty object. Arguments that are not a JSON object, for example of a truncated answer,
    stay text; also returns the place of the first of these, or ``None``.
    """
    native: list[dict[str, JsonValue]] = []
    unreadable = None
    for place, message in enumerate(messages):
        calls = message.get("tool_calls")
        native.append(dict(message))
        if isinstance(calls, list):
            parsed = [_parsed(call) for call in calls]
            native[-1]["tool_calls"] = [call for call, _ in parsed]
            broken = [number for number, (_, readable) in enumerate(parsed) if not readable]
            if broken and unreadable is None:
                unreadable = f"messages[{place}].tool_calls[{broken[0]}].function.arguments"
    return native, unreadable


def _plain(message: Message) -> dict[str, JsonValue]:
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        texts = [str(message["content"])] if message.get("content") else []
        return {"role": message["role"], "content": CALL_SEPARATOR.join([*texts, *map(_written, calls)])}
    if message["role"] in ("tool", "function"):
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    return {**message, "content": message.get("content", "")}


def _with_short_ids(message: Message) -> Message:
    """Replaces ids by hashes of nine letters and digits; equal ids stay equal."""
    short = dict(message)
    if isinstance(ident := message.get("tool_call_id"), str):
        short["tool_call_id"] = _short_id(ident)
    if isinstance(calls := message.get("tool_calls"), list):
        short["tool_calls"] = [
            call | {"id": _short_id(str(call.get("id")))} if isinstance(call, dict) else call for call in calls
        ]
    return short


def _short_id(ident: str) -> str:
    if len(ident) == _SHORT_ID and ident.isascii() and ident.isalnum():
        return ident
    return hashlib.sha256(ident.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID]


def _written(call: JsonValue) -> str:
    assert isinstance(call, dict)
    assert isinstance(function := call["function"], dict)
    return f"{CALL_BEGIN}{call_head(str(function['name']))}{function['arguments'] or '{}'}{CALL_END}"


def _parsed(call: JsonValue) -> tuple[JsonValue, bool]:
    assert isinstance(call, dict)
    assert isinstance(function := call["function"], dict)
    try:
        arguments = json.loads(str(function["arguments"] or "{}"))
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return call, False
    return call | {"function": function | {"arguments": arguments}}, True
