"""``vote`` on a real server: the winner and the counts are those of the same draws without a vote."""

import re
from collections import Counter
from typing import Any

import pytest

from tests.support.server.served import Server

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples and gives away 8. How many apples does Tom have now?"
DRAWN: dict[str, Any] = {"n": 9, "temperature": 1.5, "seed": 5, "max_tokens": 96}
ROUTES = [
    ("/v1/completions", {"prompt": QUESTION}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]}),
]


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


@pytest.mark.parametrize("pattern", [None, r"answer is (\d)", "(nowhere)"])
@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_the_majority_of_the_same_draws(server: Server, path: str, body: dict[str, Any], pattern: str | None) -> None:
    drawn = server.post(path, body | DRAWN).json()
    texts = [text_of(choice) for choice in drawn["choices"]]
    found = [re.findall(pattern or r"-?\d+", text) for text in texts]
    last = [each[-1] if each else None for each in found]
    counts = Counter(each for each in last if each is not None)
    most = max(counts.values(), default=0)
    winner = next((i for i, each in enumerate(last) if each is not None and counts[each] == most), 0)
    if pattern is None:
        assert len(counts) > 1  # Draws differ, or the vote decides nothing.

    vote = True if pattern is None else {"pattern": pattern}
    response = server.post(path, body | DRAWN | {"vote": vote})
    assert response.status_code == 200, response.text
    voted = response.json()
    [choice] = voted["choices"]
    assert (choice["index"], text_of(choice)) == (0, texts[winner])
    assert choice["vote"] == {
        "answer": last[winner], "count": most, "counts": dict(counts), "unmatched": last.count(None)
    }  # fmt: skip
    assert voted["usage"]["completion_tokens"] == drawn["usage"]["completion_tokens"]


def test_what_loses_is_counted_as_discarded(server: Server) -> None:
    def lost() -> float:
        return server.metric("cdlm_discarded_tokens_total", reason="vote")

    before = lost()
    body = ROUTES[0][1] | DRAWN | {"vote": True, "return_token_ids": True}
    voted = server.post("/v1/completions", body).json()
    returned = len(voted["choices"][0]["token_ids"])
    server.wait_idle()
    assert lost() - before == voted["usage"]["completion_tokens"] - returned
