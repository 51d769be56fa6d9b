"""Answers of ``/v1/decisions``."""

from typing import Literal

from pydantic import Field

from cdlm.server.answer import Answer
from cdlm.server.openai.protocol.response import InputDetails, OutputDetails


class _DecisionAnswer(Answer):
    name: str | None


class PredicateAnswer(_DecisionAnswer):
    """How likely a statement is true."""

    type: Literal["predicate"]
    probability: float


class ChoiceProbability(Answer):
    """A value and its probability among the choices."""

    value: str | bool
    probability: float


class ChoiceAnswer(_DecisionAnswer):
    """The likeliest value."""

    type: Literal["choice"]
    choice: str | bool
    confidence: float = Field(description="The probability that the model would answer exactly this.")
    probabilities: list[ChoiceProbability]


class LevelProbability(Answer):
    """A level, its number from 0, and its probability among the levels."""

    value: int
    label: str
    probability: float


class ScoreAnswer(_DecisionAnswer):
    """The mean of the levels' numbers, by their probabilities."""

    type: Literal["score"]
    score: float
    confidence: float = Field(description="The probability that the model would answer exactly the likeliest level.")
    probabilities: list[LevelProbability]


class DecisionUsage(Answer):
    """Tokens of a request."""

    input_tokens: int = Field(description="Tokens of every question's prompt, and of the texts that were scored.")
    input_tokens_details: InputDetails
    output_tokens: int = Field(description="Always 0: nothing is written.")
    output_tokens_details: OutputDetails
    total_tokens: int


class Decision(Answer):
    """The answers, in the order of the questions."""

    model: str
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer]
    usage: DecisionUsage
