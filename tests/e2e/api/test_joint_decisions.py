"""``joint`` decisions of a real server: one figure whatever runs beside, the cache, models without masks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.api.test_served_decisions import INPUT, QUESTIONS, decide, shares
from tests.support.places import ROOT
from tests.support.server.served import Server, running_server


def test_figures_do_not_depend_on_what_runs_beside(server: Server) -> None:
    alone = shares(decide(server, joint=True, cache_salt="joint"))
    assert sum(alone[1:4]) == pytest.approx(1)
    assert sum(alone[4:]) == pytest.approx(1)
    chat = {"messages": [{"role": "user", "content": INPUT}], "max_tokens": 48, "ignore_eos": True}
    with ThreadPoolExecutor(6) as pool:
        chats = [pool.submit(server.post, "/v1/chat/completions", chat) for _ in range(3)]
        beside = [pool.submit(decide, server, joint=True, cache_salt=salt) for salt in ("joint", "other", "")]
        for each in beside:
            assert shares(each.result()) == pytest.approx(alone, rel=1e-3, abs=1e-6)
        assert all(each.result().status_code == 200 for each in chats)
    server.wait_idle()


def test_the_prompt_is_cached_and_counted_once(server: Server) -> None:
    first, second = (decide(server, joint=True, cache_salt="counted")["usage"] for _ in range(2))
    apart = decide(server, cache_salt="apart")["usage"]
    assert first["input_tokens"] == second["input_tokens"] < apart["input_tokens"]
    assert first["input_tokens_details"]["cached_tokens"] < second["input_tokens_details"]["cached_tokens"]


def test_a_next_token_model_is_refused(tmp_path: Path) -> None:
    model = str(ROOT / "model/assets/cdlm-nano-autoregressive")
    with running_server(tmp_path / "log", "--model", model) as plain:
        response = plain.post("/v1/decisions", {"input": INPUT, "questions": QUESTIONS, "joint": True})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "joint")
