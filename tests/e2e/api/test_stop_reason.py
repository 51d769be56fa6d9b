"""What ended a choice: a stop string, a stop token of the request's own, or anything else."""

from typing import Any

import pytest

from tests.support.server.served import Server

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"
COMPLETION: dict[str, Any] = {"prompt": QUESTION, "max_tokens": 96}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 96}
ROUTES = [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)]


def ends(server: Server, path: str, body: dict[str, Any]) -> tuple[str, str | int | None]:
    """Why the answer ended, whole and streamed; of a stream only the last event of a choice says so."""
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    *before, last = [event["choices"][0] for event in server.stream(path, body)]
    assert {(event["finish_reason"], event["stop_reason"]) for event in before} <= {(None, None)}
    assert (last["finish_reason"], last["stop_reason"]) == (choice["finish_reason"], choice["stop_reason"])
    return choice["finish_reason"], choice["stop_reason"]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_what_ended_a_choice(server: Server, path: str, body: dict[str, Any]) -> None:
    whole = server.post(path, body | {"return_token_ids": True, "logprobs": None}).json()["choices"][0]
    text = whole["text"] if "text" in whole else whole["message"]["content"]
    ids = whole["token_ids"]
    assert ends(server, path, body) == ("stop", None)
    assert ends(server, path, body | {"max_tokens": 2}) == ("length", None)
    # A string that begins inside of a token and ends inside of another; the longer one where two end together.
    cut = text[3:9]
    assert ends(server, path, body | {"stop": ["nowhere", cut]}) == ("stop", cut)
    assert ends(server, path, body | {"stop": [cut[2:], cut], "include_stop_str_in_output": True}) == ("stop", cut)
    own = next(token for token in ids[4:] if token not in ids[:4])
    assert ends(server, path, body | {"stop_token_ids": [own]}) == ("stop", own)
    assert ends(server, path, body | {"stop_token_ids": [own], "stop": "nowhere"}) == ("stop", own)
    assert ends(server, path, body | {"stop_token_ids": [own], "stop": text[0]}) == ("stop", text[0])


def test_an_end_token_is_null_unless_only_the_request_stops_there(server: Server) -> None:
    found = server.complete(**COMPLETION, logprobs=0, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    end = int(found["tokens"][-1].removeprefix("token_id:"))
    for path, body in ROUTES:
        assert ends(server, path, body | {"stop_token_ids": [end]}) == ("stop", None)
        assert ends(server, path, body | {"stop_token_ids": [end], "ignore_eos": True}) == ("stop", end)


def test_each_choice_has_its_own(server: Server) -> None:
    fields: dict[str, Any] = {
        "prompt": "Once",
        "temperature": 2,
        "n": 8,
        "seed": 3,
        "stop": list("aeiou"),
        "max_tokens": 24,
    }
    answer = server.complete(**fields)
    reasons = [choice["stop_reason"] for choice in answer["choices"]]
    assert len(set(reasons)) > 1
    assert all(
        (choice["stop_reason"] in fields["stop"]) <= (choice["finish_reason"] == "stop") for choice in answer["choices"]
    )
    events = [event["choices"][0] for event in server.stream("/v1/completions", fields)]
    streamed = {event["index"]: event["stop_reason"] for event in events if event["finish_reason"]}
    assert [streamed[index] for index in range(8)] == reasons


def test_a_forced_call_that_a_string_cuts(server: Server) -> None:
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}},
    }
    body = CHAT | {"tools": [tool], "tool_choice": "required"}
    assert ends(server, "/v1/chat/completions", body) == ("tool_calls", None)
    assert ends(server, "/v1/chat/completions", body | {"stop": "arguments"}) == ("stop", "arguments")
