"""``POST /v1/decisions``."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.http.sse import unless_gone
from cdlm.server.openai.decisions.answer import answer_of
from cdlm.server.openai.decisions.plan import plan_decisions
from cdlm.server.openai.decisions.request import DecisionsRequest
from cdlm.server.openai.decisions.response import Decision
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import receive

router = APIRouter()


@router.post("/decisions")
@Operation(Decision, GENERATE, DecisionsRequest, tag="generate")
async def decide(request: Request) -> Response:
    """Answers questions about an input with probabilities; writes no text."""
    services, body = await receive(request, DecisionsRequest)
    body.check()
    ready, codec = services.require_ready()
    job = await plan_decisions(services, body, ready, codec, request.state.record)
    logs = await unless_gone(request, job.finish())
    answers = [answer_of(question, each) for question, each in zip(body.questions, logs, strict=True)]
    return reply(Decision(model=services.model_name, answers=answers, usage=job.usage()))
