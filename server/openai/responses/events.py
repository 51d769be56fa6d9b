"""The events of a streamed response, in the order of OpenAI's API."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from cdlm.server.answer import Answer
from cdlm.server.errors import ApiError
from cdlm.server.http.sse import event
from cdlm.server.openai.answers.diffusing import diffusing
from cdlm.server.openai.protocol.response import Canvas
from cdlm.server.openai.responses.object import ResponseObject, Status, TextItem
from cdlm.server.openai.responses.request import ResponsesRequest
from cdlm.server.openai.responses.response import (
    ArgumentsDeltaEvent,
    ArgumentsEvent,
    DeltaEvent,
    ErrorEvent,
    ItemEvent,
    PartEvent,
    StateEvent,
    TextEvent,
)
from cdlm.server.text import TextCodec
from cdlm.server.text.tool_calls import TextPiece
from cdlm.server.text.update import PlacedToken, Update


class ResponseEvents:
    """Writes what a response says and calls, item after item."""

    def __init__(self, body: ResponsesRequest, response: ResponseObject, codec: TextCodec) -> None:
        self._body = body
        self._response = response
        self._codec = codec
        self._numbers = count()
        self._opened = False
        # Tokens that no delta has reported.
        self._token_ids: list[int] = []
        self._logprobs: list[PlacedToken] = []

    def write(self, update: Update) -> Iterator[bytes]:
        """The opening before the first block, then a delta for each piece of a block."""
        response = self._response
        if not self._opened:
            self._opened = True
            yield self._state("response.created", "in_progress")
            yield self._state("response.in_progress", "in_progress")
            response.begin()
            if response.items:
                yield from self._begin()
        self._token_ids += update.token_ids
        self._logprobs += update.logprobs[: len(update.token_ids)]
        canvas: Canvas | None = None
        if update.canvas is not None:
            canvas = diffusing(
                update.block, update.canvas, self._codec, keep_special=not self._body.skip_special_tokens
            )
        pieces = response.read(update)
        for piece in pieces:
            before = len(response.items)
            if response.place(piece):
                if before:
                    yield from self._end(before - 1, "completed")
                yield from self._begin()
            if isinstance(piece, TextPiece):
                yield self._delta(piece.text, canvas)
                canvas = None
            elif not piece.begins:
                yield self._delta(piece.arguments)
        # A block whose text is all held back says nothing, unless more was asked for.
        if response.items and (canvas or self._is_owed()):
            yield self._delta("", canvas)

    def end(self) -> Iterator[bytes]:
        """The end of the last item, and the whole response."""
        response = self._response
        if not response.items:
            response.finish()
            if response.items:
                yield from self._begin()
                if self._is_owed():
                    yield self._delta("")
        if response.items:
            yield from self._end(len(response.items) - 1, response.outcome)
        yield self._state(
            "response.incomplete" if response.outcome == "incomplete" else "response.completed", response.outcome
        )

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """The error, and the response as far as it came."""
        yield self._event(
            ErrorEvent, "error", code=error.code or "server_error", message=error.message, param=error.param
        )
        yield self._state("response.failed", "failed", error)

    def _is_owed(self) -> bool:
        """Whether tokens were asked for that no delta has reported."""
        scored = self._body.reports_logprobs and isinstance(self._response.items[-1], TextItem)
        return bool(self._token_ids) and (self._body.return_token_ids or scored)

    def _begin(self) -> Iterator[bytes]:
        response = self._response
        index = len(response.items) - 1
        item = response.items[index]
        shown = response.item(item, "in_progress", opened=False)
        yield self._event(ItemEvent, "response.output_item.added", output_index=index, item=shown)
        if isinstance(item, TextItem):
            part = response.part(item, opened=False)
            yield self._event(PartEvent, "response.content_part.added", **self._place(index), part=part)

    def _delta(self, text: str, canvas: Canvas | None = None) -> bytes:
        """More of the last item."""
        index = len(self._response.items) - 1
        more: dict[str, Any] = {"token_ids": self._token_ids} if self._body.return_token_ids else {}
        kind: Callable[..., Answer] = ArgumentsDeltaEvent
        name = "response.function_call_arguments.delta"
        if isinstance(self._response.items[index], TextItem):
            kind, name = DeltaEvent, "response.output_text.delta"
            more["logprobs"] = self._response.logprobs(self._logprobs, len(self._logprobs))
            if canvas is not None:
                more["diffusing"] = canvas
        self._token_ids, self._logprobs = [], []
        return self._event(kind, name, **self._place(index), delta=text, **more)

    def _end(self, index: int, status: Status) -> Iterator[bytes]:
        response, place = self._response, self._place(index)
        item = response.items[index]
        if isinstance(item, TextItem):
            part = response.part(item)
            yield self._event(TextEvent, "response.output_text.done", **place, text=part.text, logprobs=part.logprobs)
            yield self._event(PartEvent, "response.content_part.done", **place, part=part)
        else:
            called = {"name": item.call.name, "arguments": item.call.arguments}
            yield self._event(ArgumentsEvent, "response.function_call_arguments.done", **place, **called)
        yield self._event(ItemEvent, "response.output_item.done", output_index=index, item=response.item(item, status))

    def _place(self, index: int) -> dict[str, Any]:
        item = self._response.items[index]
        place: dict[str, Any] = {"item_id": item.id, "output_index": index}
        return place | ({"content_index": 0} if isinstance(item, TextItem) else {})

    def _state(self, name: str, status: Status, error: ApiError | None = None) -> bytes:
        return self._event(StateEvent, name, response=self._response.state(status, error=error))

    def _event(self, kind: Callable[..., Answer], name: str, /, **fields: Any) -> bytes:
        return event(kind(type=name, sequence_number=next(self._numbers), **fields), name)
