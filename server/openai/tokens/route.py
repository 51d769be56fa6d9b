"""The list of models, and the tokenizer as a service."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cdlm.server.openai.protocol.body import read_body
from cdlm.server.openai.tokens.request import DetokenizeRequest, TokenizeRequest
from cdlm.server.services import Services, check_ids

router = APIRouter()


@router.get("/models")
async def list_models(request: Request) -> Response:
    """The one model that is served."""
    services: Services = request.app.state.services
    return JSONResponse({"object": "list", "data": [_card(services)]})


@router.get("/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    """One model; names may hold slashes."""
    services: Services = request.app.state.services
    services.check_model(name)
    return JSONResponse(_card(services))


@router.post("/tokenize")
async def tokenize(request: Request) -> Response:
    """The ids of a prompt or a chat, exactly as a request would use them."""
    services: Services = request.app.state.services
    body = await read_body(request, TokenizeRequest)
    services.check_model(body.model)
    ready, codec = services.require_ready()
    body.check()
    # The length bound is only there to bound the work; a count over the context is a fine answer.
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
    shown = {"token_strs": [codec.token_name(ident) for ident in ids]} if body.return_token_strs else {}
    return JSONResponse({"count": len(ids), "max_model_len": ready.max_model_len, "tokens": ids, **shown})


@router.post("/detokenize")
async def detokenize(request: Request) -> Response:
    """The text of ids, special tokens included."""
    services: Services = request.app.state.services
    body = await read_body(request, DetokenizeRequest)
    services.check_model(body.model)
    ready, codec = services.require_ready()
    if body.tokens and max(body.tokens) >= ready.vocab_size:
        check_ids(body.tokens, ready, "tokens")
    return JSONResponse({"prompt": codec.decode(body.tokens, keep_special=True)})


def _card(services: Services) -> dict[str, object]:
    ready = services.engine.ready
    return {
        "id": services.model_name,
        "object": "model",
        "created": services.created,
        "owned_by": "cdlm-serve",
        "root": services.model_name,
        "parent": None,
        "max_model_len": ready.max_model_len if ready else None,
    }
