"""The race: block-parallel against one token per forward."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.external.page.conftest import Opened, answer_of, request_of
from tests.support.server.served import Server

BLOCK = 32

# Notes, in milliseconds since Send is pressed, when each lane first shows a mask and a token.
WATCH = """() => {
  window.seen = {};
  document.getElementById("send").addEventListener("click", () => {
    const pressed = performance.now();
    const look = () => document.querySelectorAll(".lane").forEach((lane, i) => {
      for (const kind of ["masked", "token"]) {
        if (lane.querySelector(`.canvas .${kind}`)) {
          window.seen[`${kind} ${i}`] ??= performance.now() - pressed;
        }
      }
    });
    new MutationObserver(look).observe(document.getElementById("lanes"), { childList: true, subtree: true,
      attributes: true });
  }, { capture: true, once: true });
}"""


def test_a_race_shows_both(opened: Callable[..., Opened], server: Server) -> None:
    page = opened(viewport={"width": 1200, "height": 985})
    page.load()
    page.settings(steps="4")
    assert page.page.locator(".lane:visible").count() == 1
    page.page.check("#race")
    assert page.page.locator(".lane:visible").count() == 2
    page.run()
    body = request_of(page)
    assert page.canvas(0) == answer_of(server, body)[0]
    del body["max_steps_per_block"]
    slow, usage = answer_of(server, body | {"confidence_threshold": 1})
    assert page.canvas(1) == slow
    assert int(page.figure("denoise steps", 1)) == usage["denoise_steps"] > 2 * int(page.figure("denoise steps", 0))
    titles = page.page.locator(".lane h2").all_inner_texts()
    assert titles == ["This model", "The same, one token per forward"]
    steps = page.page.locator(".canvas").nth(1).locator("span > span[data-step]")
    found = steps.evaluate_all("all => all.slice(0, 32).map(one => Number(one.dataset.step))")
    assert sorted(found) == list(range(1, BLOCK + 1))
    status = page.page.locator("#status").inner_text()
    assert "Same text." in status or "The texts differ." in status
    page.replay(4)
    page.screenshot("race")


@pytest.mark.whole
def test_the_first_picture_of_a_race_comes_within_a_second(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.page.get_by_role("button", name="Race", exact=True).click()
    page.page.evaluate(WATCH)
    page.run()
    seen = page.page.evaluate("window.seen")
    assert set(seen) == {"masked 0", "masked 1", "token 0", "token 1"}
    assert max(seen["masked 0"], seen["masked 1"]) < 100  # The page knows how long a block is.
    assert max(seen.values()) < 1000


@pytest.mark.whole
def test_a_race_that_is_stopped_ends_both(opened: Callable[..., Opened], server: Server) -> None:
    page = opened()
    page.load()
    page.page.check("#race")
    before = server.metric("cdlm_requests_cancelled_total")
    page.settings(tau="1", max_tokens="1500", prompt="x " * 200)
    page.page.click("#send")
    expect(page.page.locator("#stop")).to_be_focused()
    expect(page.page.locator(".canvas .token").first).to_be_visible()
    page.page.keyboard.press("Escape")
    page.wait_end()
    expect(page.page.locator("#send")).to_be_focused()
    assert page.figure("finish", 0) == page.figure("finish", 1) == "stopped"
    server.wait_idle()
    assert server.metric("cdlm_requests_cancelled_total") == before + 2
