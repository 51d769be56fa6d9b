"""What the page offers for the model that is served."""

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Route, expect

from tests.external.page.conftest import Opened, request_of
from tests.support.matrix import some
from tests.support.server.served import Server, running_server


@pytest.fixture(scope="module")
def other(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model with another name and without blocks, as cdlm-smol is."""
    flags = ("--served-model-name", "other", "--block-length", "1")
    with running_server(tmp_path_factory.mktemp("other") / "log", *flags) as running:
        yield running


def names(page: Opened, group: str) -> list[str]:
    return page.page.locator(f"#{group} button").all_inner_texts()


def press(page: Opened, name: str) -> None:
    page.page.get_by_role("button", name=name, exact=True).click()


def test_prompts_and_presets_of_the_bundled_student(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    assert names(page, "prompts") == ["Apples", "Stickers", "count_even", "remove_repeats"]
    assert names(page, "shows") == ["Infill code", "Infill a sum", "JSON schema", "Race"]
    assert request_of(page)["prompt"].startswith("Tom has 14 apples. Then Tom buys 3 bags of 12 apples.")
    expect(page.page.locator("#missing")).to_be_hidden()
    assert page.page.locator("#facts").inner_text() == "(blocks of 32, context of 2048 tokens)"


def test_a_model_without_blocks_is_offered_what_it_can_do(opened: Callable[..., Opened], other: Server) -> None:
    page = opened(other)
    page.page.goto(other.url + "/")
    expect(page.page.locator("#model")).to_have_text("other")
    assert names(page, "prompts") == ["Sky", "Owl", "Apples", "add"]
    assert names(page, "shows") == ["JSON schema"]
    missing = page.page.locator("#missing").inner_text()
    assert missing.startswith("No infilling and no race here: other decides its tokens from left to right")
    for hidden in ("#race", "#tau", "#steps", "#suffix"):
        expect(page.page.locator(hidden)).to_be_hidden()
    body = request_of(page)
    assert body["model"] == "other"
    assert body["messages"] == [{"role": "user", "content": "Why is the sky blue? Answer in two sentences."}]
    page.page.fill("#prompt", "mine")
    press(page, "Owl")
    assert request_of(page)["messages"][0]["content"] == "Tell me a short story about an owl and a lighthouse."
    page.settings(max_tokens="12")
    page.run()
    # The color says how many tokens a forward decided: without drafts, one.
    colors = page.page.locator(".canvas .token").evaluate_all("all => all.map(one => one.classList[1])")
    assert set(colors) == {"step-1"}
    steps = page.page.locator(".canvas .token").evaluate_all("all => all.map(one => Number(one.dataset.step))")
    assert steps == list(range(1, 1 + len(steps)))
    expect(page.page.locator("#legend li").first).to_have_text("1tokens of a forward")
    assert page.page.locator("#legend .masked").count() == 0
    page.screenshot("without-blocks")


@pytest.mark.whole
def test_tokens_of_a_forward_have_the_color_of_their_number(opened: Callable[..., Opened], other: Server) -> None:
    page = opened(other)
    page.page.goto(other.url + "/")
    expect(page.page.locator("#model")).to_have_text("other")
    words = [["The"], [" sky", " is"], [" blue", " be", "cause", " of"]]
    chunks = [
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": "".join(tokens)},
                    "finish_reason": None,
                    "diffusing": {"block": block, "step": 1, "tokens": tokens, "steps": [1] * len(tokens)},
                }
            ]
        }
        for block, tokens in enumerate(words)
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})  # type: ignore[dict-item]
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

    def fulfill(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=events)

    page.page.route("**/v1/chat/completions", fulfill)
    page.run()
    colors = page.page.locator(".canvas .token").evaluate_all("all => all.map(one => one.classList[1])")
    assert colors == ["step-1"] + ["step-2"] * 2 + ["step-4"] * 4


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("Infill code", " n in nums:\n        if n % 2 == 0:\n            count += 1"),
        ("Infill a sum", "Gives away 8: 50-8=42."),
    ],
)
def test_infilling_meets_both_ends(opened: Callable[..., Opened], name: str, middle: str) -> None:
    page = opened()
    page.load()
    press(page, name)
    expect(page.page.locator("#suffix")).to_be_visible()
    body = request_of(page)
    assert body["suffix"] == page.page.input_value("#suffix") != ""
    page.run()
    assert page.canvas() == middle
    canvas = page.page.locator(".canvas").first
    assert body["prompt"].endswith(canvas.get_attribute("data-before").removeprefix("\u2026 "))
    assert canvas.get_attribute("data-after") == body["suffix"]
    page.screenshot(name.replace(" ", "-").lower())
    press(page, "Apples")
    body = request_of(page)
    assert "suffix" not in body
    assert body["max_tokens"] == 192
    page.run()
    assert canvas.get_attribute("data-after") is None


@pytest.mark.parametrize("endpoint", some(["chat", "completion"], every=2))
def test_an_answer_keeps_its_schema(opened: Callable[..., Opened], endpoint: str) -> None:
    page = opened()
    page.load()
    press(page, "JSON schema")
    page.send_as(endpoint)
    schema = json.loads(page.page.input_value("#schema"))
    assert request_of(page)["response_format"]["json_schema"]["schema"] == schema
    page.run()
    answer = json.loads(page.canvas())
    assert list(answer) == schema["required"]
    assert int(page.figure("denoise steps")) < int(page.figure("tokens"))


@pytest.mark.whole
def test_a_schema_that_is_none_is_not_sent(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    for wrong in ('{"type": ', "[1]", "3"):
        page.settings(schema=wrong)
        page.page.click("#send")
        assert page.page.evaluate("document.activeElement.id") == "schema"
        assert page.page.evaluate("document.activeElement.validationMessage") == "This is not a JSON schema."
        assert page.page.locator("#status").inner_text() == "Ready."
    page.settings(schema="")
    page.run()
    assert page.canvas() != ""


@pytest.mark.whole
def test_the_page_waits_for_a_model_that_loads(opened: Callable[..., Opened], server: Server) -> None:
    page = opened()
    card = server.client.get("/v1/models").json()
    loading = {"object": "list", "data": [card["data"][0] | {"max_model_len": None, "block_length": None}]}
    left = [loading, loading]

    def fulfill(route: Route) -> None:
        if left:
            route.fulfill(json=left.pop())
        else:
            route.fallback()

    page.page.route("**/v1/models", fulfill)
    page.page.goto(server.url + "/")
    expect(page.page.locator("#status")).to_have_text("The model is loading; this page waits for it.")
    expect(page.page.locator("#status")).to_have_text("Ready.")
    assert left == []
