"""From the body of a request for decisions to its work in the engine."""

from collections.abc import Sequence

from cdlm.scheduler.messages import EngineReady
from cdlm.server.errors import ApiError, too_long
from cdlm.server.observe.request_log import RequestRecord
from cdlm.server.openai.decisions.job import DecisionJob
from cdlm.server.openai.decisions.request import DecisionsRequest
from cdlm.server.services import Services
from cdlm.server.text import Chat, TextCodec


async def plan_decisions(
    services: Services, body: DecisionsRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> DecisionJob:
    """The work for a request; raises ``ApiError`` 400 for what does not fit the model."""
    end = answer_end(ready, codec)
    context, prompts, texts = scored_context(ready), [], []
    for question in body.questions:
        chat = Chat(body.messages(question.asked()))
        prompt = await codec.encode_chat(chat, ready.max_model_len, "input")
        own = await codec.encode(question.texts(), ready.max_model_len, "questions", special=False)
        own = [[*ids, *end] for ids in own]
        longest = len(prompt) + max(map(len, own))
        if longest > context:
            raise too_long(context, str(longest), "input")
        prompts.append(prompt)
        texts.append(own)
    return DecisionJob(services, record, prompts, texts, body.priority, body.cache_salt)


def scored_context(ready: EngineReady) -> int:
    """Most tokens of a text that can be scored: a KV cache smaller than one context limits it too."""
    return min(ready.max_model_len, (ready.num_pages - 3) * ready.page_size - ready.block_length)


def answer_end(ready: EngineReady, codec: TextCodec) -> list[int]:
    """The token that ends an answer, if there is one: that of the chat template, else the checkpoint's first."""
    ends = [token for token in ready.stop_token_ids if 0 <= token < ready.vocab_size and token != ready.mask_token_id]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        written: Sequence[int] = codec.chat_ids(Chat(turns, add_generation_prompt=False))
    except ApiError:  # The template wants other turns.
        written = []
    return [token for token in reversed(written) if token in ends][:1] or ends[:1]
