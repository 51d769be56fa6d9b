"""``/v1/fim/completions`` and ``/v1/edit/completions`` of a real server: the tokens of a completion with a suffix."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.server.served import Server, running_server

FIM, EDIT = "/v1/fim/completions", "/v1/edit/completions"
SNIPPETS = "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>"
CODE = "<|code_to_edit|>\n    total = 0<|cursor|>\n<|/code_to_edit|>"
HEAD = "<|current_file_content|>\ncurrent_file_path: a.py\ndef sum(n):\n"
TAIL = "    return total\n"
HISTORY = "<|edit_diff_history|>\n--- a.py\n+++ a.py\n@@ -1 +1 @@\n-def add(n):\n+def sum(n):\n<|/edit_diff_history|>"
CONTENT = f"{SNIPPETS}\n\n{HEAD}{CODE}\n{TAIL}<|/current_file_content|>\n\n{HISTORY}"
MESSAGES = [{"role": "user", "content": CONTENT}]


def answered(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = server.post(path, body | {"return_token_ids": True})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


# 24 leaves room for the suffix in the last block; 32 leaves none.
@pytest.mark.parametrize("limit", [24, 32, 40])
@pytest.mark.parametrize("more", [{}, {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 1.5}, {"stop": ["\n"]}])
def test_infilling_has_the_tokens_of_a_completion(server: Server, limit: int, more: dict[str, Any]) -> None:
    asked = {"prompt": "def double(x):\n    ", "suffix": "\n    return y", "max_tokens": limit, "ignore_eos": True}
    body = asked | {"seed": 7} | more
    mine, other = answered(server, FIM, body), answered(server, "/v1/completions", body)
    assert mine["choices"] == other["choices"]
    assert mine["choices"][0]["token_ids"]
    events = server.stream(FIM, body | {"return_token_ids": True, "stream_options": {"include_usage": True}})
    pieces = [event["choices"][0] for event in events if event["choices"]]
    assert "".join(piece["text"] for piece in pieces) == mine["choices"][0]["text"]
    assert [token for piece in pieces for token in piece["token_ids"]] == mine["choices"][0]["token_ids"]
    assert pieces[-1]["finish_reason"] == mine["choices"][0]["finish_reason"]
    counted = ("prompt_tokens", "completion_tokens", "total_tokens", "denoise_steps", "reasoning_tokens")
    assert [events[-1]["usage"][name] for name in counted] == [mine["usage"][name] for name in counted]


@pytest.mark.parametrize("limit", [24, 32])
def test_an_edit_has_the_tokens_of_a_completion(server: Server, limit: int) -> None:
    fields = {"max_tokens": limit, "ignore_eos": True}
    mine = answered(server, EDIT, fields | {"messages": MESSAGES})
    prompt = f"{SNIPPETS}\n\n{HISTORY}\n\n{CODE}\n\n{HEAD}"
    other = answered(server, "/v1/completions", fields | {"prompt": prompt, "suffix": TAIL})
    [choice], [plain] = mine["choices"], other["choices"]
    assert choice["token_ids"] == plain["token_ids"]
    assert len(choice["token_ids"]) == limit
    assert choice["message"]["content"] == f"```\n{plain['text']}\n```"
    assert (choice["finish_reason"], mine["object"]) == (plain["finish_reason"], "edit.completion")
    names = ("prompt_tokens", "completion_tokens", "denoise_steps")
    assert [mine["usage"][name] for name in names] == [other["usage"][name] for name in names]


def test_keys_quotas_metrics_and_the_log_count_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key-of-the-editor name=editor requests_per_minute=2\n")
    with running_server(tmp_path / "log", "--api-key-file", str(keys)) as running:
        bodies = {FIM: {"prompt": "a", "suffix": "b", "max_tokens": 24}, EDIT: {"messages": MESSAGES, "max_tokens": 24}}
        for path, body in bodies.items():
            assert running.post(path, body).status_code == 401
        running.client.headers["authorization"] = "Bearer key-of-the-editor"
        for path, body in bodies.items():
            assert running.post(path, body).status_code == 200
        refused = running.post(EDIT, bodies[EDIT])
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        running.wait_idle()
        assert running.metric("cdlm_requests_finished_total") == 2
        lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
        seen = {(line["path"], line["outcome"]) for line in lines if line.get("key") == "editor"}
        assert {(FIM, "finished"), (EDIT, "finished")} <= seen
