"""From the body of a request for decisions to its work in the engine."""

from collections.abc import Sequence

from cdlm.scheduler.messages import EngineReady
from cdlm.server.errors import ApiError, invalid, too_long
from cdlm.server.observe.request_log import RequestRecord
from cdlm.server.openai.decisions.canvas import Canvas, joined, labels
from cdlm.server.openai.decisions.job import DecisionJob
from cdlm.server.openai.decisions.request import DecisionsRequest
from cdlm.server.services import Services
from cdlm.server.text import Chat, TextCodec


async def plan_decisions(
    services: Services, body: DecisionsRequest, ready: EngineReady, codec: TextCodec, record: RequestRecord
) -> DecisionJob:
    """The work for a request; raises ``ApiError`` 400 for what does not fit the model."""
    end = answer_end(ready, codec)
    if body.joint:
        return await _plan_joint(services, body, ready, codec, record, end)
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


async def _plan_joint(
    services: Services,
    body: DecisionsRequest,
    ready: EngineReady,
    codec: TextCodec,
    record: RequestRecord,
    end: list[int],
) -> DecisionJob:
    if ready.block_length == 1 or ready.mask_token_id >= ready.vocab_size:
        raise invalid("joint needs a model that denoises blocks, and this one does not", "joint")
    chat = Chat(body.messages(joined([question.asked() for question in body.questions])))
    prompt = await codec.encode_chat(chat, ready.max_model_len, "input")
    lines = await codec.encode(labels(len(body.questions)), ready.max_model_len, "questions", special=False)
    # Behind its label a text begins after a space.
    texts = [
        await codec.encode([f" {text}" for text in question.texts()], ready.max_model_len, "questions", special=False)
        for question in body.questions
    ]
    canvas = Canvas.of(len(prompt), lines, texts, end)
    whole = len(prompt) + len(canvas.ids)
    # The canvas is computed in whole blocks.
    if whole + 2 * ready.block_length > scored_context(ready):
        raise too_long(scored_context(ready), str(whole), "input")
    most = services.settings.max_num_batched_tokens // 4 - 2 * ready.block_length
    if len(canvas.ids) > most:
        message = f"joint: the canvas has {len(canvas.ids)} tokens, and a step has room for {max(0, most)}"
        raise invalid(message, "joint")
    return DecisionJob(services, record, [prompt], [[canvas.ids]], body.priority, body.cache_salt, canvas)


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
