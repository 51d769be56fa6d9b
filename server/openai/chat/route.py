"""``POST /v1/chat/completions``."""

import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.errors import ApiError
from cdlm.server.http.sse import DONE, event, open_stream, unless_gone
from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.answers.diffusing import diffusing
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.answers.logprobs import token_entries
from cdlm.server.openai.answers.stream import answer_events
from cdlm.server.openai.chat.plan import plan_chat
from cdlm.server.openai.chat.request import ChatRequest
from cdlm.server.openai.chat.response import (
    AssistantMessage,
    CalledFunction,
    CalledFunctionPiece,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChatPiece,
    Delta,
    ToolCall,
    ToolCallPiece,
)
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import Services, receive
from cdlm.server.text import TextCodec
from cdlm.server.text.tool_calls import Piece, TextPiece, ToolCallReader
from cdlm.server.text.update import Finish, PlacedToken, Update

router = APIRouter()

_CHUNK = "chat.completion.chunk"


@router.post("/chat/completions")
@Operation(ChatCompletion, GENERATE, ChatRequest, ChatCompletionChunk, "generate")
async def chat(request: Request) -> Response:
    """Answers a chat."""
    services, body = await receive(request, ChatRequest)
    body.check_supported(services.settings)
    ready, codec = services.require_ready()
    job = await plan_chat(services, body, ready, codec, request.state.record)
    answer = _Answer(services, body, job, codec)
    if body.stream:
        return await open_stream(request, answer_events(job, answer))
    return reply(await unless_gone(request, answer.whole()))


class _Answer:
    def __init__(self, services: Services, body: ChatRequest, job: Job, codec: TextCodec) -> None:
        self._body = body
        self._job = job
        self._codec = codec
        self._readers = [ToolCallReader(calls=bool(body.tool_use.functions)) for _ in job.choices]
        self._started: set[int] = set()  # Choices that have an event.
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": services.model_name,
            "system_fingerprint": services.fingerprint(),
        }

    async def whole(self) -> ChatCompletion:
        choices = [self._choice(choice) for choice in await self._job.finish()]
        answer = ChatCompletion(**self._head, object="chat.completion", choices=choices, usage=self._job.usage())
        if self._body.return_token_ids:
            answer.prompt_token_ids = self._job.prompts[0]
        return answer

    def write(self, update: Update) -> Iterator[bytes]:
        """Encodes a choice's role first, then one event per piece of a block, then its end."""
        if update.index not in self._started:
            opening = self._chunk(update.index, Delta(role="assistant", content=""))
            if self._body.return_token_ids and not self._started:
                opening.prompt_token_ids = self._job.prompts[0]
            self._started.add(update.index)
            yield event(opening)
        for place, delta in enumerate(self._deltas(update)):
            yield event(self._chunk(update.index, delta, None if place else update))
        if update.finish_reason is not None:
            reason = self._finish(update.index, update.finish_reason)
            end = self._chunk(update.index, Delta())
            end.choices[0].finish_reason, end.choices[0].stop_reason = reason, update.stop_reason
            yield event(end)

    def end(self) -> Iterator[bytes]:
        """Encodes the usage, if requested, and ``[DONE]``."""
        if self._body.stream_options.include_usage:
            chunk = ChatCompletionChunk(**self._head, object=_CHUNK, choices=[], usage=self._job.usage())
            yield event(chunk)
        yield DONE

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """Encodes the error and ``[DONE]``."""
        yield event(error.body())
        yield DONE

    def _deltas(self, update: Update) -> list[Delta]:
        """The pieces of a message in an update; the first one also carries log-probabilities, ids and steps."""
        deltas = [_delta(piece) for piece in self._readers[update.index].take(update)]
        # A block without certain text sends no event, unless what belongs to its tokens is requested.
        more = self._body.return_token_ids or self._body.logprobs or self._body.return_step_map
        if not deltas and update.token_ids and more:
            deltas = [Delta(content="")]
        elif not deltas and update.canvas is not None:
            deltas = [Delta()]
        return deltas

    def _finish(self, index: int, reason: Finish | None) -> Finish | Literal["tool_calls"] | None:
        return "tool_calls" if reason == "stop" and self._readers[index].ends_in_call else reason

    def _choice(self, choice: Choice) -> ChatChoice:
        reader = self._readers[choice.index]
        reader.feed(choice.text)
        reader.finish(cut=choice.cut)
        content = reader.content or (None if choice.text else "")
        message = AssistantMessage(role="assistant", content=content, refusal=None)
        if reader.calls:
            message.tool_calls = [
                ToolCall(id=call.id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))
                for call in reader.calls
            ]
        result = ChatChoice(
            index=choice.index,
            message=message,
            logprobs=self._logprobs(choice.logprobs, len(choice.token_ids)),
            finish_reason=self._finish(choice.index, choice.finish_reason),
            stop_reason=choice.stop_reason,
        )
        if self._body.return_token_ids:
            result.token_ids = choice.token_ids
        if self._body.return_step_map:
            result.step_map = choice.step_map
        if choice.vote is not None:
            result.vote = choice.vote
        return result

    def _chunk(self, index: int, delta: Delta, update: Update | None = None) -> ChatCompletionChunk:
        piece = ChatPiece(
            index=index,
            delta=delta,
            logprobs=None if update is None else self._logprobs(update.logprobs, len(update.token_ids)),
            finish_reason=None,
            stop_reason=None,
        )
        if self._body.return_token_ids and update is not None:
            piece.token_ids = update.token_ids
        if self._body.return_step_map and update is not None:
            piece.step_map = update.step_map
        if update is not None and update.canvas is not None:
            piece.diffusing = diffusing(
                update.block, update.canvas, self._codec, keep_special=not self._body.skip_special_tokens
            )
        chunk = ChatCompletionChunk(**self._head, object=_CHUNK, choices=[piece])
        options = self._body.stream_options
        if options.include_usage or options.continuous_usage_stats:
            chunk.usage = self._job.usage() if options.continuous_usage_stats else None
        return chunk

    def _logprobs(self, tokens: list[PlacedToken], count: int) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        # In chats, a stop token has no entry: it is not content.
        as_ids = self._body.return_tokens_as_token_ids
        return ChatLogprobs(content=token_entries(tokens[:count], self._codec, as_ids=as_ids), refusal=None)


def _delta(piece: Piece) -> Delta:
    """Converts a piece to a delta."""
    if isinstance(piece, TextPiece):
        return Delta(content=piece.text)
    if not piece.begins:
        added = ToolCallPiece(index=piece.index, function=CalledFunctionPiece(arguments=piece.arguments))
    else:
        function = CalledFunctionPiece(name=piece.call.name, arguments="")
        added = ToolCallPiece(index=piece.index, id=piece.call.id, type="function", function=function)
    return Delta(tool_calls=[added])
