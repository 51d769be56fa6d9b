"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.anthropic.error import MessagesError, messages_status
from cdlm.server.anthropic.messages.answer import MessageInProgress
from cdlm.server.anthropic.messages.request import CountTokensRequest, MessagesRequest
from cdlm.server.anthropic.messages.response import MessageAnswer, MessageEvent, TokenCount
from cdlm.server.http.sse import open_stream, unless_gone
from cdlm.server.openai.answers.stream import answer_events
from cdlm.server.openai.chat.plan import plan_chat
from cdlm.server.operation import GENERATE, READ, Operation
from cdlm.server.services import receive

router = APIRouter()

_GENERATE = tuple(map(messages_status, GENERATE))
_READ = tuple(map(messages_status, READ))


@router.post("/messages")
@Operation(MessageAnswer, _GENERATE, MessagesRequest, MessageEvent, "generate", MessagesError)
async def message(request: Request) -> Response:
    """Answers a conversation, in the shape of Anthropic's API."""
    services, body = await receive(request, MessagesRequest)
    chat = body.chat()
    chat.check_supported(services.settings)
    ready, codec = services.require_ready()
    job = await plan_chat(services, chat, ready, codec, request.state.record)
    answer = MessageInProgress(services.model_name, job, calls=bool(chat.tool_use.functions))
    if body.stream:
        return await open_stream(request, answer_events(job, answer))
    return reply(await unless_gone(request, answer.whole()))


@router.post("/messages/count_tokens")
@Operation(TokenCount, _READ, CountTokensRequest, tag="model", error=MessagesError)
async def count_tokens(request: Request) -> Response:
    """The number of tokens that a conversation has as a prompt."""
    services, body = await receive(request, CountTokensRequest)
    chat = body.chat()
    ready, codec = services.require_ready()
    # Limits the work only: a count above the context is a valid result.
    bound = max(ready.max_model_len, services.settings.max_body_bytes)
    ids = await codec.encode_chat(chat.chat(trust_template=False), bound)
    return reply(TokenCount(input_tokens=len(ids)))
