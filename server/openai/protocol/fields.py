"""Fields that completions and chats share."""

from collections.abc import Callable, Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainValidator, Tag, model_validator
from pydantic_core import PydanticCustomError

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import RULE_NUMBERS, RuleName
from cdlm.scheduler.options import EngineOptions
from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import STREAM_OPTIONS, VOTE
from cdlm.server.openai.fields.table import UNWANTED, describe_rows, settle
from cdlm.server.openai.protocol.conditions import Condition
from cdlm.server.openai.protocol.effort import Effort, effort_threshold
from cdlm.server.openai.protocol.values import StopInput, check_stops
from cdlm.server.openai.protocol.whole import takes_integers, whole


def _describe_place(schema: dict[str, Any], model: type[BaseModel]) -> None:
    assert issubclass(model, ApiModel)
    describe_rows(model.place, schema)
    if model.conditions:
        schema["allOf"] = list(model.conditions)


class ApiModel(BaseModel):
    """A JSON object in which null means absent and types are strict.

    Unknown names are refused, unless the table of fields for its ``place`` (a route, or a path inside bodies) says that
    their values request nothing.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, json_schema_extra=_describe_place
    )

    place: ClassVar[str]
    # Types that an object may have in this place, if any are named; checked first, since fields differ between types.
    kinds: ClassVar[tuple[str, ...]] = ()
    # Conditions between fields that its validators check, for the published schema.
    conditions: ClassVar[tuple[Condition, ...]] = ()
    field_names: ClassVar[frozenset[str]]
    integers: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.field_names = frozenset(field.alias or name for name, field in cls.model_fields.items())
        cls.integers = frozenset(n for n, field in cls.model_fields.items() if takes_integers(field.annotation))

    @model_validator(mode="before")
    @classmethod
    def _what_is_asked(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if cls.kinds and (kind := data.get("type")) not in (None, *cls.kinds):
            reason = f"must be {' or '.join(map(repr, cls.kinds))}; {str(kind)[:64]!r} is not supported by this server"
            raise PydanticCustomError(UNWANTED, "{reason}", {"field": "type", "reason": reason})
        asked = settle(cls.place, cls.field_names, data)
        return {name: whole(value) if name in cls.integers else value for name, value in asked.items()}


def by_type(kinds: Collection[str], other: str) -> Discriminator:
    """Selects the branch of a union that is tagged by an object's type in brackets.

    The branch ``other`` validates values of types that are not in ``kinds``, for an error about the type.
    """

    def tag(value: object) -> str:
        kind = value.get("type") if isinstance(value, dict) else None
        return f"<{kind}>" if kind in kinds else f"<{other}>"

    return Discriminator(tag)


class AnyStreamOptions(ApiModel):
    """Options of any stream."""

    place = STREAM_OPTIONS


class StreamOptions(AnyStreamOptions):
    """Options of streams of completions and chats."""

    include_usage: bool = Field(default=False, description="Send a last chunk with the usage of the whole request.")
    continuous_usage_stats: bool = Field(default=False, description="Send the usage so far on every chunk.")


class VoteOptions(ApiModel):
    """How answers are compared."""

    place = VOTE

    pattern: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        r"(-?\d+(?:,\d{3})*(?:\.\d+)?)",
        description="A regular expression of RE2 with one group, which is compared; an answer's last match counts.",
    )


# A tag in brackets is distinguished from field names in the locations of errors.
Vote = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[VoteOptions, Tag("<object>")],
    Discriminator(lambda value: "<object>" if isinstance(value, dict | VoteOptions) else "<bool>"),
]


class SamplingFields(ApiModel, DecodingParams):
    """Decoding and stop fields of all routes."""

    stop: Annotated[tuple[str, ...], PlainValidator(check_stops, json_schema_input_type=StopInput)] = Field(
        (), description="Text that ends the answer and is left out of it; up to 16."
    )
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(
        [], max_length=16, description="Tokens that end the answer and are left out of it."
    )
    ignore_eos: bool = Field(False, description="Continue after the end token, up to max_tokens.")
    skip_special_tokens: bool = Field(True, description="false shows special tokens in the text, by their names.")
    include_stop_str_in_output: bool = Field(False, description="Leave the text of stop in the answer.")
    priority: int = Field(
        0,
        ge=-(2**31),
        le=2**31 - 1,
        description="Waiting requests of one key with a lower value begin first; one in eight is the oldest.",
    )
    cache_salt: str = Field("", max_length=1024, description="Only requests with the same salt share cached prompts.")


class ModelFields(ApiModel):
    """The field that bodies of all routes have."""

    model: str | None = Field(None, description="Model id; absent: the served model.")


class AnswerFields(ModelFields, SamplingFields):
    """Fields of all routes that generate."""

    effort_param: ClassVar[str] = "reasoning_effort"

    return_token_ids: bool = Field(False, description="Return token_ids in choices.")
    stream: bool = Field(False, description="Send server-sent events as the answer grows.")
    user: str | None = Field(None, description="Accepted without effect.")
    diffusing: bool = Field(
        False, description="Stream the block being denoised after every step; the text of the answer is not affected."
    )
    stream_granularity: Literal["block", "step"] = Field(
        "block",
        description="Stream text per finished block, or after each step as soon as all text before it is final.",
    )

    @property
    def engine_logprobs(self) -> int | None:
        """How many alternatives per token the engine reports; ``None`` for no log-probabilities."""
        return None

    @property
    def wants_step_map(self) -> bool:
        """Whether choices have the denoise steps of their tokens."""
        return False

    @property
    def returned(self) -> int:
        """Number of answers to return per prompt."""
        return 1

    @property
    def candidates(self) -> int:
        """Number of answers to generate per prompt."""
        return self.returned

    @property
    def vote_pattern(self) -> str | None:
        """The pattern by which answers are compared for a vote; ``None`` without a vote."""
        return None

    @property
    def effort(self) -> Effort | None:
        """The requested reasoning effort, by the route's name for it."""
        return None

    @property
    def names_threshold(self) -> bool:
        return self.confidence_threshold is not None or self.effort is not None

    def check_supported(self, options: EngineOptions) -> None:
        """Raises ``ApiError`` 400 for fields that conflict, or cannot take effect in an engine with ``options``."""
        rule = self.rule(options.default_rule)
        if rule == "guide" and options.guide_model is None:
            raise invalid("decoding 'guide' needs a guide model, and this server has none", "decoding")
        for used_by, name in RULE_NUMBERS.items():
            if used_by != rule and getattr(self, name) is not None:
                raise invalid(f"{name} is used by decoding {used_by!r} only, not by {rule!r}", name)
        for name in ("diffusing", "stream_granularity", "stream_options"):
            if not self.stream and getattr(self, name) != type(self).model_fields[name].default:
                raise invalid(f"{name} needs stream to be true", name)
        if self.effort is not None:
            self._check_effort(rule)

    def _check_effort(self, rule: RuleName) -> None:
        if rule != "threshold":
            raise invalid(f"{self.effort_param} sets a threshold, which decoding {rule!r} has not", self.effort_param)
        if self.confidence_threshold is not None:
            raise invalid(
                f"{self.effort_param} and confidence_threshold set the same number; send one of them",
                self.effort_param,
            )

    def decoding_params(self, threshold: float, spell: Callable[[str], list[list[int]]]) -> DecodingParams:
        """The engine's parameters, with texts converted to ids.

        ``threshold`` is the checkpoint's threshold; ``spell`` returns the ids of each spelling of a text.
        """
        params: dict[str, Any] = {name: _spelled(getattr(self, name), spell) for name in DecodingParams.model_fields}
        if self.effort is not None:
            params["confidence_threshold"] = effort_threshold(self.effort, threshold)
        return DecodingParams(**params)


def _spelled(value: object, spell: Callable[[str], list[list[int]]]) -> object:
    if not isinstance(value, list):
        return value
    return [ids for item in value for ids in (spell(item) if isinstance(item, str) else [item])]


class GenerationFields(AnswerFields):
    """Fields of completions and chats."""

    n: int = Field(1, ge=1, le=128, description="Answers per prompt.")
    vote: Vote = Field(
        False,
        description="Return one of the n answers: the first of those that agree most often. true compares the last "
        "number of each answer, pattern what it finds.",
    )
    return_tokens_as_token_ids: bool = Field(
        False, description="Name tokens in log-probabilities token_id:N, which is unambiguous."
    )
    return_step_map: bool = Field(
        False, description="Return step_map in choices: the denoise step of its block that finalized each token."
    )
    stream_options: StreamOptions = Field(
        StreamOptions(), description="include_usage and continuous_usage_stats: when a stream carries usage."
    )
    reasoning_effort: Effort | None = Field(
        None, description="Sets the confidence threshold: none is fastest, medium is the checkpoint's."
    )

    @property
    def wants_step_map(self) -> bool:
        return self.return_step_map

    @property
    def returned(self) -> int:
        return 1 if self.vote else self.n

    @property
    def candidates(self) -> int:
        return self.n

    @property
    def vote_pattern(self) -> str | None:
        options = VoteOptions() if self.vote is True else self.vote
        return options.pattern if isinstance(options, VoteOptions) else None

    def check_supported(self, options: EngineOptions) -> None:
        super().check_supported(options)
        if self.vote and self.n == 1:
            raise invalid("vote needs n above 1", "vote")
        if self.vote and self.stream:
            raise invalid("vote cannot be streamed: which answer wins is known at the end", "vote")

    @property
    def effort(self) -> Effort | None:
        return self.reasoning_effort
