"""Chat templates of checkpoints and requests: messages to the text of a prompt."""

import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from pydantic import JsonValue

from cdlm.server.text.environment import marking_template
from cdlm.server.text.marked import Marked, concat, mark
from cdlm.server.text.tool_format import forms, plain_messages

# What a template is given besides what requests may name.
RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
)
_SHOWN_CHARACTERS = 500


class TemplateFault(Exception):
    """A template cannot be used, or not for these messages; the message is a full sentence without its subject."""


class ChatTemplate:
    """Renders messages exactly as transformers does, and marks the characters that a client wrote.

    Args:
        source: the Jinja text; with several, those that are named ``default`` and ``tool_use``.
        variables: texts that it may use besides, such as ``bos_token``; they are the template's own.

    Attributes:
        sources: every text that was given, used or not.

    Raises:
        TemplateFault: it is no text, or no Jinja template, or none of several is the default.
    """

    def __init__(self, source: str | Mapping[str, str], variables: Mapping[str, Any] | None = None) -> None:
        if not isinstance(source, str | Mapping):  # Files may hold anything.
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

    def render(
        self,
        messages: Sequence[Mapping[str, JsonValue]],
        tools: Sequence[JsonValue] = (),
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, JsonValue] | None = None,
    ) -> Marked:
        """The text of a chat. All of messages is the client's but the names of roles, which the routes check.

        A template that does not know tools is given none, and sees them as text. Raises ``TemplateFault``.
        """
        # As in transformers: what is null is absent.
        messages = [{key: value for key, value in each.items() if value is not None} for each in messages]
        name = "tool_use" if tools and "tool_use" in self._compiled else "default"
        options = mark(dict(variables or {})) | {"add_generation_prompt": add_generation_prompt}
        if name not in self._knows_tools:
            return self._finish(name, plain_messages(messages, tools), [], options, continue_final_message)
        offered = list(tools)
        shown, unreadable = forms(messages)
        try:
            return self._finish(name, shown[0], offered, options, continue_final_message)
        except TemplateFault as fault:
            for form in shown[1:]:
                with contextlib.suppress(TemplateFault):
                    return self._finish(name, form, offered, options, continue_final_message)
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
        except Exception as error:  # Templates are programs: they fail in any way that a program can.
            raise TemplateFault(_reason(error)) from error
        assert isinstance(text, Marked)
        if not continued:
            return text
        # The message goes on where its text ends: what a template puts behind it is left out, as are the spaces that
        # one which trims messages would have taken.
        place = text.plain().rfind(end.strip())
        if place < 0:
            raise TemplateFault("leaves out the end of the last message, which so cannot be continued")
        before = text[:place] if text.plain().startswith(end, place) else text[:place].rstrip()
        assert isinstance(before, Marked)
        return before


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    if type(error) is jinja2.TemplateError:  # Raised by the template itself, with words of its own.
        return f"refuses these messages: {text}"
    return f"fails on these messages: {type(error).__name__}: {text}"
