"""A prompt with its settings as a link."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.external.page.conftest import Opened, request_of
from tests.support.matrix import some

CLIPBOARD = ["clipboard-read", "clipboard-write"]


def link_of(page: Opened) -> str:
    page.page.click("#link")
    expect(page.page.locator("#status")).to_have_text("The link is copied.")
    link: str = page.page.evaluate("navigator.clipboard.readText()")
    return link


def follow(page: Opened, link: str) -> None:
    page.page.goto(link)
    expect(page.page.locator("#model")).to_have_text("cdlm-nano")


def test_a_link_brings_prompt_and_settings(opened: Callable[..., Opened]) -> None:
    page = opened(permissions=CLIPBOARD)
    page.load()
    prompt = "a & b = c + d # 100% \u00fc\u4e16\U0001f989 'x' \"y\"\n\n  end=1 "
    page.settings(prompt=prompt, suffix="\n tail", schema='{"type": "object"}', tau="0.97", seed="7", max_tokens="40")
    page.page.check("#race")
    wanted = request_of(page)
    link = link_of(page)
    assert link.startswith(page.server.url + "/#endpoint=completion&prompt=a%20%26%20b")
    other = opened()
    follow(other, link)
    expect(other.page.locator("#status")).to_have_text("Filled in from the link; send it.")
    assert request_of(other) == wanted
    assert other.page.input_value("#prompt") == prompt
    assert other.page.is_checked("#race")
    # It is not sent by itself, not kept, and a reload does not bring it back over what was typed.
    assert other.canvas() == ""
    assert other.page.evaluate("localStorage.length") == 0
    assert other.page.url == other.server.url + "/"


@pytest.mark.whole
def test_a_link_is_the_same_for_everybody(opened: Callable[..., Opened]) -> None:
    page = opened(permissions=CLIPBOARD)
    page.load()
    link = link_of(page)
    page.settings(tau="0.6", steps="3")
    page.send_as("chat")
    follow(page, link)
    body = request_of(page)
    assert {"messages", "confidence_threshold", "max_steps_per_block"}.isdisjoint(body)
    # A link may come while the page is open.
    page.page.evaluate("location.hash = 'endpoint=chat&prompt=hello&end=1'")
    expect(page.page.locator("#prompt")).to_have_value("hello")
    assert request_of(page)["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.whole
def test_the_link_of_a_chat_has_its_last_question_alone(opened: Callable[..., Opened]) -> None:
    page = opened(permissions=CLIPBOARD)
    page.load()
    page.send_as("chat")
    page.settings(max_tokens="8")
    for question in ("first-question", "second-question"):
        page.settings(prompt=question)
        page.run()
    link = link_of(page)
    assert "prompt=second-question&" in link
    assert "first-question" not in link


@pytest.mark.parametrize(
    ("fragment", "why"),
    some(
        [
            ("endpoint=chat&prompt=hello&en", "its end is missing"),
            ("endpoint=chat&prompt=hello", "its end is missing"),
            ("prompt=%E4%B8&end=1", "a part of it is damaged"),
            ("prompt=%&end=1", "a part of it is damaged"),
            ("tau=5&end=1", "it asks for tau=5"),
            ("endpoint=letter&end=1", "it asks for endpoint=letter"),
            ("key=abc&end=1", "it asks for key=abc"),
            ("length=1&end=1", "it asks for length=1"),
            ("toString&end=1", "it asks for toString="),
            ("prompt=" + "x" * 9000 + "&end=1", "it has 9014 characters, and 8000 are the most"),
        ],
        every=10,
    ),
)
def test_a_broken_link_says_so(opened: Callable[..., Opened], fragment: str, why: str) -> None:
    page = opened()
    page.load()
    first = request_of(page)
    page.page.goto("about:blank")
    follow(page, f"{page.server.url}/#{fragment}")
    expect(page.page.locator("#error")).to_have_text(f"The link cannot be used: {why}.")
    assert request_of(page) == first
    assert page.page.url == page.server.url + "/"


@pytest.mark.whole
def test_a_prompt_that_is_too_long_makes_no_link(opened: Callable[..., Opened]) -> None:
    page = opened(permissions=CLIPBOARD)
    page.load()
    long = "\u4e16" * 1000
    page.settings(prompt=long)
    page.page.click("#link")
    length = len(f"{page.server.url}/#endpoint=completion&prompt={quote(long)}&end=1")
    expected = f"This is too long for a link: it would have {length} characters, and 8000 are the most."
    expect(page.page.locator("#error")).to_have_text(expected)
    page.settings(prompt="\u4e16" * 800)
    assert request_of(page)["prompt"] == "\u4e16" * 800
    assert len(link_of(page)) < 8000


@pytest.mark.whole
def test_without_a_clipboard_the_link_is_in_the_address(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.load()
    page.page.click("#link")
    expect(page.page.locator("#status")).to_have_text("The link is in the address bar; copy it from there.")
    assert page.page.url.startswith(page.server.url + "/#endpoint=completion&prompt=Tom%20has")
    page.page.reload()
    expect(page.page.locator("#status")).to_have_text("Filled in from the link; send it.")
