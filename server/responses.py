"""``POST /v1/responses``."""

from collections.abc import Iterator
from itertools import count

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from scheduler.messages import EngineReady
from server.answer_grammar import format_grammar
from server.answer_stream import answer_events
from server.body import read_body
from server.choice import Update
from server.diffusing import diffusing
from server.errors import ApiError
from server.generation import Job
from server.protocol.responses import ResponsesRequest
from server.request_log import RequestRecord
from server.response_object import ResponseObject
from server.services import Services, check_edits, check_stop_ids, token_budget
from server.sse import event, open_stream, unless_gone
from server.text import TextCodec

router = APIRouter()


@router.post("/responses")
async def respond(request: Request) -> Response:
    """Answers a text or messages."""
    services: Services = request.app.state.services
    body = await read_body(request, ResponsesRequest)
    services.check_model(body.model)
    body.check_supported(services.settings.decoding)
    ready, codec = services.require_ready()
    job = await _plan(services, body, ready, codec, request.state.record)
    response = ResponseObject(services, body, job, codec)
    if body.stream:
        return await open_stream(request, answer_events(job, _Stream(body, response, codec)))
    await unless_gone(request, job.finish())
    return JSONResponse(response.state(response.outcome))


async def _plan(
    services: Services, body: ResponsesRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> Job:
    services.gate.check_size(body.candidates, "input")
    grammar = format_grammar(body.text.format, "text.format")
    text = await services.checked_grammar(grammar, body.stop_token_ids, ready, codec)
    ids = await codec.encode_chat(body.messages(), ready.max_model_len, param="input")
    check_stop_ids(body.stop_token_ids, ready)
    budget = token_budget(len(ids), body.max_output_tokens, ready, "input", guided=body.guidance_scale > 0)
    check_edits(body, budget, ready)
    return Job.plan(services, codec, record, body, [ids], [budget], grammar=text)


class _Stream:
    """The events of one response, in the order of OpenAI's API."""

    def __init__(self, body: ResponsesRequest, response: ResponseObject, codec: TextCodec) -> None:
        self._body = body
        self._opened = False
        self._response = response
        self._codec = codec
        self._numbers = count()
        self._place: dict[str, object] = {"item_id": response.item_id, "output_index": 0, "content_index": 0}

    def write(self, update: Update) -> Iterator[bytes]:
        """The opening before the first block, then a delta for a block or a part of it."""
        if not self._opened:
            self._opened = True
            yield from self._opening()
        # A block whose text is all held back says nothing, unless more was asked for.
        more = self._body.return_token_ids or self._body.reports_logprobs
        if update.text or (update.token_ids and more) or update.canvas is not None:
            yield self._delta(update)

    def _opening(self) -> Iterator[bytes]:
        response = self._response
        yield self._event("response.created", response=response.state("in_progress", opened=False))
        yield self._event("response.in_progress", response=response.state("in_progress", opened=False))
        item = response.item("in_progress", opened=False)
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place, part=response.part(opened=False))

    def _delta(self, update: Update) -> bytes:
        fields: dict[str, object] = {
            "delta": update.text,
            "logprobs": self._response.logprobs(update.logprobs, len(update.token_ids)),
        }
        if self._body.return_token_ids:
            fields["token_ids"] = update.token_ids
        if update.canvas is not None:
            fields["diffusing"] = diffusing(update.block, update.canvas, self._codec)
        return self._event("response.output_text.delta", **self._place, **fields)

    def end(self) -> Iterator[bytes]:
        """The ends of text, part and message, and the whole response."""
        response, status, part = self._response, self._response.outcome, self._response.part()
        yield self._event("response.output_text.done", **self._place, text=part["text"], logprobs=part["logprobs"])
        yield self._event("response.content_part.done", **self._place, part=part)
        yield self._event("response.output_item.done", output_index=0, item=response.item(status))
        yield self._event(f"response.{status}", response=response.state(status))

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """The error, and the response as far as it came."""
        yield self._event("error", code=error.code or "server_error", message=error.message, param=error.param)
        yield self._event("response.failed", response=self._response.state("failed", error=error))

    def _event(self, kind: str, **fields: object) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers)} | fields, kind)
