"""What everybody can use: contrast, keyboard, phones, little motion."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.external.page.conftest import Opened

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}

# Every visible element with text of its own: its color and that of what lies behind it, as channels 0 to 255.
COLORS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const [red, green, blue, alpha = 1] = channels(getComputedStyle(element).backgroundColor);
      if (alpha === 1) return [red, green, blue];
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.disabled)
    .filter((one) => one.value || [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => [`${one.tagName}.${one.className}#${one.id}`, channels(getComputedStyle(one).color), behind(one)]);
}"""


def luminance(channels: list[float]) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.whole
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened: Callable[..., Opened], scheme: str) -> None:
    page = opened(color_scheme=scheme, complaints=("status of 400",))
    page.load()
    page.page.check("#race")
    page.run()
    page.screenshot(scheme)
    found = page.page.evaluate(COLORS)
    assert len(found) > 60
    page.settings(tau="0")
    page.run()
    found += [item for item in page.page.evaluate(COLORS) if item[0].endswith("#error")]
    assert found[-1][0] == "P.#error"
    weak = [item for item in found if contrast(item[1], item[2]) < 4.5]
    assert weak == []
    behind = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert behind == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 27)"}[scheme]


@pytest.mark.whole
def test_colors_of_steps_differ_in_lightness(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    swatches = page.page.locator("#legend .swatch").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor.match(/\\d+/g).map(Number))"
    )
    levels = [luminance(swatch) for swatch in swatches]
    assert levels == sorted(levels)
    assert all(after > before * 1.15 for before, after in zip(levels, levels[1:], strict=False))


@pytest.mark.whole
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_only(opened: Callable[..., Opened], scheme: str) -> None:
    page = opened(color_scheme=scheme, **PHONE)
    page.load()
    page.page.check("#race")
    page.page.check("#numbers")
    page.settings(prompt="x" * 200)
    page.page.get_by_role("button", name="Apples").click()
    page.run()
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360
    page.send_as("chat")
    page.settings(prompt="y" * 200)
    page.run()
    page.page.get_by_role("button", name="Edit turn 1").click()
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360
    small = page.page.locator("button:visible, input:visible").evaluate_all(
        "all => all.filter(one => (one.closest('label') ?? one).getBoundingClientRect().height < 40).map(one => one.id)"
    )
    assert small == []
    page.page.locator("#lanes").scroll_into_view_if_needed()
    page.screenshot(f"phone-{scheme}")


@pytest.mark.whole
@pytest.mark.parametrize(("options", "endpoint"), [({}, "completion"), ({}, "chat"), (PHONE, "completion")])
def test_nothing_moves_while_an_answer_comes(
    opened: Callable[..., Opened], options: dict[str, Any], endpoint: str
) -> None:
    page = opened(**options)
    page.load()
    page.send_as(endpoint)
    page.page.check("#race")
    places = """() => [...document.querySelectorAll(".panel:not([hidden]), .canvas, dl")]
        .map((one) => one.getBoundingClientRect()).map((box) => [box.left, box.top + scrollY, box.width, box.height])"""
    before = page.page.evaluate(places)
    page.run()
    assert page.page.evaluate(places) == before


def test_the_keyboard_is_enough(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    reached: list[str] = []
    for _ in range(60):
        page.page.keyboard.press("Tab")
        name, outline = page.page.evaluate(
            "() => [document.activeElement.id || document.activeElement.innerText,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if page.page.evaluate("document.activeElement === document.body"):
            break
        reached.append(name)
        assert outline == "solid", name
    asking = {"as-completion", "Apples", "Race", "prompt", "suffix", "race", "send"}
    settings = {"tau", "tau-slide", "steps", "max-tokens", "seed", "schema", "reset"}
    assert asking | settings | {"copy", "link"} <= set(reached)
    assert reached.index("prompt") < reached.index("send") < reached.index("copy") < reached.index("reset")
    page.page.focus("#seed")
    page.page.keyboard.press("Control+Enter")
    expect(page.page.locator("#status")).to_contain_text("tokens in", timeout=60_000)
    expect(page.page.locator("#replay")).to_be_enabled(timeout=60_000)  # The status counts tokens on the way, too.
    assert page.canvas() != ""
    page.page.focus("#replay")
    page.page.keyboard.press("Home")
    assert page.canvas() == ""


@pytest.mark.whole
def test_every_control_has_a_name(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    nameless = page.page.locator("input, textarea, button, [role=region]").evaluate_all(
        "all => all.filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))"
        ".map((one) => one.id)"
    )
    assert nameless == []
    assert page.page.locator("#status").get_attribute("role") == "status"
    assert page.page.locator("#error").get_attribute("role") == "alert"


@pytest.mark.whole
@pytest.mark.parametrize(("motion", "animation"), [("reduce", "none"), ("no-preference", "arrive")])
def test_motion_can_be_reduced(opened: Callable[..., Opened], motion: str, animation: str) -> None:
    page = opened(reduced_motion=motion)
    page.load()
    page.run()
    name = page.page.locator(".canvas .token").first.evaluate("one => getComputedStyle(one).animationName")
    assert name == animation
