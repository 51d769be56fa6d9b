"""From the body of a chat to its work in the engine."""

from cdlm.scheduler.messages import EngineReady
from cdlm.server.observe.request_log import RequestRecord
from cdlm.server.openai.answers.generation import Job
from cdlm.server.openai.chat.request import ChatRequest
from cdlm.server.openai.forms.answer_grammar import answer_grammar
from cdlm.server.services import Services, token_budget
from cdlm.server.text import TextCodec


async def plan_chat(
    services: Services, body: ChatRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> Job:
    """The work for a chat; raises ``ApiError`` 400 for fields that the model or other fields do not allow."""
    services.gate.check_size(body.n, "n")
    use = body.tool_use
    wanted = answer_grammar(body.constraint, use)
    grammar = await services.checked_grammar(wanted, body.stop_token_ids, ready, codec)
    chat = body.chat(trust_template=services.settings.trust_request_chat_template)
    ids = await codec.encode_chat(chat, ready.max_model_len, special=bool(body.add_special_tokens))
    budget = token_budget(len(ids), body.token_limit, ready, "messages", guided=body.guidance_scale > 0)
    params = services.decoding_params(body, budget, wanted, ready, codec)
    await services.grammars.check_room(wanted, budget, body.limit_name, "messages", codec, ready)
    return Job.plan(services, codec, record, body, params, [ids], [budget], grammar=grammar)
