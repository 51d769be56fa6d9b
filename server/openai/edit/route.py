"""``POST /v1/edit/completions``, in the shape of Inception's API for Mercury (docs/infilling.md)."""

import time
import uuid

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.http.sse import unless_gone
from cdlm.server.openai.answers.choice import Choice
from cdlm.server.openai.completions.plan import plan_completion
from cdlm.server.openai.edit.request import EditRequest
from cdlm.server.openai.edit.response import EditChoice, EditCompletion, EditedMessage
from cdlm.server.openai.protocol.response import InfillUsage
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import receive

router = APIRouter()


@router.post("/edit/completions")
@Operation(EditCompletion, GENERATE, EditRequest, tag="generate")
async def edit(request: Request) -> Response:
    """Rewrites a marked piece of a file, in the shape of Inception's API."""
    services, body = await receive(request, EditRequest)
    job, _, _ = await plan_completion(services, body.completion(), request.state.record)
    choices = await unless_gone(request, job.finish())
    answer = EditCompletion(
        id=f"cmpl-{uuid.uuid4().hex}",
        object="edit.completion",
        created=int(time.time()),
        model=services.model_name,
        system_fingerprint=services.fingerprint(),
        choices=[_choice(choice, ids=body.return_token_ids) for choice in choices],
        usage=InfillUsage.of(job.usage()),
    )
    return reply(answer)


def _choice(choice: Choice, *, ids: bool) -> EditChoice:
    # Clients of Mercury read the code between the fences, and Continue's client finds none without them.
    shown = EditedMessage(role="assistant", content=f"```\n{choice.text}\n```")
    result = EditChoice(
        index=choice.index, message=shown, finish_reason=choice.finish_reason, stop_reason=choice.stop_reason
    )
    if ids:
        result.token_ids = choice.token_ids
    return result
