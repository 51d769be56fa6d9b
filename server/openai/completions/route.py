"""``POST /v1/completions``."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.http.sse import open_stream, unless_gone
from cdlm.server.openai.answers.stream import answer_events
from cdlm.server.openai.completions.answer import CompletionInProgress
from cdlm.server.openai.completions.plan import plan_completion
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.completions.response import Completion, CompletionChunk
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import receive

router = APIRouter()


@router.post("/completions")
@Operation(Completion, GENERATE, CompletionRequest, CompletionChunk, "generate")
async def complete(request: Request) -> Response:
    """Continues one or several prompts."""
    services, body = await receive(request, CompletionRequest)
    job, codec, echoes = await plan_completion(services, body, request.state.record)
    answer = CompletionInProgress(services, body, job, codec, echoes)
    if body.stream:
        return await open_stream(request, answer_events(job, answer))
    return reply(await unless_gone(request, answer.whole()))
