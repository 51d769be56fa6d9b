"""Questions of a decision: how the model is asked, and the texts that it may answer."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, Tag

from cdlm.server.errors import invalid
from cdlm.server.openai.decisions.items import Content, check_data
from cdlm.server.openai.fields.row import QUESTION, QUESTION_CHOICE, QUESTION_LEVEL
from cdlm.server.openai.protocol.fields import ApiModel, by_type
from cdlm.server.openai.protocol.message import shown

MAX_CHOICES = 255
MAX_LEVELS = 10

_KINDS = ("predicate", "choice", "score")
_Name = Annotated[str, Field(max_length=1024)]


class _Question(ApiModel, ABC):
    """Fields that all questions have."""

    place = QUESTION
    kinds = _KINDS

    name: _Name | None = Field(None, description="Returned with the answer.")
    instructions: Content = Field(description="What is asked: text, or parts.")

    @abstractmethod
    def asked(self) -> str:
        """The question as the model reads it."""

    @abstractmethod
    def texts(self) -> list[str]:
        """The answers that are possible, in order."""

    def check(self, param: str) -> None:
        """Raises ``ApiError`` 400 for values that the fields' types allow and the question does not."""
        if not isinstance(self.instructions, str):
            for number, part in enumerate(self.instructions):
                check_data(part, f"{param}.instructions[{number}]")
        if not shown(self.instructions).strip():
            raise invalid(f"{param}.instructions must not be empty", f"{param}.instructions")


class PredicateQuestion(_Question):
    """Whether a statement about the input is true."""

    type: Literal["predicate"]

    def asked(self) -> str:
        return f"{shown(self.instructions)}\nIs this true? Answer Yes or No."

    def texts(self) -> list[str]:
        return ["Yes", "No"]


class Choice(ApiModel):
    """One of the values to choose from."""

    place = QUESTION_CHOICE

    value: Annotated[str, Field(min_length=1)] | bool = Field(description="A text, or a boolean.")
    description: str = Field("", description="Shown to the model beside the value.")


class ChoiceQuestion(_Question):
    """Which of several values fits the input."""

    type: Literal["choice"]
    choices: list[Choice] = Field(min_length=2, max_length=MAX_CHOICES, description="The values, each different.")

    def asked(self) -> str:
        options = _listed(self.texts(), [choice.description for choice in self.choices])
        return f"{shown(self.instructions)}\n{options}\nAnswer with one of these only."

    def texts(self) -> list[str]:
        values = [choice.value for choice in self.choices]
        plain = [value if isinstance(value, str) else json.dumps(value) for value in values]
        if len(set(plain)) == len(plain):
            return plain
        # A text and a boolean look alike: as JSON they do not.
        return [json.dumps(value, ensure_ascii=False) for value in values]

    def check(self, param: str) -> None:
        super().check(param)
        _different([(type(choice.value), choice.value) for choice in self.choices], f"{param}.choices", "value")


class Level(ApiModel):
    """A level of a score."""

    place = QUESTION_LEVEL

    label: str = Field(min_length=1)
    description: str = Field("", description="Shown to the model beside the label.")


class ScoreQuestion(_Question):
    """How far the input goes on an ordered scale."""

    type: Literal["score"]
    levels: list[Level] = Field(
        min_length=2, max_length=MAX_LEVELS, description="The levels from the lowest, which counts 0."
    )

    def asked(self) -> str:
        options = _listed(self.texts(), [level.description for level in self.levels])
        asked = f"{shown(self.instructions)}\nFrom the lowest level to the highest:"
        return f"{asked}\n{options}\nAnswer with one of these only."

    def texts(self) -> list[str]:
        return [level.label for level in self.levels]

    def check(self, param: str) -> None:
        super().check(param)
        _different([level.label for level in self.levels], f"{param}.levels", "label")


def _listed(texts: Sequence[str], descriptions: Sequence[str]) -> str:
    lines = zip(texts, descriptions, strict=True)
    return "\n".join(f"- {text}: {about}" if about else f"- {text}" for text, about in lines)


def _different(values: Sequence[object], param: str, name: str) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            where = f"{param}[{number}].{name}"
            raise invalid(f"{where} is that of {param}[{values.index(value)}]", where)


Question = Annotated[
    Annotated[PredicateQuestion, Tag("<predicate>")]
    | Annotated[ChoiceQuestion, Tag("<choice>")]
    | Annotated[ScoreQuestion, Tag("<score>")],
    by_type(_KINDS, "predicate"),
]
