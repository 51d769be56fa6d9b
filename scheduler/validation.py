"""What a request may ask of the engine, beyond its lengths."""

from model.rules import BAN
from scheduler.errors import RequestError
from scheduler.messages import GenerateRequest

MAX_LOGPROBS = 20


def check_logit_edits(request: GenerateRequest, stop_ids: list[int], vocab_size: int, mask_token_id: int) -> None:
    """Raises ``RequestError`` for edits that name unknown tokens or leave none to write."""
    params = request.params
    unknown = [token for token in params.logit_bias if not 0 <= token < vocab_size or token == mask_token_id]
    if unknown:
        raise RequestError(f"logit_bias: {unknown[0]} is no token that can be generated")
    if params.min_tokens > request.max_tokens:
        raise RequestError(f"min_tokens {params.min_tokens} is more than max_tokens {request.max_tokens}")
    if params.repetition_penalty <= 0.0:
        raise RequestError(f"repetition_penalty must be positive, got {params.repetition_penalty}")
    banned = {token for token, value in params.logit_bias.items() if value <= BAN}
    if banned and banned.union(stop_ids if params.min_tokens else ()) >= set(range(vocab_size)) - {mask_token_id}:
        raise RequestError("logit_bias bans every token")


def check_logprobs(wanted: int | None, vocab_size: int) -> None:
    """Raises ``RequestError`` for more alternatives than there may be."""
    most = min(MAX_LOGPROBS, vocab_size - 1)
    if wanted is not None and not 0 <= wanted <= most:
        raise RequestError(f"logprobs must be in 0..{most}, got {wanted}")
