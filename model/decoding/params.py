"""The parameters that requests are decoded by, each declared once; free of torch: the API process reads it too."""

from collections.abc import Collection, Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from cdlm.model.decoding.rules import BAN, RuleName

MAX_BIASES = 1024
_BIASES = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
    "additionalProperties": {"type": "number", "minimum": BAN, "maximum": -BAN},
    "maxProperties": MAX_BIASES,
}
_EDITS = (
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "min_tokens",
)
_Word = (
    Annotated[str, Field(min_length=1, max_length=256)]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=256)]
)
# As many foreign ids are named in an error.
_NAMED = 1024


class ParameterError(ValueError):
    """A parameter that a model, or the length of an answer, leaves no room for; ``param`` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def _check_bias(value: object) -> dict[int, float]:
    """Token ids and what is added to their logits; raises ``ValueError``."""
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and numbers")
    if len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens may have a bias, not {len(value)}")
    value = {str(name): bias for name, bias in value.items()}  # In Python an id may be a number.
    names = [name for name in value if not (name.isascii() and name.isdigit() and len(name) <= 10)]
    # bool is an int to Python, not to JSON; the comparison is false for NaN too.
    numbers = [
        name
        for name, bias in value.items()
        if name not in names
        and (isinstance(bias, bool) or not isinstance(bias, int | float) or not BAN <= bias <= -BAN)
    ]
    wrong = [f"{', '.join(repr(name[:32]) for name in names)} must be a token id"] if names else []
    wrong += [f"the bias of {', '.join(numbers)} must be a number from -100 to 100"] if numbers else []
    if wrong:
        raise ValueError("; ".join(wrong))
    return {int(name): float(bias) for name, bias in value.items()}


class DecodingParams(BaseModel):
    """How one request is decoded. ``None`` takes the engine's value.

    Fields of requests, flags of commands, the docs and the engine all take a parameter from here
    (docs/decisions/0008-parameters-written-once.md). A number that the rule does not use has no effect.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    temperature: float = Field(0.0, ge=0, le=2, description="0, the default, decodes greedily.")
    top_p: float = Field(1.0, ge=0, le=1, description="Draw from the likeliest tokens that have this share together.")
    top_k: int = Field(0, ge=-1, le=2**31 - 1, description="0 or -1 filters nothing.")
    min_p: float = Field(0.0, ge=0, le=1, description="Draw from tokens with this share of the likeliest one's.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Absent draws a fresh one.")
    decoding: RuleName | None = Field(
        None,
        description="Which tokens a denoise step finalizes; absent is threshold where confidence_threshold is sent, "
        "and the server's rule elsewhere. threshold: those above confidence_threshold. factor: the n most confident, "
        "as long as the n-th has a confidence of at least 1 - decoding_factor / (n + 1). entropy_bound: the n of "
        "lowest entropy, as long as their entropies but the largest sum to at most entropy_bound. fixed_steps: the "
        "most confident, so many that the block takes steps_per_block steps. Always at least one.",
    )
    confidence_threshold: float | None = Field(
        None, gt=0, le=1, description="For decoding threshold; absent takes the server's."
    )
    decoding_factor: float | None = Field(
        None, gt=0, le=1e6, description="For decoding factor; absent takes the server's. Larger is faster."
    )
    entropy_bound: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="For decoding entropy_bound, in nats; absent takes the server's. Larger is faster.",
    )
    steps_per_block: int | None = Field(
        None, ge=1, le=4096, description="For decoding fixed_steps; absent takes the server's. Smaller is faster."
    )
    max_steps_per_block: int | None = Field(None, ge=1, le=4096, description="Most denoise steps of a block.")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Taken from the logits of tokens written before.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="The same, as often as they were written.")
    repetition_penalty: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="Divides positive and multiplies negative logits of tokens in the prompt or written before.",
    )
    logit_bias: Annotated[dict[int, float], PlainValidator(_check_bias), WithJsonSchema(_BIASES)] = Field(
        {}, description="Token ids, and what is added to their logits: -100 to 100, where -100 is a ban."
    )
    allowed_token_ids: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="The only tokens that may be written, stop tokens included; none is all."
    )
    bad_words: list[_Word] = Field(
        [],
        max_length=1024,
        description="Texts that are not written, neither as they are nor behind a space, or their token ids.",
    )
    min_tokens: int = Field(0, ge=0, description="No stop token among that many tokens; a stop string still ends.")
    guidance_scale: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Classifier-free guidance: logits c become u + (guidance_scale + 1) (c - u), u being those without "
        "the prompt. Above 0 a request takes twice the work.",
    )

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn; the most probable ones are taken otherwise."""
        return self.temperature > 0.0

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited."""
        return any(getattr(self, name) != DecodingParams.model_fields[name].default for name in _EDITS)

    @property
    def names_threshold(self) -> bool:
        """Whether a threshold is asked for, under any name."""
        return self.confidence_threshold is not None

    def rule(self, default: RuleName) -> RuleName:
        """The rule that tokens are finalized by, where requests that name none have ``default``."""
        return self.decoding or ("threshold" if self.names_threshold else default)

    def check_fit(self, vocab_size: int, mask_token_id: int, stop_ids: Collection[int], max_tokens: int) -> None:
        """Raises ``ParameterError`` where a model with these tokens cannot write so long an answer under these edits.

        ``stop_ids`` are all that may end the answer.
        """
        check_token_ids("logit_bias", self.logit_bias, vocab_size, mask_token_id)
        check_token_ids("allowed_token_ids", self.allowed_token_ids, vocab_size, mask_token_id)
        removed = {token for token, bias in self.logit_bias.items() if bias <= BAN}
        never = {mask_token_id, *removed, *(stop_ids if self.min_tokens else ())}
        name = "allowed_token_ids" if self.allowed_token_ids else "logit_bias"
        if (removed or self.allowed_token_ids) and never.issuperset(self.allowed_token_ids or range(vocab_size)):
            raise ParameterError(name, f"{name} leaves no token to write")
        for word in self.bad_words:
            if isinstance(word, str):
                raise ParameterError("bad_words", f"bad_words: {word[:64]!r} is no list of token ids")
            check_token_ids("bad_words", word, vocab_size, mask_token_id)
            never.update(word)
        # Whatever is written beside it, a position has to have a token left.
        if self.bad_words and never.issuperset(self.allowed_token_ids or range(vocab_size)):
            raise ParameterError("bad_words", "bad_words may leave no token to write: each of them is in a word")
        if self.min_tokens > max_tokens:
            message = f"min_tokens ({self.min_tokens}) is more than the {max_tokens} tokens of an answer"
            raise ParameterError("min_tokens", message)


def check_token_ids(param: str, ids: Iterable[int], vocab_size: int, mask_token_id: int) -> None:
    """Raises ``ParameterError`` for ids that the model does not have, and for its mask."""
    foreign = sorted({ident for ident in ids if not 0 <= ident < vocab_size})
    if foreign:
        named = ", ".join(map(str, foreign[:_NAMED])) + (" and others" if len(foreign) > _NAMED else "")
        raise ParameterError(param, f"{param}: token ids must be below {vocab_size}, not {named}")
    if mask_token_id in ids:
        raise ParameterError(param, f"{param}: token id {mask_token_id} is the mask token")
