"""``/v1/messages`` of a real server: the answers of chats, cached prompts, prefilled answers."""

from typing import Any

from tests.support.server.served import Server

QUESTION = {"role": "user", "content": "Tom has 3 apples and buys 4 more. How many apples does Tom have?"}
ASKED: dict[str, Any] = {"messages": [QUESTION], "max_tokens": 64}


def message(server: Server, **fields: Any) -> dict[str, Any]:
    response = server.post("/v1/messages", ASKED | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_message_is_the_answer_of_the_chat(server: Server) -> None:
    system = "Answer at once."
    answer = message(server, system=system)
    chat = {"messages": [{"role": "system", "content": system}, QUESTION], "max_tokens": 64}
    said = server.post("/v1/chat/completions", chat).json()
    assert answer["content"][0]["text"] == said["choices"][0]["message"]["content"]
    assert answer["usage"]["output_tokens"] == said["usage"]["completion_tokens"]


def test_a_repeated_prompt_is_read_from_the_cache(server: Server) -> None:
    prompt = {"messages": [QUESTION], "system": "The cache is asked twice. " * 8}
    counted = server.post("/v1/messages/count_tokens", prompt).json()["input_tokens"]
    first, second = message(server, **prompt)["usage"], message(server, **prompt)["usage"]
    assert (first["input_tokens"], first["cache_read_input_tokens"]) == (counted, 0)
    assert second["cache_read_input_tokens"] > 0
    assert second["input_tokens"] + second["cache_read_input_tokens"] == counted


def test_the_last_turn_of_the_assistant_is_continued(server: Server) -> None:
    turns = [QUESTION, {"role": "assistant", "content": "Tom has 3 + 4 ="}]
    answer = message(server, messages=turns)
    chat = server.post("/v1/chat/completions", ASKED | {"messages": turns, "continue_final_message": True}).json()
    assert answer["content"][0]["text"] == chat["choices"][0]["message"]["content"] != ""
