"""``vote``: what is counted, who wins, what is refused."""

import time
from typing import Any

import pytest

from cdlm.server.errors import ApiError
from cdlm.server.openai.answers.vote import Ballot
from cdlm.server.openai.protocol.fields import VoteOptions
from cdlm.server.openai.protocol.response import VoteResult
from tests.support.server.bench import ANSWER, Bench

pytestmark = pytest.mark.anyio

NUMBERS = VoteOptions().pattern
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"prompt": "hi", "max_tokens": 40}


def voted(winner: int, answer: str | None, counts: dict[str, int], unmatched: int) -> tuple[int, VoteResult]:
    """The number of the answer that wins, and the result of the vote."""
    count = counts.get(answer, 0)
    return winner, VoteResult(answer=answer, count=count, counts=counts, unmatched=unmatched)


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        (["1 and 2", "3", "so 2."], voted(0, "2", {"2": 2, "3": 1}, 0)),
        (["7", "none", "-4", "it is -4", ""], voted(2, "-4", {"7": 1, "-4": 2}, 2)),
        # The earliest of equals, though another one repeats first.
        (["1", "2", "2", "1"], voted(0, "1", {"1": 2, "2": 2}, 0)),
        (["none", "5", "6"], voted(1, "5", {"5": 1, "6": 1}, 1)),
        (["none", "nothing"], voted(0, None, {}, 2)),
        (["1,234.50 coins", "1234.5"], voted(0, "1,234.50", {"1,234.50": 1, "1234.5": 1}, 0)),
        (["12,34", "in 1999, 7"], voted(0, "34", {"34": 1, "7": 1}, 0)),
    ],
)
def test_last_numbers_are_counted(answers: list[str], result: tuple[int, VoteResult]) -> None:
    assert Ballot(NUMBERS).count(answers) == result


def test_the_group_is_what_counts() -> None:
    answers = ["answer: Yes. B", "answer: no; answer: Yes!", "answer:", "é ü answer: No"]
    assert Ballot(r"answer: (\w+)").count(answers) == voted(0, "Yes", {"Yes": 2, "No": 1}, 1)
    # A match in which the group takes no part leaves the one before it.
    assert Ballot("(a)|b").count(["ab", "b"]) == voted(0, "a", {"a": 1}, 1)
    assert Ballot("x(y*)").count(["x", "xy", "xy"]) == voted(1, "y", {"": 1, "y": 2}, 0)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a", "must have one group, and has 0"),
        ("(a)(b)", "must have one group, and has 2"),
        ("(", "missing )"),
        ("(?=a)(b)", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("(a{1000}){1000}", "invalid repetition size"),
        (r"(\pL{1000})", "pattern too large"),
    ],
)
async def test_patterns_that_are_refused(bench: Bench, pattern: str, words: str) -> None:
    for path, body in (("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT)):
        response = await bench.post(path, body | {"n": 3, "vote": {"pattern": pattern}})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "vote.pattern")
        assert words in error["message"]
    assert bench.engine.requests == []


@pytest.mark.parametrize("pattern", ["((?:a+)+)b", "(a)(?:.*b)?", "(?:(?:a|aa)*)*(c)", "(.*.*.*.*)x"])
def test_no_pattern_takes_long(pattern: str) -> None:
    """Those which a backtracking engine would not end with, and one whose matches take a square of the length."""
    began = time.monotonic()
    try:
        Ballot(pattern).count(["a" * 50_000] * 3)
    except ApiError as error:
        assert (error.status, error.param) == (400, "vote.pattern")  # noqa: PT017
        assert pattern == "(a)(?:.*b)?"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"vote": True}, "vote"),
        ({"vote": {}}, "vote"),
        ({"vote": True, "n": 2, "stream": True}, "vote"),
        ({"vote": 1, "n": 2}, "vote"),
        ({"vote": "(a)", "n": 2}, "vote"),
        ({"vote": {"pattern": ""}, "n": 2}, "vote.pattern"),
        ({"vote": {"pattern": "(a)" * 500}, "n": 2}, "vote.pattern"),
        ({"vote": {"patterns": "(a)"}, "n": 2}, "vote.patterns"),
    ],
)
async def test_errors_name_the_field(bench: Bench, fields: dict[str, Any], param: str) -> None:
    for path, body in (("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT)):
        response = await bench.post(path, body | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert bench.engine.requests == []


async def test_what_does_not_go_together(bench: Bench) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for path, body, more in (
        ("/v1/completions", PROMPT, {"best_of": 3}), ("/v1/chat/completions", CHAT, {"tools": tools})
    ):  # fmt: skip
        response = await bench.post(path, body | {"n": 2, "vote": True} | more)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "vote")


async def test_one_answer_is_returned_for_each_prompt(bench: Bench) -> None:
    fields = {"n": 3, "vote": {"pattern": r"(\w+)$"}, "prompt": ["hi", "a"], "echo": True}
    answer = await bench.complete(**fields)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["text"] for choice in answer["choices"]] == [f"hi{ANSWER}", f"a{ANSWER}"]
    for choice in answer["choices"]:
        assert choice["vote"] == {"answer": "there", "count": 3, "counts": {"there": 3}, "unmatched": 0}
    assert len(bench.engine.requests) == 6
    answers = (await bench.complete(n=2))["choices"]
    assert not any("vote" in choice for choice in answers)
