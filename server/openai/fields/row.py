"""A row of the table of fields, and the places of fields."""

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

Verdict = Literal["honored", "refused", "harmless"]

OPENAI, VLLM, SGLANG, LLAMA = "OpenAI", "vLLM", "SGLang", "llama.cpp"
PEERS = (OPENAI, VLLM, SGLANG, LLAMA)
ANTHROPIC = "Anthropic"
INCEPTION = "Inception"

COMPLETIONS, CHATS, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
TOKENIZE, DETOKENIZE = "/v1/tokenize", "/v1/detokenize"
MESSAGES, COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"
DECISIONS = "/v1/decisions"
FIM, EDIT = "/v1/fim/completions", "/v1/edit/completions"
ROUTES = (COMPLETIONS, FIM, EDIT, CHATS, RESPONSES, DECISIONS, MESSAGES, COUNT_TOKENS, TOKENIZE, DETOKENIZE)

# Objects inside of bodies, as paths.
MESSAGE, PART = "messages[]", "messages[].content[]"
EDIT_MESSAGE = "messages[] (/v1/edit/completions)"
CALL, CALLED = "messages[].tool_calls[]", "messages[].tool_calls[].function"
TOOL, FUNCTION = "tools[]", "tools[].function"
CHOICE, CHOSEN_FUNCTION = "tool_choice", "tool_choice.function"
ALLOWED, ALLOWED_TOOL = "tool_choice.allowed_tools", "tool_choice.allowed_tools.tools[]"
ANSWER_FORMAT, JSON_SCHEMA = "response_format", "response_format.json_schema"
STRUCTURED = "structured_outputs"
STREAM_OPTIONS = "stream_options"
VOTE = "vote"
ITEM, ITEM_PART = "input[]", "input[].content[]"
CALL_ITEM, RESULT_ITEM = "input[] (function_call)", "input[] (function_call_output)"
REASONING_ITEM = "input[] (reasoning)"
RESPONSE_TOOL = "tools[] (/v1/responses)"
CUSTOM_CALL_ITEM, CUSTOM_RESULT_ITEM = "input[] (custom_tool_call)", "input[] (custom_tool_call_output)"
JSON_PART, REFUSAL_PART = "content[] (input_json)", "content[] (refusal)"
QUESTION, QUESTION_CHOICE, QUESTION_LEVEL = "questions[]", "questions[].choices[]", "questions[].levels[]"
TEXT, TEXT_FORMAT, REASONING = "text", "text.format", "reasoning"
TURN, TEXT_BLOCK, THOUGHT_BLOCK = "messages[] (/v1/messages)", "content[] (text)", "content[] (thinking)"
USE_BLOCK, RESULT_BLOCK = "content[] (tool_use)", "content[] (tool_result)"
MESSAGES_TOOL, MESSAGES_CHOICE = "tools[] (/v1/messages)", "tool_choice (/v1/messages)"
METADATA, OUTPUT_CONFIG, OUTPUT_FORMAT = "metadata", "output_config", "output_config.format"

# Values that request nothing, for nearly all fields. Null means absent everywhere.
NOTHING: tuple[JsonValue, ...] = (False, "", [], {})


@dataclass(frozen=True, slots=True)
class Row:
    """How one field is treated.

    Attributes:
        name: the field's name.
        verdict: ``honored``: the field has its effect; ``refused``: with a 400 that names it, unless its value asks
            for nothing; ``harmless``: accepted without effect.
        places: routes, or objects inside of their bodies.
        peers: the servers that have the field in one of the places.
        note: what to use instead, or why there is no effect; follows a semicolon in messages.
        idle: values that request nothing, for example a penalty of 1.
    """

    name: str
    verdict: Verdict
    places: tuple[str, ...]
    peers: tuple[str, ...]
    note: str = ""
    idle: tuple[JsonValue, ...] = NOTHING

    def accepts(self, value: JsonValue) -> bool:
        """Whether an unsupported field may have this value, since it requests nothing."""
        if self.verdict == "refused":
            return any(_same(value, known) for known in self.idle)
        return self.verdict == "harmless"


def _same(value: JsonValue, known: JsonValue) -> bool:
    # In Python, False equals 0; in JSON it does not.
    return isinstance(value, bool) == isinstance(known, bool) and value == known


def honored(places: tuple[str, ...], peers: tuple[str, ...], *names: str) -> tuple[Row, ...]:
    """Rows of supported fields."""
    return tuple(Row(name, "honored", places, peers) for name in names)


def harmless(
    names: str | tuple[str, ...], places: tuple[str, ...], peers: str | tuple[str, ...], note: str
) -> tuple[Row, ...]:
    """Rows of fields that are accepted without effect."""
    return tuple(Row(name, "harmless", places, _several(peers), note) for name in _several(names))


def refused(
    names: str | tuple[str, ...],
    places: tuple[str, ...],
    peers: str | tuple[str, ...],
    note: str = "",
    *idle: JsonValue,
) -> tuple[Row, ...]:
    """Rows of fields that are refused unless their value is in ``idle`` or ``NOTHING``."""
    return tuple(Row(name, "refused", places, _several(peers), note, (*NOTHING, *idle)) for name in _several(names))


def _several(texts: str | tuple[str, ...]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else texts
