"""Sending, drawing, stopping, replaying."""

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest
from playwright.sync_api import Route, expect

from tests.external.page.conftest import Opened, answer_of, changed_body, request_of
from tests.support.matrix import matrix, some
from tests.support.server.served import Server

BLOCK = 32


@pytest.mark.parametrize(
    ("endpoint", "example"), matrix(["completion", "chat"], ["Apples", "remove_repeats"], strength=1)
)
def test_the_canvas_ends_as_the_answer(
    opened: Callable[..., Opened], server: Server, endpoint: str, example: str
) -> None:
    page = opened()
    page.load()
    page.page.get_by_role("button", name=example).click()
    page.send_as(endpoint)
    page.run()
    text, usage = answer_of(server, request_of(page))
    assert page.canvas() == text != ""
    assert page.figure("denoise steps") == str(usage["denoise_steps"])
    assert page.figure("tokens") == str(usage["completion_tokens"])
    assert page.figure("tokens per forward") == f"{usage['tokens_per_forward']:.2f}"
    assert float(page.figure("tokens/s")) > 0
    assert float(page.figure("steps per block")) >= 1
    assert page.figure("finish") == "stop"
    assert page.page.locator(".masked:visible").count() == 1  # That of the legend.
    page.screenshot(f"{example}-{endpoint}")


@pytest.mark.whole
def test_every_step_has_its_color(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.settings(tau="0.999")
    page.run()
    pairs = page.page.locator(".canvas .token").evaluate_all(
        "all => all.map(one => [Number(one.dataset.step), getComputedStyle(one).backgroundColor])"
    )
    colors: dict[int, set[str]] = {}
    for step, color in pairs:
        colors.setdefault(step, set()).add(color)
    assert len(colors) > 3
    assert all(len(of_step) == 1 for of_step in colors.values())
    early = [colors[step] for step in sorted(colors) if step <= 5]
    assert len(set(map(frozenset, early))) == len(early)
    shown = page.page.locator("#legend .swatch").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert set.union(*colors.values()) <= set(shown)
    assert len(set(shown)) == 8


@pytest.mark.whole
def test_replay_goes_back_to_the_masks(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.run()
    last = int(page.page.locator("#replay").get_attribute("max") or 0)
    text = page.canvas()
    assert last == int(page.figure("denoise steps"))
    page.replay(1)
    marks = page.page.locator(".canvas .masked").count()
    assert 0 < marks < BLOCK
    assert page.page.locator(".canvas .token").count() == BLOCK - marks
    assert page.figure("denoise steps") == "1"
    page.screenshot("after-one-step")
    page.replay(0)
    assert page.canvas() == ""
    page.replay(last - 1)
    assert page.canvas() != text
    page.replay(last)
    assert page.canvas() == text
    page.page.click("#play")
    expect(page.page.locator("#replay-at")).to_have_text(f"After step 2 of {last}.")
    expect(page.page.locator("#play")).to_have_text("Play", timeout=20_000)
    assert page.canvas() == text


@pytest.mark.parametrize("how", some(["button", "escape"], every=2))
def test_stop_ends_the_request_on_the_server(opened: Callable[..., Opened], server: Server, how: str) -> None:
    page = opened()
    page.load()
    before = server.metric("cdlm_requests_cancelled_total")
    page.settings(tau="1", max_tokens="1500")
    with changed_body(page.page, {"ignore_eos": True}):
        page.page.click("#send")
        expect(page.page.locator(".canvas .masked").first).to_be_visible()
        expect(page.page.locator(".canvas .token").nth(40)).to_be_visible(timeout=20_000)
        if how == "button":
            page.page.click("#stop")
        else:
            page.page.keyboard.press("Escape")
        page.wait_end()
    assert page.figure("finish") == "stopped"
    assert "stopped" in page.page.locator("#status").inner_text()
    assert page.page.locator("#error").inner_text() == ""
    assert int(page.figure("tokens")) > 20  # Some of those have no text.
    server.wait_idle()
    assert server.metric("cdlm_requests_cancelled_total") == before + 1
    page.settings(tau="", max_tokens="192")
    page.run()
    assert page.figure("finish") == "stop"


@pytest.mark.whole
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_command_does_the_same(opened: Callable[..., Opened], server: Server) -> None:
    page = opened()
    page.load()
    page.settings(tau="0.99", steps="9", max_tokens="70", temperature="0.5", seed="7")
    page.run()
    command = page.page.locator("#curl").inner_text()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    events = [part.removeprefix("data: ") for part in done.stdout.split("\n\n") if part]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == page.canvas()
    assert all("diffusing" in chunk["choices"][0] for chunk in chunks[:-1])


@pytest.mark.whole
def test_the_curl_command_quotes_what_a_shell_would_read(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    prompt = "it's \"so\" $HOME `id` \\ !!\n'; exit 1 #"
    page.settings(prompt=prompt, seed="3")
    body = request_of(page)
    assert (body["prompt"], body["seed"], body["model"]) == (prompt, 3, "cdlm-nano")
    assert {"confidence_threshold", "max_steps_per_block"}.isdisjoint(body)


@pytest.mark.whole
def test_the_slider_and_the_field_of_the_threshold_agree(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.page.locator("#tau-slide").fill("5")
    assert page.page.input_value("#tau") == "0.9"
    assert request_of(page)["confidence_threshold"] == 0.9
    page.settings(tau="0.97")
    assert page.page.input_value("#tau-slide") == "7"
    page.page.locator("#tau-slide").fill("0")
    assert page.page.input_value("#tau") == ""
    assert "confidence_threshold" not in request_of(page)


@pytest.mark.whole
def test_copy_puts_the_command_on_the_clipboard(opened: Callable[..., Opened]) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.load()
    page.page.click("#copy")
    expect(page.page.locator("#status")).to_have_text("Copied.")
    assert page.page.evaluate("navigator.clipboard.readText()") == page.page.locator("#curl").inner_text()


def events(*chunks: object) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def shown(text: str, tokens: list[str | None], finish: str | None = None, *, final: bool = True) -> dict[str, object]:
    steps = [None if token is None else place + 1 for place, token in enumerate(tokens)]
    diffusing = {"block": 0, "step": 1, "tokens": tokens, "steps": steps, "final": final}
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, "diffusing": diffusing}], "usage": None}


def answered(page: Opened, body: str) -> None:
    """Runs the page on a stream of ours."""

    def fulfill(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.page.route("**/v1/completions", fulfill)
    page.run()


def test_markup_from_a_model_stays_text(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    attack = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    answered(page, events(shown("", [attack, None]), shown(attack + "&lt;", [attack, "&lt;"], "stop")))
    assert page.canvas() == attack + "&lt;"
    assert page.page.locator(".canvas img, .canvas script").count() == 0
    assert page.page.title() == "cdlm-serve playground"


@pytest.mark.whole
def test_a_block_without_masks_whose_tokens_may_be_replaced_is_shown(opened: Callable[..., Opened]) -> None:
    """Its text has not come yet."""
    page = opened()
    page.load()
    answered(page, events(shown("", ["Tom", None]), shown("", ["Tom", " had"], final=False)))
    assert page.canvas() == "Tom had"


@pytest.mark.whole
def test_parts_of_characters_become_whole_at_the_end(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    tokens: list[str | None] = ["caf", "\ufffd", "\ufffd", " au", "lait", "", None]
    answered(page, events(shown("café au lait", tokens, "stop")))
    assert page.canvas() == "café au lait"
    kinds = page.page.locator(".canvas > span > span").evaluate_all("all => all.map(one => one.className)")
    assert [kind.split()[0] for kind in kinds] == ["token", "token", "joined", "token", "token", "token", "unused"]
    assert kinds[5].endswith(" blank")


def test_a_stream_that_breaks_off_says_so(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    answered(page, events(shown("", ["a", None])).removesuffix("data: [DONE]\n\n"))
    assert page.page.locator("#error").inner_text() == "The connection ended before the answer did."
    assert page.figure("finish") == "error"


@pytest.mark.whole
def test_an_error_within_a_stream_is_shown(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    error = {"error": {"message": "The engine stopped", "type": "server_error", "param": None, "code": None}}
    answered(page, events(shown("", ["a", None]), error))
    assert page.page.locator("#error").inner_text() == "The engine stopped"
