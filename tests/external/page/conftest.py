"""The playground in a real headless Chromium, on a real server with the bundled student."""

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from tests.external.page.browser import find_chromium, launched
from tests.support.server.served import Server, running_server

# Under load a run takes longer than Playwright's five seconds.
RUN_LIMIT_MS = 60_000


class Opened:
    """A page of the playground, and what it did besides what is shown."""

    def __init__(self, page: Page, server: Server, shots: Path) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self._shots = shots
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _on_request(self, route: Route) -> None:
        if route.request.url.startswith(self.server.url + "/"):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()

    def load(self) -> None:
        """Opens the page and waits until it knows the model."""
        self.page.goto(self.server.url + "/")
        expect(self.page.locator("#model")).to_have_text("cdlm-nano")

    def send_as(self, endpoint: str) -> None:
        self.page.check(f"#as-{endpoint}")

    def run(self) -> None:
        """Sends what the controls say and waits for the end."""
        self.page.click("#send")
        self.wait_end()

    def wait_end(self) -> None:
        expect(self.page.locator("#send")).to_be_enabled(timeout=RUN_LIMIT_MS)
        expect(self.page.locator("#stop")).to_be_disabled()

    def canvas(self, lane: int = 0) -> str:
        """What the canvas of a lane says, as a copy of it would."""
        return self.page.locator(".canvas").nth(lane).evaluate("element => element.textContent")

    def figure(self, name: str, lane: int = 0) -> str:
        term = self.page.get_by_text(name, exact=True)
        return self.page.locator(".lane").nth(lane).locator("dl > div", has=term).locator("dd").inner_text()

    def replay(self, step: int) -> None:
        """Moves the slider, as a finger would."""
        self.page.locator("#replay").fill(str(step))

    def screenshot(self, name: str) -> Path:
        path = self._shots / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def settings(self, **values: str) -> None:
        """Fills controls; underscores in names stand for hyphens."""
        for name, value in values.items():
            self.page.fill("#" + name.replace("_", "-"), value)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program; every server of these tests needs it, so that none starts in vain."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium on this machine; `make chromium` installs Debian's")
    return found


@pytest.fixture(scope="session")
def server(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("page") / "log") as running:
        yield running


# Of a module: while Playwright runs, the thread has an event loop, which keeps asyncio tests from running.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright, launched(playwright, chromium) as browser:
        yield browser


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are left: ``PAGE_SCREENSHOTS``, else among pytest's temporary folders."""
    named = os.environ.get("PAGE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(browser: Browser, server: Server, shots: Path) -> Iterator[Callable[..., Opened]]:
    """Opens pages; at the end none of them has complained or asked another host.

    ``complaints`` are parts of the console's messages that belong to the test; the other options are Playwright's.
    """
    made: list[tuple[Opened, tuple[str, ...]]] = []

    def make(at: Server = server, complaints: tuple[str, ...] = (), **options: Any) -> Opened:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        made.append((Opened(context.new_page(), at, shots), complaints))
        return made[-1][0]

    yield make
    for page, complaints in made:
        page.page.context.close()
        unexpected = [error for error in page.errors if not any(part in error for part in complaints)]
        assert unexpected == []
        assert page.foreign == []


@contextmanager
def changed_body(page: Page, change: dict[str, Any], path: str = "**/v1/completions") -> Iterator[None]:
    """Adds fields to requests, such as no control sets."""

    def alter(route: Route) -> None:
        route.continue_(post_data=route.request.post_data_json | change)

    page.route(path, alter)
    yield
    page.unroute(path, alter)


def request_of(page: Opened) -> dict[str, Any]:
    """The body in the curl command of the page."""
    words = shlex.split(page.page.locator("#curl").inner_text())
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    return body


def answer_of(server: Server, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Text and usage of the same request, asked without a stream."""
    plain = {key: value for key, value in body.items() if key not in ("stream", "stream_options", "diffusing")}
    chat = "messages" in body
    response = server.post("/v1/chat/completions" if chat else "/v1/completions", plain).json()
    choice = response["choices"][0]
    return choice["message"]["content"] if chat else choice["text"], response["usage"]
