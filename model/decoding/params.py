"""The decoding parameters of requests, each declared once. Imports no torch: the API process reads them too."""

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
# Bounds of ``bad_words``: entries, and the tokens or characters of one.
MAX_WORDS = 1024
MAX_WORD_LENGTH = 256
_Word = (
    Annotated[str, Field(min_length=1, max_length=MAX_WORD_LENGTH)]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_WORD_LENGTH)]
)
# Most unknown ids that an error names.
_NAMED = 1024


class ParameterError(ValueError):
    """A parameter does not fit the model or the length of the answer; ``param`` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def _check_bias(value: object) -> dict[int, float]:
    """Validates a JSON object of token ids and biases; raises ``ValueError``."""
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and numbers")
    if len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens may have a bias, not {len(value)}")
    value = {str(name): bias for name, bias in value.items()}  # Keys from Python may be numbers.
    names = [name for name in value if not (name.isascii() and name.isdigit() and len(name) <= 10)]
    # Refuses bool, an int in Python, and NaN, which fails the comparison.
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
    """How one request is decoded. ``None`` means the engine's value.

    API fields, command flags, docs and engine all take their parameters from here
    (docs/decisions/0008-parameters-written-once.md). The number of a rule that is not in use has no effect.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    temperature: float = Field(0.0, ge=0, le=2, description="0, the default, decodes greedily.")
    top_p: float = Field(1.0, ge=0, le=1, description="Sample from the top tokens whose probabilities sum to this.")
    top_k: int = Field(0, ge=-1, le=2**31 - 1, description="Sample from this many top tokens; 0 or -1: from all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Sample from tokens with this share of the top probability.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Seed of the draws; absent: a random one.")
    decoding: RuleName | None = Field(
        None,
        description="Which tokens a denoise step finalizes; absent: threshold if confidence_threshold is sent, "
        "else the server's rule. threshold: those above confidence_threshold. factor: the n most confident, "
        "n as large as the n-th has a confidence of at least 1 - decoding_factor / (n + 1). entropy_bound: the n of "
        "lowest entropy, n as large as their entropies but the largest sum to at most entropy_bound. fixed_steps: the "
        "most confident, as many as finish the block in steps_per_block steps. guide: those from the left up to the "
        "first that the server's guide model would not have chosen. At least one in every case.",
    )
    confidence_threshold: float | None = Field(
        None, gt=0, le=1, description="For decoding threshold; absent: the server's value."
    )
    decoding_factor: float | None = Field(
        None, gt=0, le=1e6, description="For decoding factor; absent: the server's value. Larger is faster."
    )
    entropy_bound: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="For decoding entropy_bound, in nats; absent: the server's value. Larger is faster.",
    )
    steps_per_block: int | None = Field(
        None, ge=1, le=4096, description="For decoding fixed_steps; absent: the server's value. Smaller is faster."
    )
    max_steps_per_block: int | None = Field(None, ge=1, le=4096, description="Most denoise steps per block.")
    edit_threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Confidence above which a step replaces a decided token of the block by another prediction, until "
        "the block is finished: LLaDA 2.1's edits. 1 replaces none; absent: the server's value.",
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Subtracted from logits of tokens already generated.")
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted once per occurrence of a generated token."
    )
    repetition_penalty: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="Divides positive and multiplies negative logits of tokens in the prompt or already generated.",
    )
    logit_bias: Annotated[dict[int, float], PlainValidator(_check_bias), WithJsonSchema(_BIASES)] = Field(
        {}, description="Token ids, and numbers from -100 to 100 that are added to their logits; -100 bans the token."
    )
    allowed_token_ids: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="The only tokens that may be generated, stop tokens included; empty allows all."
    )
    bad_words: list[_Word] = Field(
        [],
        max_length=MAX_WORDS,
        description="Texts that are not generated, neither as they are nor after a space, or their token ids.",
    )
    min_tokens: int = Field(0, ge=0, description="No stop token among this many tokens; a stop string still ends.")
    guidance_scale: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Classifier-free guidance: logits c become u + (guidance_scale + 1) (c - u); u are the logits of a "
        "pass without the prompt. Above 0 a request costs twice the compute.",
    )

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled rather than decoded greedily."""
        return self.temperature > 0.0

    @property
    def filtered(self) -> bool:
        """Whether draws leave tokens out."""
        return self.sampled and (self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0)

    @property
    def edits_logits(self) -> bool:
        """Whether the request has a penalty, bias, ban or other edit of logits."""
        return any(getattr(self, name) != DecodingParams.model_fields[name].default for name in _EDITS)

    @property
    def replaces(self) -> bool:
        """Whether the request asks for decided tokens to be replaced."""
        return self.edit_threshold is not None and self.edit_threshold < 1.0

    def hinders_replacing(self, rule: RuleName, grammar: str | None = None) -> str | None:
        """What of a request under ``rule`` forbids to replace decided tokens, by its field; ``None`` if nothing does.

        ``grammar`` names the field that its grammar comes from, if it has one.
        """
        if rule == "guide":
            return "decoding 'guide'"
        if any(len(word) > 1 for word in self.bad_words):
            return "bad_words of several tokens"
        return grammar

    @property
    def names_threshold(self) -> bool:
        """Whether the request sets a confidence threshold."""
        return self.confidence_threshold is not None

    def rule(self, default: RuleName) -> RuleName:
        """The request's finalization rule; ``default`` if it names none."""
        return self.decoding or ("threshold" if self.names_threshold else default)

    def check_fit(self, vocab_size: int, mask_token_id: int, stop_ids: Collection[int], max_tokens: int) -> None:
        """Raises ``ParameterError`` if the edits can leave no token to generate, or ``min_tokens`` exceeds
        ``max_tokens``.

        ``stop_ids`` are all tokens that may end the answer.
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
        # A position must have a token left whatever its neighbors are.
        if self.bad_words and never.issuperset(self.allowed_token_ids or range(vocab_size)):
            raise ParameterError("bad_words", "bad_words may leave no token to write: each of them is in a word")
        if self.min_tokens > max_tokens:
            message = f"min_tokens ({self.min_tokens}) is more than the {max_tokens} tokens of an answer"
            raise ParameterError("min_tokens", message)


def check_token_ids(param: str, ids: Iterable[int], vocab_size: int, mask_token_id: int) -> None:
    """Raises ``ParameterError`` for ids outside the vocabulary and for the mask token."""
    foreign = sorted({ident for ident in ids if not 0 <= ident < vocab_size})
    if foreign:
        named = ", ".join(map(str, foreign[:_NAMED])) + (" and others" if len(foreign) > _NAMED else "")
        raise ParameterError(param, f"{param}: token ids must be below {vocab_size}, not {named}")
    if mask_token_id in ids:
        raise ParameterError(param, f"{param}: token id {mask_token_id} is the mask token")
