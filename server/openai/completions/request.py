"""The body of a completion request."""

from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator

from cdlm.scheduler.options import EngineOptions
from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import COMPLETIONS
from cdlm.server.openai.forms.structured import FormFields
from cdlm.server.openai.protocol.fields import GenerationFields

_Text = Annotated[str, Field(min_length=1)]
_TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
PromptInput = (
    _Text | Annotated[list[_Text], Field(min_length=1)] | _TokenIds | Annotated[list[_TokenIds], Field(min_length=1)]
)
Prompts = list[str] | list[list[int]]


def check_prompt(value: object) -> Prompts:
    """Validates the prompts of a request, texts or ids; raises ``ValueError`` for other types or empty ones."""
    if isinstance(value, str):
        return _texts([value])
    if not isinstance(value, list):
        raise ValueError("must be a string, a list of strings, a list of token ids or a list of such lists")
    if not value:
        raise ValueError("must not be empty")
    if isinstance(value[0], str):
        return _texts(value)
    if isinstance(value[0], list):
        return [_ids(item) for item in value]
    return [_ids(value)]


def _texts(values: list[object]) -> list[str]:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values):
        raise ValueError("must not mix strings with other types")
    if not all(texts):
        raise ValueError("must not be empty")
    return texts


def _ids(value: object) -> list[int]:
    if not isinstance(value, list):
        raise ValueError("must not mix lists of token ids with other types")
    if not value:
        raise ValueError("must not be empty")
    for item in value:
        # Refuses bool, an int in Python.
        if type(item) is not int:
            raise ValueError("token ids must be integers")
        if item < 0:
            raise ValueError(f"token id {item} is negative")
    return value


class CompletionRequest(GenerationFields, FormFields):
    """``POST /v1/completions``."""

    place = COMPLETIONS

    # Names of the fields in errors; a body of another route may stand behind the completion.
    prompt_param: ClassVar[str] = "prompt"
    suffix_param: ClassVar[str] = "suffix"

    prompt: Annotated[Prompts, PlainValidator(check_prompt, json_schema_input_type=PromptInput)] = Field(
        description="Text, several texts, token ids, or several lists of them."
    )
    max_tokens: int = Field(16, ge=0, description="Most tokens of an answer; exact.")
    add_special_tokens: bool = Field(
        True, description="Add the special tokens that the tokenizer puts around a prompt."
    )
    echo: bool = Field(False, description="Return the prompt before the answer.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=5,
        description="Report the log-probability of each token and of this many most likely ones.",
    )
    suffix: str | None = Field(
        None, description="Text after the answer; only the text between prompt and suffix is returned."
    )
    best_of: int | None = Field(
        None,
        ge=1,
        le=128,
        description="Answers to generate; the n with the highest mean log-probability per token are returned.",
    )

    @property
    def engine_logprobs(self) -> int | None:
        # Candidates are ranked by log-probabilities, shown or not.
        return 0 if self.logprobs is None and self.candidates > self.n else self.logprobs

    @property
    def candidates(self) -> int:
        return self.best_of or self.n

    @property
    def scores_prompts(self) -> bool:
        """Whether the response has log-probabilities of the prompts' tokens."""
        return self.echo and self.logprobs is not None

    def check_supported(self, options: EngineOptions) -> None:
        super().check_supported(options)
        if self.candidates < self.n:
            raise invalid(f"best_of ({self.candidates}) must not be below n ({self.n})", "best_of")
        if self.best_of is not None and self.vote:
            raise invalid("vote and best_of both say which answers are returned; send one of them", "vote")
        if self.candidates > self.n and self.stream:
            raise invalid("best_of above n cannot be streamed: which answers are best is known at the end", "best_of")
        if self.suffix and self.echo:
            raise invalid("suffix cannot be combined with echo: only the text in the middle is returned", "suffix")
        if self.suffix and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise invalid("suffix needs a prompt that is text", "suffix")
        constraint = self.constraint
        if constraint is not None and self.suffix:
            raise invalid(f"suffix cannot be combined with {constraint.param}", "suffix")
        if constraint is not None and self.ignore_eos:
            raise invalid(f"ignore_eos cannot be used with {constraint.param}: such answers end", "ignore_eos")
