"""Penalties, log-probabilities and scores of a real server with the bundled student."""

from typing import Any

import pytest

from tests.support.server.served import Server

PROMPT = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"


def test_a_harness_scores_a_prompt(server: Server) -> None:
    """The request a likelihood harness sends: ids, one token, echo, temperature 0."""
    ids = server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"]
    body: dict[str, Any] = {"prompt": ids, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    choice = server.complete(**body)["choices"][0]
    found = choice["logprobs"]
    assert {len(values) for values in found.values()} == {len(ids) + 1}
    assert choice["text"].startswith(PROMPT)
    assert found["token_logprobs"][0] is None
    for token, logprob, top in list(zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True))[
        1:
    ]:
        assert logprob <= 0
        assert top[token] == logprob
        assert max(top.values()) >= logprob
    again = server.complete(**body | {"prompt": [ids, ids[:40]]})["choices"]
    for choice, count in zip(again, (len(ids), 40), strict=True):
        got = choice["logprobs"]["token_logprobs"]
        assert got[1:count] == pytest.approx(found["token_logprobs"][1:count], abs=1e-4)
    bare = server.complete(**body | {"max_tokens": 0})["choices"][0]
    assert bare["text"] == PROMPT
    assert bare["logprobs"]["token_logprobs"][1:] == pytest.approx(found["token_logprobs"][1 : len(ids)], abs=1e-4)
    server.wait_idle()


def test_logprobs_of_an_answer_and_its_stream(server: Server) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 70, "logprobs": 5, "ignore_eos": True}
    choice = server.complete(**body)["choices"][0]
    found = choice["logprobs"]
    assert len(found["tokens"]) == 70
    assert found["text_offset"][0] == 0
    assert max(found["denoise_steps"]) > 1
    # Greedy and without edits, every token is the likeliest.
    likeliest = [max(top.values()) for top in found["top_logprobs"]]
    assert likeliest == found["token_logprobs"]
    chunks = [chunk["choices"][0]["logprobs"] for chunk in server.stream("/v1/completions", body)]
    assert [token for chunk in chunks for token in chunk["tokens"]] == found["tokens"]
    assert [place for chunk in chunks for place in chunk["text_offset"]] == found["text_offset"]


def test_edits_and_candidates(server: Server) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 40, "return_token_ids": True}
    plain = server.complete(**fields, ignore_eos=True)["choices"][0]["token_ids"]
    bias = {str(token): -100 for token in set(plain)}
    banned = server.complete(**fields, ignore_eos=True, logit_bias=bias)["choices"][0]["token_ids"]
    assert not set(banned) & set(plain)
    penalized = server.complete(**fields, ignore_eos=True, frequency_penalty=2, presence_penalty=2)["choices"][0]
    assert penalized["token_ids"] != plain
    least = server.complete(**fields, min_tokens=40)
    assert least["usage"]["completion_tokens"] == 40
    best = server.complete(**fields, n=2, best_of=4, temperature=1, seed=1)
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    returned = sum(len(choice["token_ids"]) for choice in best["choices"])
    assert best["usage"]["completion_tokens"] > returned
    server.wait_idle()
