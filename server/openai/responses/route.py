"""``POST /v1/responses``."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.scheduler.messages import EngineReady
from cdlm.server.answer import reply
from cdlm.server.http.sse import open_stream, unless_gone
from cdlm.server.observe.request_log import RequestRecord
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.answers.stream import answer_events
from cdlm.server.openai.forms.answer_grammar import answer_grammar
from cdlm.server.openai.responses.events import ResponseEvents
from cdlm.server.openai.responses.object import ResponseObject
from cdlm.server.openai.responses.request import ResponsesRequest
from cdlm.server.openai.responses.response import ResponseAnswer, ResponseEvent
from cdlm.server.operation import GENERATE, Operation
from cdlm.server.services import Services, receive, token_budget
from cdlm.server.text import Chat, TextCodec

router = APIRouter()


@router.post("/responses")
@Operation(ResponseAnswer, GENERATE, ResponsesRequest, ResponseEvent, "generate")
async def respond(request: Request) -> Response:
    """Answers a text, or messages and the results of calls."""
    services, body = await receive(request, ResponsesRequest)
    body.check_supported(services.settings)
    ready, codec = services.require_ready()
    job = await _plan(services, body, ready, codec, request.state.record)
    response = ResponseObject(services, body, job, codec)
    if body.stream:
        return await open_stream(request, answer_events(job, ResponseEvents(body, response, codec)))
    await unless_gone(request, job.finish())
    return reply(response.whole())


async def _plan(
    services: Services, body: ResponsesRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> Job:
    services.gate.check_size(body.candidates, "input")
    messages = body.messages()
    use = body.tool_use
    grammar = answer_grammar(body.constraint, use)
    text = await services.checked_grammar(grammar, body.stop_token_ids, ready, codec)
    tools = [function.declaration() for function in use.functions]
    chat = Chat(messages, tools, variables=body.chat_template_kwargs)
    ids = await codec.encode_chat(chat, ready.max_model_len, "input")
    budget = token_budget(len(ids), body.max_output_tokens, ready, "input", guided=body.guidance_scale > 0)
    params = services.decoding_params(body, budget, grammar, ready, codec)
    limit = None if body.max_output_tokens is None else "max_output_tokens"
    await services.grammars.check_room(grammar, budget, limit, "input", codec, ready)
    return Job.plan(services, codec, record, body, params, [ids], [budget], grammar=text)
