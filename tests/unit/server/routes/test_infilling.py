"""``/v1/fim/completions`` and ``/v1/edit/completions``: what they ask for, what comes back, what they refuse."""

from typing import Any

import pytest

from cdlm.server.openai.edit.sections import Infill, infill_of
from tests.support.server.bench import ANSWER, Bench, widen
from tests.support.server.fakes import BLOCK

pytestmark = pytest.mark.anyio

FIM, EDIT = "/v1/fim/completions", "/v1/edit/completions"
INSIDE = (
    "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n\n"
    "<|current_file_content|>\ncurrent_file_path: a.py\nbefore\n"
    "<|code_to_edit|>\nx = <|cursor|>1\n<|/code_to_edit|>\nafter\n<|/current_file_content|>\n\n"
    "<|edit_diff_history|>\n-x\n+y\n<|/edit_diff_history|>"
)
BESIDE = (
    "<|current_file_content|>\nbefore\nx = 1\nafter\n<|/current_file_content|>\n"
    "<|code_to_edit|>\nx = <|cursor|>1\n<|/code_to_edit|>"
)
REGION = "<|code_to_edit|>\nx = <|cursor|>1\n<|/code_to_edit|>"
SHORT = "<|current_file_content|>hi <|code_to_edit|>a<|cursor|><|/code_to_edit|> there<|/current_file_content|>"


def message(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


async def test_infilling_is_a_completion_with_a_suffix(bench: Bench) -> None:
    fields = {"prompt": "hello", "suffix": " there", "max_tokens": 40, "seed": 7, "confidence_threshold": 0.5}
    answer = (await bench.post(FIM, fields)).json()
    await bench.complete(**fields)
    mine, other = bench.engine.requests
    for name in ("prompt_ids", "pinned", "max_tokens", "params", "stop_token_ids", "ignore_eos"):
        assert getattr(mine, name) == getattr(other, name), name
    assert bench.codec.decode(mine.pinned) == " there"
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == [ANSWER]
    usage = answer["usage"]
    assert usage["reasoning_tokens"] == 0
    assert usage["cached_input_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]


async def test_an_absent_limit_is_512_or_what_is_left(bench: Bench) -> None:
    assert bench.engine.ready is not None
    assert (await bench.post(FIM, {"prompt": "hello"})).status_code == 200
    assert bench.engine.requests[-1].max_tokens == bench.engine.ready.max_model_len - 1 < 512
    widen(bench)
    for body, room in (({"prompt": "hello"}, 512), (message(SHORT), 1024)):
        assert (await bench.post(FIM if "prompt" in body else EDIT, body)).status_code == 200
        assert bench.engine.requests[-1].max_tokens == room


async def test_a_stream_has_the_same_text_and_usage(bench: Bench) -> None:
    events = await bench.events(FIM, prompt="hello", suffix="x", max_tokens=40, stream_options={"include_usage": True})
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == ANSWER
    assert {event["object"] for event in events} == {"text_completion"}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["reasoning_tokens"] == 0
    assert all(event["usage"] is None for event in events[:-1])


async def test_an_edit_infills_the_region(bench: Bench) -> None:
    widen(bench)
    response = await bench.post(EDIT, message(INSIDE) | {"max_tokens": 40, "return_token_ids": True})
    assert response.status_code == 200, response.text
    answer = response.json()
    [choice] = answer["choices"]
    assert answer["object"] == "edit.completion"
    assert choice["message"] == {"role": "assistant", "content": f"```\n{ANSWER}\n```"}
    assert choice["token_ids"] == bench.codec._tokenizer.encode(ANSWER).ids
    assert answer["usage"]["cached_input_tokens"] == 0
    infill = infill_of(INSIDE)
    await bench.complete(prompt=infill.prompt, suffix=infill.suffix, max_tokens=40)
    mine, other = bench.engine.requests
    assert (mine.prompt_ids, mine.pinned) == (other.prompt_ids, other.pinned)
    assert 0 < len(mine.pinned) <= BLOCK


async def test_text_parts_are_a_message_too(bench: Bench) -> None:
    widen(bench)
    for content in (SHORT, [{"type": "text", "text": SHORT}]):
        assert (await bench.post(EDIT, message(content))).status_code == 200
    first, second = bench.engine.requests
    assert first.prompt_ids == second.prompt_ids


def test_the_region_stands_before_the_file() -> None:
    shown = "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>"
    history = "<|edit_diff_history|>\n-x\n+y\n<|/edit_diff_history|>"
    head = "<|current_file_content|>\ncurrent_file_path: a.py\nbefore\n"
    assert infill_of(INSIDE) == Infill(f"{shown}\n\n{history}\n\n{REGION}\n\n{head}", "after\n")


@pytest.mark.parametrize("content", [BESIDE, f"{REGION}\n{BESIDE.removesuffix(REGION)}"])
def test_a_region_beside_the_file_is_found_in_it(content: str) -> None:
    assert infill_of(content) == Infill(f"{REGION}\n\n<|current_file_content|>\nbefore\n", "after\n")


@pytest.mark.parametrize("inner", ["", "1", "\n"])
def test_nothing_else_of_the_file_is_lost(inner: str) -> None:
    """What stands before the region, the region, and what stands after it are the file, whatever its line ends."""
    for head, region, tail in (("", inner, ""), ("a\n", f"{inner}\n", "b"), ("a", f"{inner}", "b\n"), ("", "\n\n", "")):
        code = f"<|code_to_edit|>\n<|cursor|>{region}<|/code_to_edit|>\n"
        infill = infill_of(f"<|current_file_content|>{head}{code}{tail}<|/current_file_content|>")
        assert infill.prompt.endswith(f"<|current_file_content|>{head}")
        assert infill.suffix == tail


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hi", "<|current_file_content|> must be there once, and is there 0 times"),
        (INSIDE.replace("<|/code_to_edit|>", ""), "<|/code_to_edit|> must be there once, and is there 0 times"),
        (INSIDE.replace("<|cursor|>", ""), "<|cursor|> must be there once, and is there 0 times"),
        (INSIDE.replace("<|cursor|>", "<|cursor|>" * 2), "<|cursor|> must be there once, and is there 2 times"),
        (INSIDE.replace("<|cursor|>", "") + "<|cursor|>", "<|cursor|> must be inside of <|code_to_edit|>"),
        (INSIDE + INSIDE, "<|current_file_content|> must be there once, and is there 2 times"),
        (
            BESIDE.replace("x = 1", "y"),
            "the code to edit must stand once in the current file, and stands there 0 times",
        ),
        (BESIDE.replace("x = 1\n", "x = 1\n" * 2), "stands there 2 times"),
        (
            "<|/current_file_content|><|current_file_content|>" + REGION,
            "<|/current_file_content|> must come after <|current_file_content|>",
        ),
        (
            "<|current_file_content|><|code_to_edit|><|cursor|><|/current_file_content|><|/code_to_edit|>",
            "<|code_to_edit|> and <|current_file_content|> must not cross",
        ),
    ],
)
async def test_sections_that_do_not_fit(bench: Bench, content: str, words: str) -> None:
    response = await bench.post(EDIT, message(content))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "messages[0].content")
    assert words in error["message"]
    assert bench.engine.requests == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (FIM, {}, "prompt"),
        (FIM, {"prompt": ""}, "prompt"),
        (FIM, {"prompt": ["a"]}, "prompt"),
        (FIM, {"prompt": "a", "suffix": 5}, "suffix"),
        (FIM, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (FIM, {"prompt": "a", "max_tokens": 10**6}, "prompt"),
        (FIM, {"prompt": "a", "suffix": "hello " * 500}, "suffix"),
        (FIM, {"prompt": "a", "n": 2}, "n"),
        (FIM, {"prompt": "a", "stop": [""]}, "stop"),
        (FIM, {"prompt": "a", "diffusing": True}, "diffusing"),
        (EDIT, {}, "messages"),
        (EDIT, {"messages": []}, "messages"),
        (EDIT, {"messages": message(SHORT)["messages"] * 2}, "messages"),
        (EDIT, {"messages": [{"role": "system", "content": SHORT}]}, "messages[0].role"),
        (EDIT, message(5), "messages[0].content"),
        (EDIT, message(SHORT) | {"stream": True}, "stream"),
        (EDIT, message(SHORT) | {"tools": [{}]}, "tools"),
        (EDIT, message(SHORT) | {"max_tokens": 10**6}, "messages"),
        (EDIT, message(SHORT.replace("there", "hello " * 500)), "messages"),
        (EDIT, message(SHORT.replace("hi", "hello " * 500)), "messages"),
    ],
)
async def test_errors_name_the_field(bench: Bench, path: str, body: dict[str, Any], param: str) -> None:
    response = await bench.post(path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert bench.engine.requests == []


async def test_another_model_is_not_found(bench: Bench) -> None:
    for path, body in ((FIM, {"prompt": "a"}), (EDIT, message(SHORT))):
        response = await bench.post(path, body | {"model": "mercury-edit-2"})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
