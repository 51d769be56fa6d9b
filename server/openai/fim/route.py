"""``POST /v1/fim/completions``, in the shape of Inception's API for Mercury (docs/infilling.md)."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.http.sse import open_stream, unless_gone
from cdlm.server.openai.answers.stream import answer_events
from cdlm.server.openai.completions.answer import CompletionInProgress
from cdlm.server.openai.completions.plan import plan_completion
from cdlm.server.openai.fim.request import FimRequest
from cdlm.server.openai.fim.response import FimChunk, FimCompletion
from cdlm.server.openai.protocol.response import InfillUsage
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import receive

router = APIRouter()


@router.post("/fim/completions")
@Operation(FimCompletion, GENERATE, FimRequest, FimChunk, "generate")
async def fill(request: Request) -> Response:
    """Writes the text between a prompt and a suffix, in the shape of Inception's API."""
    services, body = await receive(request, FimRequest)
    completion = body.completion()
    job, codec, _ = await plan_completion(services, completion, request.state.record)
    answer = _FimInProgress(services, completion, job, codec, [])
    if body.stream:
        return await open_stream(request, answer_events(job, answer))
    return reply(await unless_gone(request, answer.whole()))


class _FimInProgress(CompletionInProgress):
    answer_type = FimCompletion
    chunk_type = FimChunk

    def usage(self) -> InfillUsage:
        return InfillUsage.of(super().usage())
