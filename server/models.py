"""The list of models, and the tokenizer as a service."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server.body import read_body
from server.errors import invalid
from server.protocol.tokens import DetokenizeRequest, TokenizeRequest
from server.services import Services, check_ids
from server.text import Chat

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
    if (body.prompt is None) == (body.messages is None):
        raise invalid("Send either prompt or messages", "prompt")
    # The length bound is only there to bound the work; a count over the context is a fine answer.
    bound = max(ready.max_model_len, services.settings.max_body_bytes)
    if body.messages is not None:
        ids = await codec.encode_chat(Chat([message.fields() for message in body.messages]), bound)
    else:
        ids = (await codec.encode([body.prompt or ""], bound))[0]
    return JSONResponse({"count": len(ids), "max_model_len": ready.max_model_len, "tokens": ids})


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
