"""Keys and refusals."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from tests.external.page.conftest import Opened
from tests.support.matrix import some
from tests.support.server.served import Server, running_server

KEY = "s3cret-of-this-test"
REFUSED = ("status of 401",)


@pytest.fixture(scope="module")
def keyed(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("keyed") / "log", "--api-key", KEY) as running:
        yield running


def enter(page: Opened, key: str) -> None:
    page.page.fill("#key", key)
    page.page.get_by_role("button", name="Use this key").click()


def test_a_key_is_asked_for_and_kept_by_the_tab(opened: Callable[..., Opened], keyed: Server) -> None:
    page = opened(at=keyed, complaints=REFUSED)
    page.page.goto(keyed.url + "/")
    error = page.page.locator("#error")
    expect(page.page.locator("#key-form")).to_be_visible()
    expect(error).to_have_text("This server wants an API key.")
    page.screenshot("key")
    enter(page, "wrong")
    expect(error).to_have_text("The server refused this key.")
    assert page.page.evaluate("sessionStorage.length") == 0
    enter(page, KEY)
    expect(page.page.locator("#model")).to_have_text("cdlm-nano")
    expect(page.page.locator("#key-form")).to_be_hidden()
    page.run()
    assert page.canvas() != ""
    assert page.page.evaluate("[...Object.values(sessionStorage)]") == [KEY]
    assert page.page.evaluate("localStorage.length") == 0
    assert page.page.evaluate("document.cookie") == ""
    page.page.reload()
    expect(page.page.locator("#model")).to_have_text("cdlm-nano")
    page.page.get_by_role("button", name="Forget the API key").click()
    expect(page.page.locator("#key-form")).to_be_visible()
    assert page.page.evaluate("sessionStorage.length") == 0
    assert "$CDLM_KEY" in page.page.locator("#curl").inner_text()
    page.page.click("#send")
    expect(error).to_contain_text("Missing or incorrect API key")
    expect(page.page.locator("#key")).to_be_focused()


@pytest.mark.whole
def test_the_command_has_a_place_for_the_key_and_not_the_key(opened: Callable[..., Opened], keyed: Server) -> None:
    page = opened(at=keyed, complaints=REFUSED)
    page.page.goto(keyed.url + "/")
    enter(page, KEY)
    expect(page.page.locator("#model")).to_have_text("cdlm-nano")
    command = page.page.locator("#curl").inner_text()
    assert KEY not in command
    environment = {"CDLM_KEY": KEY, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    some(
        [
            ({"tau": "0"}, ["confidence_threshold", "greater than 0"]),
            ({"max_tokens": "100000"}, ["maximum context length"]),
            ({"prompt": ""}, ["prompt", "empty"]),
        ],
        every=3,
    ),
)
def test_refusals_are_shown_as_the_api_words_them(
    opened: Callable[..., Opened], settings: dict[str, str], words: list[str]
) -> None:
    page = opened(complaints=("status of 400",))
    page.load()
    page.settings(**settings)
    page.run()
    shown = page.page.locator("#error").inner_text()
    assert all(word in shown for word in words), shown
    assert page.figure("finish") == "error"
    page.screenshot("refused")


@pytest.mark.whole
def test_a_number_that_is_none_is_not_sent(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.settings(temperature="3")
    page.page.click("#send")
    assert page.page.evaluate("document.activeElement.id") == "temperature"
    assert page.page.locator("#status").inner_text() == "Ready."


@pytest.mark.whole
def test_a_server_that_is_gone_is_named(opened: Callable[..., Opened]) -> None:
    page = opened(complaints=("ERR_INTERNET_DISCONNECTED", "ERR_FAILED"))
    page.load()
    page.page.context.set_offline(True)
    page.run()
    assert page.page.locator("#error").inner_text() == "The server cannot be reached."
