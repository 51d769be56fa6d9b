"""Log-probabilities of an answer's tokens, in the shapes of completions and chats (docs/sampling.md)."""

from collections.abc import Sequence

from cdlm.scheduler.messages import TokenLogprob
from cdlm.server.text import TextCodec
from cdlm.server.text.update import PlacedToken


def completion_logprobs(tokens: Sequence[PlacedToken], codec: TextCodec, *, as_ids: bool = False) -> dict[str, object]:
    """``logprobs`` of a completion: parallel lists, one entry a token; ``denoise_steps`` is null in a prompt.

    ``as_ids`` calls every token by its id.
    """
    scores = [token.score for token in tokens]
    return {
        "tokens": [_name(token.token_id, codec, as_ids) for token in tokens],
        "token_logprobs": [None if score is None else score.logprob for score in scores],
        "top_logprobs": [None if score is None else _top_map(score, codec, as_ids) for score in scores],
        "text_offset": [token.offset for token in tokens],
        "denoise_steps": [score.step or None if score is not None else None for score in scores],
    }


def chat_logprobs(tokens: Sequence[PlacedToken], codec: TextCodec, *, as_ids: bool = False) -> dict[str, object]:
    """``logprobs`` of a chat; ``as_ids`` calls every token by its id."""
    return {"content": token_entries(tokens, codec, as_ids=as_ids), "refusal": None}


def token_entries(tokens: Sequence[PlacedToken], codec: TextCodec, *, as_ids: bool = False) -> list[dict[str, object]]:
    """One object a token, with the likeliest in its place and the denoise step that finalized it."""
    return [
        _entry(token.score.token_id, token.score.logprob, codec, as_ids)
        | {
            "top_logprobs": [
                _entry(ident, logprob, codec, as_ids)
                for ident, logprob in zip(token.score.top_ids, token.score.top_logprobs, strict=True)
            ],
            "denoise_step": token.score.step,
        }
        for token in tokens
        if token.score is not None
    ]


def _top_map(score: TokenLogprob, codec: TextCodec, as_ids: bool) -> dict[str, float]:
    """The likeliest tokens and always the chosen one, by their names; of two with one name the likelier stays."""
    found: dict[str, float] = {}
    for ident, logprob in zip(score.top_ids, score.top_logprobs, strict=True):
        found.setdefault(_name(ident, codec, as_ids), logprob)
    return found | {_name(score.token_id, codec, as_ids): score.logprob}


def _entry(ident: int, logprob: float, codec: TextCodec, as_ids: bool) -> dict[str, object]:
    raw = codec.token_bytes(ident)
    name = _by_id(ident) if as_ids else raw.decode("utf-8", "replace")
    return {"token": name, "logprob": logprob, "bytes": list(raw)}


def _name(ident: int, codec: TextCodec, as_ids: bool) -> str:
    """A token's text; tokens that are parts of a character are told apart by their bytes."""
    if as_ids:
        return _by_id(ident)
    raw = codec.token_bytes(ident)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _by_id(ident: int) -> str:
    return f"token_id:{ident}"
