"""``POST /v1/chat/completions``."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from scheduler.messages import EngineReady
from server.answer_grammar import answer_grammar
from server.body import read_body
from server.choice import Choice, Update
from server.diffusing import diffusing
from server.errors import ApiError
from server.generation import Job
from server.logprobs import PlacedToken, chat_logprobs
from server.protocol.chat import ChatRequest
from server.request_log import RequestRecord
from server.services import Services, check_edits, check_stop_ids, token_budget
from server.sse import DONE, event, open_stream, unless_gone
from server.text import TextCodec
from server.tool_calls import Delta, ToolCallReader

router = APIRouter()


@router.post("/chat/completions")
async def chat(request: Request) -> Response:
    """Answers a chat."""
    services: Services = request.app.state.services
    body = await read_body(request, ChatRequest)
    services.check_model(body.model)
    body.check_supported(services.settings.decoding)
    ready, codec = services.require_ready()
    answer = _Answer(services, body, await _plan(services, body, ready, codec, request.state.record), codec)
    if body.stream:
        return await open_stream(request, answer.events())
    return JSONResponse(await unless_gone(request, answer.whole()))


async def _plan(
    services: Services, body: ChatRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> Job:
    services.gate.check_size(body.n, "n")
    grammar = await services.checked_grammar(answer_grammar(body), body.stop_token_ids, ready, codec)
    ids = await codec.encode_chat(
        [message.fields() for message in body.messages],
        ready.max_model_len,
        [tool.declaration() for tool in body.offered_tools],
    )
    check_stop_ids(body.stop_token_ids, ready)
    budget = token_budget(len(ids), body.token_limit, ready, "messages", guided=body.guidance_scale > 0)
    check_edits(body, budget, ready)
    return Job.plan(services, codec, record, body, [ids], [budget], grammar=grammar)


class _Answer:
    def __init__(self, services: Services, body: ChatRequest, job: Job, codec: TextCodec) -> None:
        self._body = body
        self._job = job
        self._codec = codec
        # By the index of a choice; without tools nothing in a text is a call.
        self._readers = [ToolCallReader() for _ in job.choices] if body.offered_tools else []
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": services.model_name,
            "system_fingerprint": services.fingerprint(),
        }

    async def whole(self) -> dict[str, object]:
        choices = [self._choice(choice) for choice in await self._job.finish()]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": self._job.usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Of each choice its role, an event a block or a part of it, its end; then usage if asked for; the end mark."""
        started: set[int] = set()
        try:
            async with aclosing(self._job.updates()) as updates:
                async for update in updates:
                    if update.index not in started:
                        started.add(update.index)
                        yield self._chunk(update.index, {"role": "assistant", "content": ""})
                    for place, delta in enumerate(self._deltas(update)):
                        yield self._chunk(update.index, delta, None if place else update)
                    if update.finish_reason is not None:
                        reason = self._finish(update.index, update.finish_reason)
                        yield self._chunk(update.index, {}, finish_reason=reason)
            if self._body.stream_options.include_usage:
                yield event(self._head | {"object": "chat.completion.chunk", "choices": [], "usage": self._job.usage()})
        except ApiError as error:
            if not started:
                raise
            yield event(error.body())
        yield DONE

    def _deltas(self, update: Update) -> list[Delta]:
        """What an update adds to the message; the first also carries what else was asked for."""
        if self._readers:
            reader = self._readers[update.index]
            deltas = reader.feed(update.text)
            if update.finish_reason is not None:
                deltas += reader.finish()
        else:
            deltas = [{"content": update.text}] if update.text else []
        # A block whose text is all held back says nothing, unless more was asked for.
        more = self._body.return_token_ids or self._body.logprobs
        if not deltas and update.token_ids and more:
            deltas = [{"content": ""}]
        elif not deltas and update.canvas is not None:
            deltas = [{}]
        return deltas

    def _finish(self, index: int, reason: str | None) -> str | None:
        called = bool(self._readers) and bool(self._readers[index].calls)
        return "tool_calls" if called and reason == "stop" else reason

    def _choice(self, choice: Choice) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": choice.text, "refusal": None}
        if self._readers:
            reader = self._readers[choice.index]
            reader.feed(choice.text)
            reader.finish()
            message["content"] = reader.content or (None if choice.text else "")
            if reader.calls:
                message["tool_calls"] = [call.shown() for call in reader.calls]
        result: dict[str, object] = {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice.logprobs, len(choice.token_ids)),
            "finish_reason": self._finish(choice.index, choice.finish_reason),
        }
        if self._body.return_token_ids:
            result["token_ids"] = choice.token_ids
            result["prompt_token_ids"] = choice.request.prompt_ids
        return result

    def _chunk(
        self,
        index: int,
        delta: Delta,
        update: Update | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice: dict[str, object] = {
            "index": index,
            "delta": delta,
            "logprobs": None if update is None else self._logprobs(update.logprobs, len(update.token_ids)),
            "finish_reason": finish_reason,
        }
        if self._body.return_token_ids and update is not None:
            choice["token_ids"] = update.token_ids
        if update is not None and update.canvas is not None:
            choice["diffusing"] = diffusing(update.block, update.canvas, self._codec)
        return event(
            self._head
            | {"object": "chat.completion.chunk", "choices": [choice]}
            | self._job.chunk_usage(self._body.stream_options)
        )

    def _logprobs(self, tokens: list[PlacedToken], count: int) -> dict[str, object] | None:
        # A chat has no place for the token that ended it: it is no content.
        return chat_logprobs(tokens[:count], self._codec) if self._body.logprobs else None
