"""Builds the object of ``/v1/responses`` in each of its states."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from cdlm.server.errors import ApiError
from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.answers.logprobs import token_entries
from cdlm.server.openai.protocol.formats import TextFormat
from cdlm.server.openai.protocol.response import InputDetails, OutputDetails, ScoredToken
from cdlm.server.openai.protocol.tools import ChoiceMode
from cdlm.server.openai.responses.request import ResponsesRequest
from cdlm.server.openai.responses.response import (
    AllowedFunctions,
    FunctionCall,
    FunctionName,
    IncompleteDetails,
    OfferedFunction,
    OutputMessage,
    OutputText,
    PlainFormat,
    ReasoningUsed,
    ResponseAnswer,
    ResponseError,
    ResponseUsage,
    SchemaFormat,
    TextUsed,
)
from cdlm.server.openai.responses.tools import AllowedTools, ChosenFunction, ToolChoice
from cdlm.server.services import Services
from cdlm.server.text import TextCodec
from cdlm.server.text.tool_calls import Call, Piece, TextPiece, ToolCallReader
from cdlm.server.text.update import PlacedToken, Update

Status = Literal["in_progress", "completed", "incomplete", "failed"]


@dataclass(slots=True)
class TextItem:
    """The message item."""

    text: str = ""
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")


@dataclass(slots=True)
class CalledItem:
    """A function call item."""

    call: Call
    id: str = field(default_factory=lambda: f"fc_{uuid.uuid4().hex}")


Item = TextItem | CalledItem


class ResponseObject:
    """The response to one request, built from its only choice.

    Attributes:
        items: the output items so far, one message or function calls; only the last one can grow.
    """

    def __init__(self, services: Services, body: ResponsesRequest, job: Job, codec: TextCodec) -> None:
        self._body = body
        self._job = job
        self._codec = codec
        self._created = int(time.time())
        self._head: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": self._created,
            "model": services.model_name,
            "system_fingerprint": services.fingerprint(),
        }
        self._may_call = bool(body.tool_use.functions)
        self._reader = ToolCallReader(calls=self._may_call)
        self.items: list[Item] = []

    @property
    def choice(self) -> Choice:
        """The answer so far."""
        return self._job.choices[0]

    @property
    def outcome(self) -> Status:
        """The status of a finished answer."""
        return "incomplete" if self.choice.finish_reason == "length" else "completed"

    def begin(self) -> None:
        """Opens the message at once if the answer cannot be a call."""
        if not self._may_call:
            self.items.append(TextItem())

    def read(self, update: Update) -> list[Piece]:
        """Splits an update into pieces, which the caller places."""
        return self._reader.take(update)

    def place(self, piece: Piece) -> bool:
        """Adds a piece to its item; returns whether it begins a new item."""
        if isinstance(piece, TextPiece):
            last = self.items[-1] if self.items else None
            if isinstance(last, TextItem):
                last.text += piece.text
                return False
            self.items.append(TextItem(piece.text))
            return True
        if piece.begins:
            self.items.append(CalledItem(piece.call))
        return piece.begins

    def finish(self) -> None:
        """Opens an empty message if the answer ended without text."""
        if not self.items and not self.choice.text:
            self.items.append(TextItem())

    def whole(self) -> ResponseAnswer:
        """The object of a finished answer that was not streamed."""
        self.begin()
        for piece in self._reader.feed(self.choice.text) + self._reader.finish(cut=self.choice.cut):
            self.place(piece)
        self.finish()
        return self.state(self.outcome)

    def state(self, status: Status, *, error: ApiError | None = None) -> ResponseAnswer:
        """The whole object with a status; ``error`` is required for ``failed``."""
        body = self._body
        last = len(self.items) - 1
        state = ResponseAnswer(
            **self._head,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            error=None if error is None else ResponseError(code="server_error", message=error.message),
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if status == "incomplete" else None,
            output=[self.item(item, status if place == last else "completed") for place, item in enumerate(self.items)],
            usage=None if status == "in_progress" else self._usage(),
            background=False,
            conversation=None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            max_tool_calls=body.max_tool_calls,
            metadata=body.metadata,
            parallel_tool_calls=body.parallel_tool_calls,
            previous_response_id=None,
            prompt=None,
            prompt_cache_key=None,
            reasoning=ReasoningUsed(effort=body.effort, summary=None),
            safety_identifier=None,
            service_tier="default",
            store=False,
            temperature=body.temperature,
            text=TextUsed(format=_format(body.text.format)),
            tool_choice=_choice(body.tool_choice),
            tools=[
                OfferedFunction(
                    type=tool.type,
                    name=tool.name,
                    description=tool.description or None,
                    parameters=tool.parameters,
                    strict=tool.strict,
                )
                for tool in body.tools
            ],
            top_logprobs=body.top_logprobs or 0,
            top_p=body.top_p,
            truncation="disabled",
            user=body.user,
        )
        if body.return_token_ids:
            state.prompt_token_ids = self.choice.request.prompt_ids
            state.token_ids = self.choice.token_ids
        return state

    def item(self, item: Item, status: Status, *, opened: bool = True) -> OutputMessage | FunctionCall:
        """Converts an output item to JSON; ``opened`` is false while it is empty."""
        if status in ("incomplete", "failed"):
            # The answer may have been cut after the end of a call.
            status = "completed" if isinstance(item, CalledItem) and item.call.complete else "incomplete"
        elif status == "completed" and isinstance(item, CalledItem) and not item.call.complete:
            status = "incomplete"  # A stop string cut it.
        if isinstance(item, TextItem):
            content = [self.part(item)] if opened else []
            return OutputMessage(id=item.id, type="message", role="assistant", status=status, content=content)
        return FunctionCall(
            id=item.id,
            type="function_call",
            call_id=item.call.id,
            name=item.call.name,
            arguments=item.call.arguments if opened else "",
            status=status,
        )

    def part(self, item: TextItem, *, opened: bool = True) -> OutputText:
        """The text part of a message; ``opened`` is false while it is empty."""
        ids = self.choice.token_ids if opened else []
        part = OutputText(
            type="output_text",
            text=item.text if opened else "",
            annotations=[],
            logprobs=self.logprobs(self.choice.logprobs, len(ids)),
        )
        if self._body.return_token_ids:
            part.token_ids = ids
        return part

    def logprobs(self, tokens: list[PlacedToken], count: int) -> list[ScoredToken]:
        """Log-probabilities of the first ``count`` of ``tokens``; the token that ended the answer is excluded."""
        return token_entries(tokens[:count], self._codec) if self._body.reports_logprobs else []

    def _usage(self) -> ResponseUsage:
        """The usage of the request, with this route's field names."""
        usage = self._job.usage()
        cached = usage.prompt_tokens_details.cached_tokens
        found = ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputDetails(cached_tokens=cached, cache_write_tokens=0),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputDetails(reasoning_tokens=0),
            total_tokens=usage.total_tokens,
            denoise_steps=usage.denoise_steps,
            forward_passes=usage.forward_passes,
            tokens_per_forward=usage.tokens_per_forward,
        )
        if usage.confidence_threshold is not None:
            found.confidence_threshold = usage.confidence_threshold
        return found


def _format(asked: TextFormat) -> PlainFormat | SchemaFormat:
    """The text format, as responses repeat it."""
    if asked.type != "json_schema":
        return PlainFormat(type=asked.type)
    assert asked.name is not None
    shown = SchemaFormat(type=asked.type, name=asked.name, schema=asked.schema_, strict=asked.strict)
    if asked.description:
        shown.description = asked.description
    return shown


def _choice(asked: ToolChoice) -> ChoiceMode | Literal["none"] | FunctionName | AllowedFunctions:
    """The choice of tools as responses repeat it."""
    if isinstance(asked, ChosenFunction):
        return FunctionName(type=asked.type, name=asked.name)
    if isinstance(asked, AllowedTools):
        tools = [FunctionName(type=tool.type, name=tool.name) for tool in asked.tools]
        return AllowedFunctions(type=asked.type, mode=asked.mode, tools=tools)
    return asked
