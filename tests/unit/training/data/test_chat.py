import random
from collections import defaultdict

from cdlm.training.data import chat
from cdlm.training.data.problem import Problem


def draw(count: int, seed: int = 0) -> list[Problem]:
    rng = random.Random(seed)
    return [chat.generate(rng) for _ in range(count)]


def test_shape() -> None:
    for problem in draw(500):
        assert problem.task == "chat"
        assert problem.check == ""
        assert problem.prompt == problem.prompt.strip() != ""
        assert "{" not in problem.prompt
        assert 0 < len(problem.completion) <= 120


def test_same_seed_same_problems() -> None:
    assert draw(100) == draw(100)
    assert draw(100) != draw(100, seed=1)


def test_at_most_two_answers_to_a_prompt() -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for problem in draw(5000):
        answers[problem.prompt.lower().rstrip("?!.")].add(problem.completion)
    assert len(answers) > 300
    assert max(len(found) for found in answers.values()) <= 2


def test_wordings_belong_to_one_intent() -> None:
    wordings = [wording for intent in chat.INTENTS for wording in intent.wordings]
    assert len(wordings) == len(set(wordings))
    assert len(chat.INTENTS) >= 25


def test_declines_what_it_cannot_do() -> None:
    known = {answer for intent in chat.INTENTS for answer in intent.answers}
    declined = [problem for problem in draw(2000) if problem.completion not in known]
    assert 200 < len(declined) < 800
    assert all("word problems" in problem.completion for problem in declined)
