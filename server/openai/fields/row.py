"""A row of the table of fields, and the places that fields are in."""

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

Verdict = Literal["honoured", "refused", "harmless"]

OPENAI, VLLM, SGLANG, LLAMA = "OpenAI", "vLLM", "SGLang", "llama.cpp"
PEERS = (OPENAI, VLLM, SGLANG, LLAMA)

COMPLETIONS, CHATS, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
TOKENIZE, DETOKENIZE = "/v1/tokenize", "/v1/detokenize"
ROUTES = (COMPLETIONS, CHATS, RESPONSES, TOKENIZE, DETOKENIZE)

# Objects inside of bodies, as paths.
MESSAGE, PART = "messages[]", "messages[].content[]"
CALL, CALLED = "messages[].tool_calls[]", "messages[].tool_calls[].function"
TOOL, FUNCTION = "tools[]", "tools[].function"
CHOICE, CHOSEN_FUNCTION = "tool_choice", "tool_choice.function"
ALLOWED, ALLOWED_TOOL = "tool_choice.allowed_tools", "tool_choice.allowed_tools.tools[]"
ANSWER_FORMAT, JSON_SCHEMA = "response_format", "response_format.json_schema"
STRUCTURED = "structured_outputs"
STREAM_OPTIONS = "stream_options"
ITEM, ITEM_PART = "input[]", "input[].content[]"
CALL_ITEM, RESULT_ITEM = "input[] (function_call)", "input[] (function_call_output)"
REASONING_ITEM = "input[] (reasoning)"
RESPONSE_TOOL = "tools[] (/v1/responses)"
TEXT, TEXT_FORMAT, REASONING = "text", "text.format", "reasoning"
INNER = (
    MESSAGE,
    PART,
    CALL,
    CALLED,
    TOOL,
    FUNCTION,
    CHOICE,
    CHOSEN_FUNCTION,
    ALLOWED,
    ALLOWED_TOOL,
    ANSWER_FORMAT,
    JSON_SCHEMA,
    STREAM_OPTIONS,
    ITEM,
    ITEM_PART,
    TEXT,
    TEXT_FORMAT,
    REASONING,
    CALL_ITEM,
    RESULT_ITEM,
    REASONING_ITEM,
    RESPONSE_TOOL,
    STRUCTURED,
)

# With these nearly every field asks for nothing. Null means absent everywhere.
NOTHING: tuple[JsonValue, ...] = (False, "", [], {})


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes of one field.

    Attributes:
        name: of the field.
        verdict: ``honoured``: the field has its effect; ``refused``: with a 400 that names it, unless its value asks
            for nothing; ``harmless``: accepted without effect.
        places: routes, or objects inside of their bodies.
        peers: those that have the field in one of the places.
        note: for people: what to use instead, or why there is no effect; goes on after a semicolon.
        idle: values that ask for nothing, such as a penalty of 1.
    """

    name: str
    verdict: Verdict
    places: tuple[str, ...]
    peers: tuple[str, ...]
    note: str = ""
    idle: tuple[JsonValue, ...] = NOTHING

    def accepts(self, value: JsonValue) -> bool:
        """Whether the field may be there with ``value`` although it has no effect."""
        if self.verdict == "refused":
            return any(_same(value, known) for known in self.idle)
        return self.verdict == "harmless"


def _same(value: JsonValue, known: JsonValue) -> bool:
    # To Python false is 0; to JSON it is not.
    return isinstance(value, bool) == isinstance(known, bool) and value == known


def honoured(places: tuple[str, ...], peers: tuple[str, ...], *names: str) -> tuple[Row, ...]:
    """Rows of fields that have their effect."""
    return tuple(Row(name, "honoured", places, peers) for name in names)


def refused(name: str, places: tuple[str, ...], peers: str | tuple[str, ...], note: str = "", *idle: JsonValue) -> Row:
    """The row of a field that is refused unless it has one of the values ``idle``, or one that nearly always is."""
    return Row(name, "refused", places, (peers,) if isinstance(peers, str) else peers, note, (*NOTHING, *idle))
