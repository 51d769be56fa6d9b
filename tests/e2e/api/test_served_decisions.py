"""``/v1/decisions`` of a real server: exact scores of texts, one figure whatever runs beside, the prefix cache."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.places import ROOT
from tests.support.server.served import Server, running_server

INPUT = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples and gives away 8. " * 3
QUESTIONS: list[dict[str, Any]] = [
    {"type": "predicate", "name": "apples", "instructions": "Tom has apples."},
    {
        "type": "choice",
        "instructions": "What does Tom buy?",
        "choices": [{"value": "bags of 12 apples", "description": "fruit"}, {"value": "a pear"}, {"value": False}],
    },
    {"type": "score", "instructions": "How many?", "levels": [{"label": "none"}, {"label": "some"}, {"label": "many"}]},
]


def decide(server: Server, **fields: Any) -> dict[str, Any]:
    response = server.post("/v1/decisions", {"input": INPUT, "questions": QUESTIONS} | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def shares(found: dict[str, Any]) -> list[float]:
    """All probabilities, in order."""
    predicate, *others = found["answers"]
    return [predicate["probability"], *(each["probability"] for other in others for each in other["probabilities"])]


def test_probabilities_are_the_softmax_of_echoed_scores(server: Server) -> None:
    """The same texts, scored from their first token on by ``echo`` with ``logprobs``."""
    found = decide(server)
    asked = (
        f"{INPUT}\n\nWhat does Tom buy?\n- bags of 12 apples: fruit\n- a pear\n- false\nAnswer with one of these only."
    )
    prompt = server.post("/v1/tokenize", {"messages": [{"role": "user", "content": asked}]}).json()["tokens"]
    logs = []
    for text in ("bags of 12 apples", "a pear", "false"):
        ids = server.post("/v1/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
        # Token 0 ends the answers of cdlm-nano.
        scored = server.post(
            "/v1/completions", {"prompt": [*prompt, *ids, 0], "echo": True, "logprobs": 0, "max_tokens": 0}
        ).json()["choices"][0]["logprobs"]["token_logprobs"]
        logs.append(sum(scored[len(prompt) :]))
    weights = [math.exp(each) for each in logs]
    expected = [weight / sum(weights) for weight in weights]
    answer = found["answers"][1]
    assert [each["probability"] for each in answer["probabilities"]] == pytest.approx(expected, rel=1e-3)
    assert answer["confidence"] == pytest.approx(max(weights), rel=1e-3)
    assert answer["choice"] == ["bags of 12 apples", "a pear", False][max(range(3), key=logs.__getitem__)]


def test_figures_do_not_depend_on_what_runs_beside(server: Server) -> None:
    alone = shares(decide(server, cache_salt="alone"))
    chat = {"messages": [{"role": "user", "content": INPUT}], "max_tokens": 48, "ignore_eos": True}
    with ThreadPoolExecutor(6) as pool:
        chats = [pool.submit(server.post, "/v1/chat/completions", chat) for _ in range(3)]
        beside = [pool.submit(decide, server, cache_salt=salt) for salt in ("a", "b", "")]
        for each in beside:
            assert shares(each.result()) == pytest.approx(alone, rel=1e-3, abs=1e-6)
        assert all(each.result().status_code == 200 for each in chats)
    for question, kept in ((0, alone[:1]), (1, alone[1:4]), (2, alone[4:])):
        one = decide(server, questions=[QUESTIONS[question]])["answers"][0]
        found = [one["probability"]] if question == 0 else [each["probability"] for each in one["probabilities"]]
        assert found == pytest.approx(kept, rel=1e-3, abs=1e-6)


def test_what_questions_share_is_computed_once(server: Server) -> None:
    first, second = (decide(server, cache_salt="once")["usage"] for _ in range(2))
    assert first["input_tokens"] == second["input_tokens"] == first["total_tokens"]
    # Two of three questions find the input cached; the second time all do.
    assert 0 < first["input_tokens_details"]["cached_tokens"] < second["input_tokens_details"]["cached_tokens"]
    assert second["input_tokens_details"]["cached_tokens"] < second["input_tokens"]


def test_the_official_client(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        made = client.decisions.create(model="cdlm-nano", input=INPUT, questions=QUESTIONS)
    assert [answer.type for answer in made.answers] == ["predicate", "choice", "score"]


def test_a_next_token_model_decides(tmp_path: Path) -> None:
    model = str(ROOT / "model/assets/cdlm-nano-autoregressive")
    with running_server(tmp_path / "log", "--model", model) as plain:
        first, second = decide(plain), decide(plain)
        assert shares(second) == pytest.approx(shares(first), rel=1e-3, abs=1e-6)
        assert second["usage"]["input_tokens_details"]["cached_tokens"] > 0
        assert plain.post("/v1/decisions", {"input": INPUT, "questions": []}).json()["error"]["param"] == "questions"
        plain.wait_idle()
