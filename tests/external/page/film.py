"""Films the real page on a real server: docs/playground.webp and the still docs/playground.png (`make animation`)."""

import io
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from tests.external.page.browser import find_chromium, launched
from tests.support.places import ROOT
from tests.support.server.served import running_server

VIEWPORT: ViewportSize = {"width": 1200, "height": 740}
# Whole runs are recorded by the page at the speed of this machine; the film shows their steps at a speed of its own.
RACE_STEP_MS = 45
INFILL_STEP_MS = 450
STILL_STEP = 4


@dataclass
class Film:
    """Pictures of a page, each with how long it is shown in milliseconds."""

    page: Page
    pictures: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)

    def look(self) -> Image.Image:
        """What the upper end of the page looks like now."""
        self.page.evaluate("scrollTo(0, 0)")
        return Image.open(io.BytesIO(self.page.screenshot(animations="disabled"))).convert("RGB")

    def shoot(self, duration_ms: int) -> None:
        """Adds what the page looks like now."""
        picture = self.look()
        if self.pictures and picture == self.pictures[-1]:
            self.durations[-1] += duration_ms
        else:
            self.pictures.append(picture)
            self.durations.append(duration_ms)

    def preset(self, name: str) -> None:
        """Presses a preset and sends it; the page has then recorded every step."""
        self.page.get_by_role("button", name=name, exact=True).click()
        self.shoot(900)
        self.page.click("#send")
        expect(self.page.locator("#send")).to_be_enabled(timeout=120_000)
        expect(self.page.locator("#error")).to_be_empty()

    def show(self, step: int) -> None:
        """Moves the slider of the replay, where it is."""
        move = "(one, step) => { one.value = step; one.dispatchEvent(new Event('input', { bubbles: true })); }"
        self.page.locator("#replay").evaluate(move, step)

    def steps(self, duration_ms: int, every: int = 1) -> None:
        """Shows what the page recorded, step by step."""
        last = int(self.page.locator("#replay").get_attribute("max") or 0)
        for step in [*range(0, last, every), last]:
            self.show(step)
            self.shoot(duration_ms * every)

    def save(self, path: Path) -> None:
        """Writes an animated WebP that begins again at its end."""
        first, *others = self.pictures
        form = {"lossless": True, "method": 6, "quality": 80}
        first.save(path, save_all=True, append_images=others, duration=self.durations, loop=0, **form)


def film(page: Page, url: str) -> tuple[Film, Image.Image]:
    """Ten seconds of the playground on cdlm-nano, a race and an infilled sum, and a still of the race."""
    page.goto(url + "/")
    expect(page.locator("#model")).to_have_text("cdlm-nano")
    made = Film(page)
    made.preset("Race")
    made.steps(RACE_STEP_MS, every=2)
    made.shoot(900)
    made.show(STILL_STEP)
    still = made.look()
    made.preset("Infill a sum")
    made.steps(INFILL_STEP_MS)
    made.shoot(1300)
    return made, still


def main(folder: Path) -> None:
    """Writes both pictures into a folder."""
    program = find_chromium()
    if program is None:
        sys.exit("Chromium is needed; `make chromium` installs Debian's.")
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(Path(scratch) / "log") as server,
        sync_playwright() as playwright,
        launched(playwright, program) as browser,
    ):
        made, still = film(browser.new_page(viewport=VIEWPORT, color_scheme="light"), server.url)
    made.save(folder / "playground.webp")
    still.quantize(128).save(folder / "playground.png", optimize=True)
    sys.stdout.write(f"{len(made.pictures)} pictures, {sum(made.durations) / 1000:.1f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
