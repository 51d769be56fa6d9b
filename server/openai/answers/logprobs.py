"""Log-probabilities of an answer's tokens (docs/sampling.md)."""

from collections.abc import Sequence

from cdlm.scheduler.messages import TokenLogprob
from cdlm.server.openai.protocol.response import LikelyToken, ScoredToken
from cdlm.server.text import TextCodec
from cdlm.server.text.update import PlacedToken


def token_entries(tokens: Sequence[PlacedToken], codec: TextCodec, *, as_ids: bool = False) -> list[ScoredToken]:
    """One object per token, with the most likely tokens at its position and the denoise step that finalized it."""

    def likely(ident: int, logprob: float) -> LikelyToken:
        raw = codec.token_bytes(ident)
        name = _by_id(ident) if as_ids else raw.decode("utf-8", "replace")
        return LikelyToken(token=name, logprob=logprob, bytes=list(raw))

    return [
        ScoredToken(
            **vars(likely(token.score.token_id, token.score.logprob)),
            top_logprobs=list(map(likely, token.score.top_ids, token.score.top_logprobs)),
            denoise_step=token.score.step,
        )
        for token in tokens
        if token.score is not None
    ]


def top_map(score: TokenLogprob, codec: TextCodec, *, as_ids: bool) -> dict[str, float]:
    """Token name -> log-probability of the most likely tokens and the chosen one; of equal names, the likelier."""
    found: dict[str, float] = {}
    for ident, logprob in zip(score.top_ids, score.top_logprobs, strict=True):
        found.setdefault(token_name(ident, codec, as_ids=as_ids), logprob)
    return found | {token_name(score.token_id, codec, as_ids=as_ids): score.logprob}


def token_name(ident: int, codec: TextCodec, *, as_ids: bool) -> str:
    """A token's text, or its bytes (``bytes:...``) if it is part of a character."""
    if as_ids:
        return _by_id(ident)
    raw = codec.token_bytes(ident)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _by_id(ident: int) -> str:
    return f"token_id:{ident}"
