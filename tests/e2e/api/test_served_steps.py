"""Streams finer than blocks, from a real server with the bundled student."""

from typing import Any

import httpx
import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from tests.support.server.served import Server
from tests.support.trajectories import replay

PROMPT = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
BODY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 96}
STREAMED = BODY | {"stream": True, "stream_options": {"include_usage": True}}


def texts(chunks: list[Any]) -> list[str]:
    return [choice["text"] for chunk in chunks for choice in chunk["choices"]]


def test_text_comes_as_soon_as_all_before_it_is_finalized(server: Server) -> None:
    whole = server.complete(**BODY)
    blocks = server.stream("/v1/completions", STREAMED)
    steps = server.stream("/v1/completions", STREAMED | {"stream_granularity": "step"})
    assert "".join(texts(steps)) == "".join(texts(blocks)) == whole["choices"][0]["text"]
    assert len(texts(steps)) > len(texts(blocks))
    assert all(texts(steps)[:-1])
    same = ("completion_tokens", "denoise_steps", "forward_passes")
    assert [steps[-1]["usage"][name] for name in same] == [whole["usage"][name] for name in same]
    server.wait_idle()


def test_a_stop_string_is_never_shown_though_its_tokens_come_apart(server: Server) -> None:
    fields = {"stop": ["answer is"], "stream_granularity": "step", "logprobs": 1}
    chunks = server.stream("/v1/completions", STREAMED | fields)
    whole = server.complete(**BODY, stop=["answer is"], logprobs=1)["choices"][0]
    assert "".join(texts(chunks)) == whole["text"]
    assert "answer is" not in whole["text"]
    found = [token for chunk in chunks for choice in chunk["choices"] for token in choice["logprobs"]["tokens"]]
    assert found == whole["logprobs"]["tokens"]
    server.wait_idle()


@pytest.mark.parametrize("granularity", ["block", "step"])
def test_the_canvas_fills_up(server: Server, granularity: str) -> None:
    chunks = server.stream("/v1/completions", STREAMED | {"diffusing": True, "stream_granularity": granularity})
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(choices) == chunks[-1]["usage"]["denoise_steps"]
    blocks: dict[int, dict[str, Any]] = {}
    for choice in choices:
        shown = choice["diffusing"]
        assert len(shown["tokens"]) == len(shown["steps"]) == 32
        assert shown["final"]
        before = blocks.get(shown["block"])
        assert shown["step"] == (1 if before is None else before["step"] + 1)
        if before is not None:
            assert all(was in (None, now) for was, now in zip(before["tokens"], shown["tokens"], strict=True))
        blocks[shown["block"]] = shown
    assert list(blocks) == list(range(len(blocks)))
    text = "".join(texts(chunks))
    assert text.startswith("".join(token or "" for token in blocks[0]["tokens"]))
    assert text == server.complete(**BODY)["choices"][0]["text"]
    server.wait_idle()


def test_the_canvas_says_while_its_tokens_may_be_replaced(server: Server) -> None:
    """They are final with the block's text; the answer is the same without a stream."""
    fields = {"edit_threshold": 0.3, "confidence_threshold": 0.3, "return_step_map": True}
    chunks = server.stream("/v1/completions", STREAMED | fields | {"diffusing": True, "stream_granularity": "step"})
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(choices) == chunks[-1]["usage"]["denoise_steps"]
    assert {choice["diffusing"]["final"] for choice in choices if choice["text"]} == {True}
    assert not any(choice["text"] for choice in choices if not choice["diffusing"]["final"])
    unmasked = [choice["diffusing"] for choice in choices if None not in choice["diffusing"]["tokens"]]
    assert {shown["final"] for shown in unmasked} == {False, True}
    assert "".join(texts(chunks)) == server.complete(**BODY | fields)["choices"][0]["text"]
    server.wait_idle()


def test_a_chat_streams_its_canvas_beside_its_text(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64, "stream": True, "diffusing": True}
    chunks = server.stream("/v1/chat/completions", body)
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
    shown = [choice for choice in deltas if "diffusing" in choice]
    assert len(shown) > 3
    assert all(set(choice["delta"]) <= {"content"} for choice in shown)
    text = "".join(choice["delta"].get("content", "") for choice in deltas)
    whole = server.post("/v1/chat/completions", body | {"stream": False, "diffusing": False}).json()
    assert text == whole["choices"][0]["message"]["content"]
    server.wait_idle()


def test_a_client_that_leaves_between_two_steps_leaves_nothing_behind(server: Server) -> None:
    body = STREAMED | {"diffusing": True, "max_tokens": 1500, "ignore_eos": True}
    with httpx.Client() as client, client.stream("POST", server.url + "/v1/completions", json=body) as response:
        next(response.iter_lines())
    server.wait_idle()


def test_the_log_probabilities_of_sampled_trajectories_can_be_computed_again(server: Server) -> None:
    fields = {"max_tokens": 64, "n": 3, "temperature": 2, "seed": 3, "ignore_eos": True, "logprobs": 0}
    asked = {"return_step_map": True, "return_token_ids": True}
    draws = server.complete(**BODY | fields | asked)["choices"]
    for draw in draws:
        tokens, steps = draw["token_ids"], draw["step_map"]
        assert len(tokens) == 64
        assert 1 < len(set(steps[:32])) == max(steps[:32]) < 32
        again = replay(BUNDLED_STUDENT, draw["prompt_token_ids"], tokens, steps)
        assert draw["logprobs"]["token_logprobs"] == pytest.approx(again, abs=1e-3)
    assert len({tuple(draw["step_map"]) for draw in draws}) == 3
    events = server.stream("/v1/completions", BODY | fields | asked)
    for draw in draws:
        parts = [choice for event in events for choice in event["choices"] if choice["index"] == draw["index"]]
        assert [step for part in parts for step in part["step_map"]] == draw["step_map"]
    server.wait_idle()
