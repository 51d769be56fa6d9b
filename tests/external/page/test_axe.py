"""The page under axe-core, the rules of which stand for WCAG and good practice."""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import expect

from tests.external.page.conftest import Opened
from tests.support.matrix import some

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def violations(page: Opened) -> list[str]:
    found = Axe().run(page.page).response
    assert len(found["passes"]) > 20
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


@pytest.mark.parametrize(
    ("scheme", "options"), some([("dark", PHONE), ("light", {}), ("light", PHONE), ("dark", {})], every=4)
)
def test_nothing_is_violated(opened: Callable[..., Opened], scheme: str, options: dict[str, Any]) -> None:
    page = opened(color_scheme=scheme, reduced_motion="reduce", complaints=("status of 400",), **options)
    page.load()
    assert violations(page) == []
    page.page.check("#numbers")
    page.page.get_by_role("button", name="Race", exact=True).click()
    page.run()
    assert violations(page) == []
    page.send_as("chat")
    for question in ("hello", "hello again"):
        page.settings(prompt=question, max_tokens="40")
        page.run()
    page.page.get_by_role("button", name="Edit turn 1").click()
    assert violations(page) == []
    page.page.get_by_role("button", name="Infill code").click()
    page.settings(tau="0")
    page.run()
    expect(page.page.locator("#error")).to_contain_text("confidence_threshold")
    page.page.evaluate("document.getElementById('key-form').hidden = false")
    assert violations(page) == []


@pytest.mark.whole
def test_violations_are_found(opened: Callable[..., Opened]) -> None:
    page = opened()
    page.load()
    page.page.evaluate("document.querySelector('label[for=seed]').textContent = ''")
    page.page.evaluate("document.getElementById('seed').placeholder = ''")
    assert any(one.startswith("label: ") for one in violations(page))
