"""The list of models, and the tokenizer as a service."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import reply
from cdlm.server.openai.tokens.request import DetokenizeRequest, TokenizeRequest
from cdlm.server.openai.tokens.response import Detokenized, ModelCard, ModelList, Tokenized
from cdlm.server.operation import KEYED, READ, Operation
from cdlm.server.services import Services, check_ids, receive

router = APIRouter()


@router.get("/models")
@Operation(ModelList, tag="model")
async def list_models(request: Request) -> Response:
    """The one model that is served."""
    services: Services = request.app.state.services
    return reply(ModelList(object="list", data=[_card(services)]))


@router.get("/models/{name:path}")
@Operation(ModelCard, (*KEYED, 404), tag="model")
async def get_model(request: Request, name: str) -> Response:
    """One model; names may hold slashes."""
    services: Services = request.app.state.services
    services.check_model(name)
    return reply(_card(services))


@router.post("/tokenize")
@Operation(Tokenized, READ, TokenizeRequest, tag="model")
async def tokenize(request: Request) -> Response:
    """The ids of a prompt or a chat, exactly as a request would use them."""
    services, body = await receive(request, TokenizeRequest)
    ready, codec = services.require_ready()
    body.check()
    # Limits the work only: a count above the context is a valid result.
    bound = max(ready.max_model_len, services.settings.max_body_bytes)
    if body.messages is not None:
        chat = body.chat_of(body.messages, trust_template=services.settings.trust_request_chat_template)
        ids = await codec.encode_chat(chat, bound, special=bool(body.add_special_tokens))
    elif isinstance(body.prompt, list):
        ids = body.prompt
        if ids:
            check_ids(ids, ready, "prompt")
    else:
        prompt = body.prompt or ""
        special = body.add_special_tokens is not False
        suffix = (await codec.encode([body.suffix or ""], bound, "suffix", special=False))[0]
        [ids] = await codec.encode_infill([prompt], body.suffix or "", suffix, bound, special=special)
    answer = Tokenized(count=len(ids), max_model_len=ready.max_model_len, tokens=ids)
    if body.return_token_strs:
        answer.token_strs = [codec.token_name(ident) for ident in ids]
    return reply(answer)


@router.post("/detokenize")
@Operation(Detokenized, READ, DetokenizeRequest, tag="model")
async def detokenize(request: Request) -> Response:
    """The text of ids, special tokens included."""
    services, body = await receive(request, DetokenizeRequest)
    ready, codec = services.require_ready()
    if body.tokens and max(body.tokens) >= ready.vocab_size:
        check_ids(body.tokens, ready, "tokens")
    return reply(Detokenized(prompt=codec.decode(body.tokens, keep_special=True)))


def _card(services: Services) -> ModelCard:
    ready = services.engine.ready
    return ModelCard(
        id=services.model_name,
        object="model",
        created=services.created,
        owned_by="cdlm-serve",
        root=services.model_name,
        parent=None,
        max_model_len=ready.max_model_len if ready else None,
        block_length=ready.block_length if ready else None,
    )
