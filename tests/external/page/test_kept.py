"""Settings that the browser keeps, and their reset."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.external.page.conftest import Opened, request_of
from tests.support.matrix import some

NAME = "cdlm-settings"
UNREADABLE = "The settings that this browser kept cannot be read; these are the first ones."


def kept(page: Opened) -> dict[str, str] | None:
    stored = page.page.evaluate(f"localStorage.getItem('{NAME}')")
    return None if stored is None else json.loads(stored)


def test_settings_outlive_the_page_and_prompts_do_not(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    assert kept(page) is None
    page.send_as("chat")
    page.page.check("#race")
    page.page.check("#numbers")
    page.page.locator("#tau-slide").fill("5")
    page.settings(steps="9", max_tokens="70", temperature="0.5", seed="7", prompt="A secret", schema='{"a": 1}')
    assert "secret" not in page.page.evaluate("JSON.stringify(localStorage)")
    page.load()
    for name, value in {"tau": "0.9", "steps": "9", "max-tokens": "70", "temperature": "0.5", "seed": "7"}.items():
        assert page.page.input_value(f"#{name}") == value
    assert page.page.input_value("#tau-slide") == "5"
    for checked in ("#as-chat", "#race", "#numbers"):
        assert page.page.is_checked(checked)
    assert page.page.input_value("#schema") == ""
    body = request_of(page)
    assert body["messages"][0]["content"].startswith("Tom has 14 apples.")
    assert (body["max_tokens"], body["confidence_threshold"]) == (70, 0.9)


@pytest.mark.whole
def test_reset_goes_back_to_the_beginning(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    first = request_of(page)
    page.send_as("chat")
    page.page.check("#race")
    page.settings(tau="0.7", max_tokens="9", seed="3", schema="{}")
    page.page.click("#reset")
    expect(page.page.locator("#status")).to_have_text("The settings are what they were at first.")
    assert request_of(page) == first
    assert not page.page.is_checked("#race")
    assert kept(page) is None
    page.load()
    assert request_of(page) == first


@pytest.mark.parametrize(
    "broken",
    some(
        [
            "",
            "{",
            "null",
            "7",
            '{"tau": 0.9}',
            '{"tau": "7"}',
            '{"tau": "fast"}',
            '{"endpoint": "letter"}',
            '{"race": "yes"}',
            '{"temperature": "0", "prompt": "mine"}',
            '{"length": "1"}',
        ],
        every=11,
    ),
)
def test_what_cannot_be_read_is_forgotten(opened: Callable[..., Opened], broken: str) -> None:
    page = opened()
    page.load()
    first = request_of(page)
    page.page.evaluate("([name, text]) => localStorage.setItem(name, text)", [NAME, broken])
    page.load()
    expect(page.page.locator("#status")).to_have_text(UNREADABLE)
    assert request_of(page) == first
    assert kept(page) is None
    page.load()
    expect(page.page.locator("#status")).to_have_text("Ready.")


@pytest.mark.whole
def test_a_number_out_of_its_bounds_is_not_kept(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.settings(seed="5", temperature="9")
    assert "temperature" not in (kept(page) or {})
    page.load()
    assert page.page.input_value("#seed") == "5"
    assert page.page.input_value("#temperature") == "0"


@pytest.mark.whole
def test_the_page_works_where_nothing_may_be_kept(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page.load()
    page.settings(seed="5")
    page.run()
    assert page.canvas() != ""
    page.page.click("#reset")
    assert page.page.input_value("#seed") == ""
