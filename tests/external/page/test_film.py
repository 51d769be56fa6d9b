"""The film of the page in the documentation."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.external.page.conftest import Opened
from tests.external.page.film import VIEWPORT, film
from tests.support.places import ROOT


def duration_s(path: Path) -> float:
    """How long an animated image lasts."""
    with Image.open(path) as image:
        total = 0.0
        for frame in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(frame)
            image.load()
            total += image.info["duration"]
    return total / 1000


def test_the_film_in_the_documentation_is_short_and_small() -> None:
    path = ROOT / "docs" / "playground.webp"
    assert path.stat().st_size <= 1.5e6
    assert 8 <= duration_s(path) <= 12
    with Image.open(path) as image:
        assert image.size == tuple(VIEWPORT.values())


@pytest.mark.whole
def test_the_page_can_be_filmed(opened: Callable[..., Opened]) -> None:
    page = opened(viewport=VIEWPORT)
    made, still = film(page.page, page.server.url)
    assert len(made.pictures) > 40
    assert 8 <= sum(made.durations) / 1000 <= 12
    assert still not in (made.pictures[0], made.pictures[-1])
    assert page.canvas() == "Gives away 8: 50-8=42."
