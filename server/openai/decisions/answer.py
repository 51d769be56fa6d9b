"""From the log-probabilities of a question's texts to its answer."""

import math
from collections.abc import Sequence

from cdlm.server.openai.decisions.question import ChoiceQuestion, PredicateQuestion, ScoreQuestion
from cdlm.server.openai.decisions.response import (
    ChoiceAnswer,
    ChoiceProbability,
    LevelProbability,
    PredicateAnswer,
    ScoreAnswer,
)


def softmax(logs: Sequence[float]) -> list[float]:
    """Probabilities in proportion to the exponentials of ``logs``."""
    top = max(logs)
    weights = [math.exp(each - top) for each in logs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def answer_of(
    question: PredicateQuestion | ChoiceQuestion | ScoreQuestion, logs: Sequence[float]
) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer:
    """The answer to ``question``; ``logs`` are the log-probabilities of its texts."""
    shares = softmax(logs)
    best = max(range(len(logs)), key=logs.__getitem__)
    confidence = min(1.0, math.exp(logs[best]))
    match question:
        case PredicateQuestion():
            return PredicateAnswer(type="predicate", name=question.name, probability=shares[0])
        case ChoiceQuestion():
            values = [choice.value for choice in question.choices]
            probabilities = [
                ChoiceProbability(value=value, probability=share) for value, share in zip(values, shares, strict=True)
            ]
            return ChoiceAnswer(
                type="choice",
                name=question.name,
                choice=values[best],
                confidence=confidence,
                probabilities=probabilities,
            )
        case ScoreQuestion():
            levels = [
                LevelProbability(value=number, label=level.label, probability=share)
                for number, (level, share) in enumerate(zip(question.levels, shares, strict=True))
            ]
            score = math.fsum(level.value * level.probability for level in levels)
            return ScoreAnswer(
                type="score", name=question.name, score=score, confidence=confidence, probabilities=levels
            )
