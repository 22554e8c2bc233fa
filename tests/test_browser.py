# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The HTML report in a real browser: Debian's Chromium, driven by Playwright.

Nothing here is skipped: what can't run is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmemscope.cli.main import main

from .kernels import DEVICE, image, write
from .logs import BAD_PAGE, MEMORY_FAILURE, PAGE_FAULT, log
from .report.test_html import HOSTILE

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: a document for each kind of verdict
DOCUMENTS = {
    "hostile": DEVICE
    + log(
        BAD_PAGE.format(comm=HOSTILE, pfn=0x100203),
        MEMORY_FAILURE.format(pfn=0x300),
        PAGE_FAULT.format(pfn=0x100600, other=0x100601),
        "x" * 2000,
    )
    + '[crash]\nregisters = {RDI = "{page:0x100203}"}\n'
    + '[[fault]]\nkind = "hole"\npagemap = "dax0.0"\ncompound = 3\npage = 2\n',
    "mixed": "mixed",
    "hugetlb": "hugetlb",
    "empty": "empty",
    "name-escape": "name-escape",
    "several-faults": "several-faults",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=DOCUMENTS)
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("browser")
    kernel = "6.1" if request.param.startswith(("name", "several")) else "7.2"
    core = write(image(DOCUMENTS[request.param], kernel), directory)
    path = directory / "report.html"
    assert main(["report", "-c", core, "-o", str(path), "-q"]) in (0, 1, 4)
    return path


class Opened:
    """A page, and what the browser said and asked for while it showed it."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append("a dialog"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_shown(browser: Any, document: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, document, width, scheme)
    page = opened.page
    try:
        assert opened.said == []
        assert opened.asked == [document.as_uri()]
        # It fits, nothing needs to be scrolled sideways.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The verdict is on the first screen.
        assert page.locator(".verdict .lead").bounding_box()["y"] < 900
        light, dark = _brightness(page, "color"), _brightness(page, "background-color")
        # Dark text on light paper, or the other way round, with contrast.
        assert (light < dark) == (scheme == "light")
        assert abs(light - dark) > 150
        for text in page.locator("svg.compound text").all():
            box = text.bounding_box()
            assert box["height"] > 8
            assert box["x"] + box["width"] <= width
    finally:
        page.close()


def _brightness(page: Any, name: str) -> float:
    color = page.evaluate(f"getComputedStyle(document.body).getPropertyValue('{name}')")
    return sum(map(float, color.removeprefix("rgb(").removesuffix(")").split(", "))) / 3


def test_every_link_works(browser: Any, document: Path) -> None:
    opened = Opened(browser, document, 1280, "light")
    page = opened.page
    try:
        links = page.locator("a:not(.skip)").all()
        assert len(links) > 5
        for link in links:
            if not link.is_visible():
                continue
            target = link.get_attribute("href")
            link.click()
            shown = page.locator(f'[id="{target[1:]}"]')
            # The browser opens the closed part that it is in.
            assert shown.is_visible(), target
            assert page.url.endswith(target)
        assert opened.said == []
    finally:
        page.close()


def test_hostile_names_stay_text(browser: Any, document: Path) -> None:
    opened = Opened(browser, document, 1280, "light")
    page = opened.page
    try:
        assert page.locator("script, img, iframe, object, embed, form, base").count() == 0
        if "\\x1b[2J\\u202e" in document.read_text():
            assert "<script>alert(1)</script>" in page.locator("body").inner_text()
        assert opened.said == []
    finally:
        page.close()


def test_scripts_do_not_run(browser: Any, document: Path, tmp_path: Path) -> None:
    """If text of the target were markup, the policy would stop it all the same."""
    text = document.read_text()
    assert "</main>" in text
    damaged = tmp_path / "damaged.html"
    damaged.write_text(
        text.replace("</main>", "<script>document.title = 'run'</script><img src=x></main>")
    )
    opened = Opened(browser, damaged, 1280, "light")
    try:
        assert opened.page.title() != "run"
        assert any("Content Security Policy" in line for line in opened.said)
    finally:
        opened.page.close()


def test_it_prints(browser: Any, document: Path) -> None:
    opened = Opened(browser, document, 1280, "dark")
    page = opened.page
    try:
        page.emulate_media(media="print")
        # Black on white, whatever the scheme.
        assert _brightness(page, "color") < 50
        assert page.pdf().startswith(b"%PDF")
    finally:
        page.close()
