"""A message in progress: whole, or as events in the order of Anthropic's API."""

import uuid
from collections.abc import Iterator

from pydantic_core import from_json

from cdlm.server.answer import Answer
from cdlm.server.anthropic.messages.response import (
    AnswerBlock,
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    InputDelta,
    MessageAnswer,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessagesUsage,
    Ping,
    TextAnswerBlock,
    TextDelta,
    UseAnswerBlock,
)
from cdlm.server.errors import ApiError
from cdlm.server.http.sse import event
from cdlm.server.openai.answers.generation import Job
from cdlm.server.text.tool_calls import Call, Piece, TextPiece, ToolCallReader
from cdlm.server.text.update import Update


class MessageInProgress:
    """The answer of ``job``, which has one choice; ``calls`` says whether it may have calls of tools."""

    def __init__(self, model: str, job: Job, *, calls: bool) -> None:
        self._job = job
        self._model = model
        self._id = f"msg_{uuid.uuid4().hex}"
        self._reader = ToolCallReader(calls=calls)
        self._opened = False
        self._blocks = 0
        self._in_text = False

    async def whole(self) -> MessageAnswer:
        """Waits for the answer."""
        [choice] = await self._job.finish()
        reader = self._reader
        reader.feed(choice.text)
        reader.finish(cut=choice.cut)
        content: list[AnswerBlock] = [TextAnswerBlock(type="text", text=reader.content)] if reader.content else []
        content += [_use(call) for call in reader.calls]
        return self._message(content, self._ending())

    def write(self, update: Update) -> Iterator[bytes]:
        """Encodes the start of the message first, then the pieces of its blocks."""
        if not self._opened:
            self._opened = True
            message = self._message([], None)
            message.usage.output_tokens = 0  # Those of the first block, which has begun this, come after it.
            yield _event(MessageStart(type="message_start", message=message))
        for piece in self._reader.take(update):
            begins = not self._in_text if isinstance(piece, TextPiece) else piece.begins
            if begins:
                yield from self._begin(piece)
            if isinstance(piece, TextPiece):
                yield self._delta(TextDelta(type="text_delta", text=piece.text))
            elif not begins:
                yield self._delta(InputDelta(type="input_json_delta", partial_json=piece.arguments))

    def end(self) -> Iterator[bytes]:
        """Encodes the end of the last block and of the message."""
        yield from self._close()
        yield _event(MessageDelta(type="message_delta", delta=self._ending(), usage=self._usage()))
        yield _event(MessageStop(type="message_stop"))

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """Encodes the error."""
        yield _event(error.messages_body())

    def _begin(self, piece: Piece) -> Iterator[bytes]:
        yield from self._close()
        self._in_text = isinstance(piece, TextPiece)
        block: AnswerBlock = TextAnswerBlock(type="text", text="")
        if not isinstance(piece, TextPiece):
            block = UseAnswerBlock(type="tool_use", id=_use_id(piece.call), name=piece.call.name, input={})
        yield _event(BlockStart(type="content_block_start", index=self._blocks, content_block=block))
        if not self._blocks:
            yield _event(Ping(type="ping"))
        self._blocks += 1

    def _close(self) -> Iterator[bytes]:
        if self._blocks:
            yield _event(BlockStop(type="content_block_stop", index=self._blocks - 1))

    def _delta(self, delta: TextDelta | InputDelta) -> bytes:
        return _event(BlockDelta(type="content_block_delta", index=self._blocks - 1, delta=delta))

    def _message(self, content: list[AnswerBlock], ending: Ending | None) -> MessageAnswer:
        return MessageAnswer(
            id=self._id,
            type="message",
            role="assistant",
            model=self._model,
            content=content,
            stop_reason=ending and ending.stop_reason,
            stop_sequence=ending and ending.stop_sequence,
            usage=self._usage(),
        )

    def _ending(self) -> Ending:
        [choice] = self._job.choices
        if choice.finish_reason == "length":
            return Ending(stop_reason="max_tokens", stop_sequence=None)
        if self._reader.ends_in_call:
            return Ending(stop_reason="tool_use", stop_sequence=None)
        if isinstance(choice.stop_reason, str):
            return Ending(stop_reason="stop_sequence", stop_sequence=choice.stop_reason)
        return Ending(stop_reason="end_turn", stop_sequence=None)

    def _usage(self) -> MessagesUsage:
        usage = self._job.usage()
        cached = usage.prompt_tokens_details.cached_tokens
        return MessagesUsage(
            input_tokens=usage.prompt_tokens - cached,
            cache_creation_input_tokens=0,
            cache_read_input_tokens=cached,
            output_tokens=usage.completion_tokens,
        )


def _use(call: Call) -> UseAnswerBlock:
    # Clients read arguments that the length cut the same way at the end of a stream.
    arguments = from_json(call.arguments, allow_partial=True) if call.arguments else {}
    return UseAnswerBlock(type="tool_use", id=_use_id(call), name=call.name, input=arguments)


def _use_id(call: Call) -> str:
    return call.id.replace("call_", "toolu_", 1)


def _event(answer: Answer) -> bytes:
    """An event that is named by its type."""
    return event(answer, answer.type)  # type: ignore[attr-defined]
