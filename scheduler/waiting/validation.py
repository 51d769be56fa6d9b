"""Validates requests to the engine."""

from cdlm.model.config import CANNOT_REPLACE, Manifest
from cdlm.model.decoding.canvas import MAX_STOP_IDS
from cdlm.model.decoding.params import ParameterError
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions

MAX_LOGPROBS = 20
MAX_PRIORITY = 2**31 - 1


def check_request(
    request: GenerateRequest,
    manifest: Manifest,
    vocab_size: int,
    cache: KVCache,
    max_guided_len: int,
    options: EngineOptions,
) -> None:
    """Raises ``RequestError`` if the engine can never serve the request; ``vocab_size`` is the model's."""
    check_common(request, vocab_size)
    length, limit = len(request.prompt_ids), manifest.max_model_len
    if request.max_tokens < 1:
        raise RequestError(f"max_tokens must be at least 1, got {request.max_tokens}")
    if length + request.max_tokens > limit:
        raise RequestError(f"prompt ({length}) and max_tokens ({request.max_tokens}) exceed the context of {limit}")
    if cache.pages_for(length + request.max_tokens + manifest.block_length) > cache.num_pages:
        raise RequestError(f"prompt and max_tokens need more than the {cache.num_pages} KV pages there are")
    if request.params.decoding == "guide" and options.guide_model is None:
        raise RequestError("decoding: the rule guide needs a guide model, and there is none")
    if request.params.replaces:
        _check_replacing(request, manifest, options)
    if request.params.guidance_scale > 0.0 and manifest.mask_token_id >= vocab_size:
        raise RequestError(
            "guidance_scale: the model has no mask token, which guidance puts in the place of the prompt"
        )
    if request.params.guidance_scale > 0.0 and length + request.max_tokens > max_guided_len:
        raise RequestError(
            f"guidance_scale: prompt ({length}) and max_tokens ({request.max_tokens}) exceed"
            f" the {max_guided_len} tokens that fit twice into a step"
        )
    possible = MAX_STOP_IDS - len(manifest.stop_token_ids)
    if len(request.stop_token_ids) > possible:
        raise RequestError(f"stop_token_ids: at most {possible} are possible, got {len(request.stop_token_ids)}")
    if any(token < 0 for token in request.stop_token_ids):
        raise RequestError(f"stop_token_ids: {min(request.stop_token_ids)} is no token id")
    if request.grammar is not None and not _ends(request, manifest, vocab_size):
        raise RequestError("grammar: the end of the answer needs a stop token that the model can write; there is none")
    if not all(0 <= token < vocab_size and token != manifest.mask_token_id for token in request.pinned):
        raise RequestError("pinned has a token id that cannot be generated")
    stop_ids = [*manifest.stop_token_ids, *request.stop_token_ids]
    try:
        request.params.check_fit(vocab_size, manifest.mask_token_id, stop_ids, request.max_tokens)
    except ParameterError as error:
        raise RequestError(str(error)) from None


def _check_replacing(request: GenerateRequest, manifest: Manifest, options: EngineOptions) -> None:
    if not manifest.can_replace:
        raise RequestError("edit_threshold: " + CANNOT_REPLACE)
    params, grammar = request.params, None if request.grammar is None else "grammar"
    hindrance = params.hinders_replacing(params.rule(options.default_rule), grammar)
    if hindrance is not None:
        raise RequestError(f"edit_threshold cannot be combined with {hindrance}")


def _ends(request: GenerateRequest, manifest: Manifest, vocab_size: int) -> bool:
    """Whether the model can generate a token that ends the answer."""
    stops = [*request.stop_token_ids, *(() if request.ignore_eos else manifest.stop_token_ids)]
    return any(0 <= token < vocab_size and token != manifest.mask_token_id for token in stops)


def check_common(request: GenerateRequest | ScoreRequest, vocab_size: int) -> None:
    """Raises ``RequestError`` for a prompt, ``logprobs`` or a priority that no request may have."""
    if not request.prompt_ids:
        raise RequestError("prompt is empty")
    if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= vocab_size:
        raise RequestError(f"prompt has a token id outside 0..{vocab_size - 1}")
    most = min(MAX_LOGPROBS, vocab_size - 1)
    if request.logprobs is not None and not 0 <= request.logprobs <= most:
        raise RequestError(f"logprobs must be in 0..{most}, got {request.logprobs}")
    if not -MAX_PRIORITY - 1 <= request.priority <= MAX_PRIORITY:
        raise RequestError(f"priority must be in {-MAX_PRIORITY - 1}..{MAX_PRIORITY}, got {request.priority}")
