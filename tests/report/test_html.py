# SPDX-License-Identifier: LGPL-2.1-or-later
"""The HTML report as a file: what is in it whatever the target says, and how large it gets."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kernels import DEVICE, image, write
from tests.logs import BAD_PAGE, PAGE_FAULT, log
from vmemscope.collect import collect
from vmemscope.machine import Kernel
from vmemscope.report.documents.full import FullReport
from vmemscope.report.full import render_full, render_full_markdown
from vmemscope.report.html import render_html
from vmemscope.report.html.compound import draw
from vmemscope.rules.findings import Finding
from vmemscope.rules.rule import Severity
from vmemscope.vmemmap.cells import Cells

#: what a hostile kernel may call its processes and devices
HOSTILE = "<script>alert(1)</script>\"'&amp;\u001b[2J\u202e<img src=x onerror=alert(2)>"
#: bytes of a document, at most
LIMIT = 2 << 20

#: elements that nothing closes
_VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Elements, links and text of a document; checks that elements are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_on(scenario: str, directory: Path, kernel: str = "7.2") -> FullReport:
    return collect(Kernel.open_core(write(image(scenario, kernel), directory)))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> FullReport:
    """A report with pages, events, registers, findings and hostile names."""
    text = DEVICE + log(
        BAD_PAGE.format(comm=HOSTILE, pfn=0x100203),
        PAGE_FAULT.format(pfn=0x100600, other=0x100601),
        HOSTILE,
        f"dax_pmem {HOSTILE}",
    )
    text += '[crash]\nregisters = {RDI = "{page:0x100203}"}\n'
    text += '[[fault]]\nkind = "hole"\npagemap = "dax0.0"\ncompound = 3\npage = 2\n'
    found = report_on(text, tmp_path_factory.mktemp("html"))
    assert found.pgmap is not None
    evil = Finding("hole", Severity.ERROR, 1, None, HOSTILE, HOSTILE, HOSTILE)
    pagemap = replace(found.pgmap.pagemaps[0], name=HOSTILE, reason=HOSTILE, findings=(evil,))
    return replace(found, pgmap=replace(found.pgmap, pagemaps=(pagemap,)))


@pytest.fixture(scope="module")
def document(report: FullReport) -> str:
    return render_html(report)


def test_nothing_of_the_target_is_markup(document: str) -> None:
    page = Page(document)
    assert not page.named("script")
    assert not page.named("img")
    assert not page.named("iframe")
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    text = "".join(page.text)
    assert "<script>alert(1)</script>" in text
    # Control characters, and those that turn the direction of text.
    assert "\x1b" not in document
    assert "\u202e" not in document
    assert "\\x1b[2J" in text


def test_a_policy_allows_the_style_of_the_file_only(document: str) -> None:
    page = Page(document)
    (policy,) = [
        meta["content"] or ""
        for meta in page.named("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    style = re.search(r"<style>(.*?)</style>", document, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert document.count("<style") == 1


def test_links_lead_to_parts_of_the_document(document: str) -> None:
    page = Page(document)
    targets = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(targets) == len(set(targets))
    links = [attributes["href"] or "" for attributes in page.named("a")]
    assert len(links) > 10
    assert {link[1:] for link in links if link.startswith("#")} <= set(targets)
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?://", document)


def test_pictures_have_their_numbers_as_text(document: str) -> None:
    page = Page(document)
    shown = [one for one in page.named("svg") if one.get("role") == "img"]
    assert len(shown) > 5
    assert all(one.get("aria-label") for one in shown)


def test_text_and_markdown_have_no_control_characters(report: FullReport) -> None:
    for text in (render_full(report, 100), render_full_markdown(report, 100)):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert text.count("<script>") > 0
    # In Markdown such text is in code, where it is no markup.
    outside = re.sub(r"```.*?```", "", render_full_markdown(report, 100), flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<script", outside)


def test_a_machine_with_many_devices_makes_a_small_document(report: FullReport) -> None:
    assert report.pgmap is not None
    pagemap = report.pgmap.pagemaps[0]
    findings = pagemap.findings * 32
    many = tuple(
        replace(pagemap, address=0x1000 + number, findings=findings, name=f"dax{number}.0")
        for number in range(500)
    )
    # 16 TiB of compound pages of 2 MiB, in as many pieces as sections.
    pieces = pagemap.detail.pieces
    size = pieces[-1].end - pieces[0].start
    parts = tuple(
        replace_piece(piece, number * size) for number in range(1 << 13) for piece in pieces
    )
    geometry = pagemap.detail.geometry
    cells = Cells(parts, 8, (), geometry)
    large = replace(pagemap, detail=replace(pagemap.detail, pieces=parts, cells=cells.unread()))
    big = replace(report, pgmap=replace(report.pgmap, pagemaps=(large, *many)))
    text = render_html(big)
    assert len(text.encode()) < LIMIT
    assert "452 more pagemaps not drawn" in text or "453 more pagemaps not drawn" in text
    whole = Page(text)
    strips = [one for one in whole.named("svg") if (one.get("class") or "").startswith("strip")]
    assert len(strips) == 48
    drawn = len(whole.named("rect")) + len(whole.named("line")) + len(whole.named("path"))
    assert drawn / 48 < 300


def replace_piece(piece: object, offset: int) -> object:
    return replace(piece, start=piece.start + offset, end=piece.end + offset)  # type: ignore


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
@pytest.mark.parametrize("scenario", ["mixed", "hugetlb", "empty", "early-1g", "several-ranges"])
def test_every_kind_of_kernel_has_a_document(scenario: str, kernel: str, tmp_path: Path) -> None:
    found = report_on(scenario, tmp_path, kernel)
    page = Page(render_html(found))
    text = " ".join("".join(page.text).split())
    for line in found.verdict.lines:
        assert " ".join(line.split()) in text
    for one in found.pgmap.pagemaps if found.pgmap else ():
        assert one.label in text


def test_the_first_compound_page_is_drawn_as_mapped(tmp_path: Path) -> None:
    """Eight pages, of which the last seven share a frame (2 MiB on x86-64)."""
    found = report_on(DEVICE, tmp_path)
    assert found.pgmap is not None
    (pagemap,) = found.pgmap.pagemaps
    drawing = draw(pagemap)
    assert drawing is not None
    head, tail = (span.pfn for span in pagemap.detail.first)
    assert [one.label for one in drawing.frames] == [f"pfn {head:#x}", f"pfn {tail:#x}"]
    assert [one.label for one in drawing.pages] == [
        "page 0", "page 1", "page 2", "pages 3-6", "page 7"
    ]  # fmt: skip
    up = drawing.frames[1].y
    assert [line.y2 for line in drawing.lines] == [drawing.frames[0].y, up, up, up, up]
    assert drawing.text == "pages 0 to 7 map 2 frames"
