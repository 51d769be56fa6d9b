"""Chat templates of checkpoints and requests: render messages as the text of a prompt."""

import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from pydantic import JsonValue

from cdlm.server.text.environment import marking_template
from cdlm.server.text.marked import Marked, concat, mark
from cdlm.server.text.tool_format import forms, plain_messages

# Variables of a template that requests may not set.
RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
)
_SHOWN_CHARACTERS = 500


class TemplateFault(Exception):
    """A template is unusable, or fails on these messages; the error text continues "The chat template ..."."""


@dataclass(frozen=True)
class Chat:
    """The input of a chat template.

    Attributes:
        messages: the messages.
        tools: function declarations, passed to templates that support tools.
        add_generation_prompt: whether to end the prompt with the start of an assistant turn.
        continue_final_message: whether to end it with the last message's text, which the answer continues.
        variables: further variables of the template.
        template: the text of a template that replaces the model's.
    """

    messages: Sequence[Mapping[str, JsonValue]]
    tools: Sequence[JsonValue] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, JsonValue] = field(default_factory=dict)
    template: str | None = None


class ChatTemplate:
    """Renders messages exactly as transformers does, and marks the characters that a client wrote.

    Args:
        source: the Jinja text, or several by name, of which ``default`` and ``tool_use`` are used.
        variables: further variables, for example ``bos_token``; they count as the template's text.

    Attributes:
        sources: all given texts, used or not.

    Raises:
        TemplateFault: the source is not text or not valid Jinja, or has no default.
    """

    def __init__(self, source: str | Mapping[str, str], variables: Mapping[str, Any] | None = None) -> None:
        if not isinstance(source, str | Mapping):  # Files may contain anything.
            raise TemplateFault("is no text")
        sources = {"default": source} if isinstance(source, str) else dict(source)
        if not all(isinstance(text, str) for text in sources.values()):
            raise TemplateFault("is no text")
        if len(sources) == 1:
            sources = {"default": next(iter(sources.values()))}
        if "default" not in sources:
            names = ", ".join(sorted(sources)) or "none"
            raise TemplateFault(f"is a list without a default ({names})")
        self._variables = dict(variables or {})
        self.sources = tuple(sources.values())
        sources = {name: sources[name] for name in ("default", "tool_use") if name in sources}
        self._knows_tools = {name for name, text in sources.items() if re.search(r"\btools\b", text)}
        try:
            self._compiled = {name: marking_template(text) for name, text in sources.items()}
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFault(f"is no valid Jinja: line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise TemplateFault("is nested too deeply") from error

    def render(self, chat: Chat) -> Marked:
        """Renders a chat. Text of messages is marked as the client's, except role names, which the routes check.

        Templates without support for tools see declarations and calls as text. Raises ``TemplateFault``. The template
        that the chat may bring is not looked at.
        """
        # As in transformers, null means absent.
        messages = [{key: value for key, value in each.items() if value is not None} for each in chat.messages]
        name = "tool_use" if chat.tools and "tool_use" in self._compiled else "default"
        options = mark(dict(chat.variables)) | {"add_generation_prompt": chat.add_generation_prompt}
        if name not in self._knows_tools:
            return self._finish(name, plain_messages(messages, chat.tools), [], options, chat.continue_final_message)
        offered = list(chat.tools)
        shown, unreadable = forms(messages)
        try:
            return self._finish(name, shown[0], offered, options, chat.continue_final_message)
        except TemplateFault as fault:
            for form in shown[1:]:
                with contextlib.suppress(TemplateFault):
                    return self._finish(name, form, offered, options, chat.continue_final_message)
            if unreadable:
                reason = "is no JSON object, and the chat template needs one"
                raise TemplateFault(f"fails on these messages: {unreadable} {reason}") from fault
            raise

    def _finish(
        self,
        name: str,
        messages: Sequence[Mapping[str, JsonValue]],
        tools: list[JsonValue],
        options: dict[str, Any],
        continued: bool,
    ) -> Marked:
        end = f"<{secrets.token_hex(16)}> " if continued else ""
        shown = [{key: value if key == "role" else mark(value) for key, value in each.items()} for each in messages]
        if continued:
            shown[-1]["content"] = concat([str(shown[-1].get("content") or ""), end])
        try:
            text = self._compiled[name].render(
                self._variables | options | {"messages": shown, "tools": mark(tools) or None, "documents": None}
            )
        except Exception as error:  # A template is a program and may raise anything.
            raise TemplateFault(_reason(error)) from error
        assert isinstance(text, Marked)
        if not continued:
            return text
        # Cuts the text after the last message: drops what the template adds, and spaces that it would have trimmed.
        place = text.plain().rfind(end.strip())
        if place < 0:
            raise TemplateFault("leaves out the end of the last message, which so cannot be continued")
        before = text[:place] if text.plain().startswith(end, place) else text[:place].rstrip()
        assert isinstance(before, Marked)
        return before


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    if type(error) is jinja2.TemplateError:  # Raised by the template, with its own message.
        return f"refuses these messages: {text}"
    return f"fails on these messages: {type(error).__name__}: {text}"
