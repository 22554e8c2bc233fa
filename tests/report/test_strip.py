# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The strip of a device in the HTML report, column by column.

Expected is what the page tables say of each page alone (:func:`tests.test_cells.expected_of`),
the addresses of findings, and the sections that the kernel divides memory into.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kernels import PAGE, STRUCT_PAGE, Dumps, View
from tests.test_cells import expected_of
from vmemscope.kernel.dev_pagemap import PhysicalRange
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import PagemapReport
from vmemscope.report.html import render_html
from vmemscope.report.html.strip import HEIGHT, Strip, draw_strip
from vmemscope.rules.findings import Finding
from vmemscope.rules.rule import Severity
from vmemscope.vmemmap.cells import HOLE, OWN, SHARED, UNREADABLE, Cells
from vmemscope.vmemmap.layout import Piece, Populated

from .test_html import LIMIT, Page, report_on

SECTION = 128 << 20
LOOKS = {
    HOLE: "hole",
    UNREADABLE: "unknown",
    21: "leaf",
    30: "leaf-2",
    OWN: "own",
    SHARED: "shared",
}
#: all that a strip can show, in two devices of which one has its memory map on the device
DAMAGED = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "4G"
align = "2M"
[[pagemap]]
name = "dax1.0"
type = "devdax"
start = 0x208000000
size = "768M"
align = "2M"
map = "dev"
[[fault]]
kind = "hole"
pagemap = "dax0.0"
compound = 300
page = 2
[[fault]]
kind = "unreadable-table"
pagemap = "dax0.0"
compound = 900
page = 0
level = "pte"
[[fault]]
kind = "huge-leaf"
pagemap = "dax0.0"
section = 21
[[fault]]
kind = "missing-dedup"
pagemap = "dax0.0"
compound = 1800
"""
SCENARIOS = [
    (DAMAGED, "6.12"), ("mixed", "7.2"), ("several-ranges", "6.1"), ("interleaved-ranges", "6.12"),
    ("partial-sections", "6.1"), ("altmap", "7.2"), ("altmap-ram", "6.1"), ("hole-leaf", "6.12"),
    ("early-1g", "6.12"), ("unreadable-table", "7.2"), ("devdax-2m", "next"),
]  # fmt: skip


def columns_of(strip: Strip) -> list[tuple[float, float, dict[str, int]]]:
    """Return the columns of a strip by their boxes: where each is, and heights by look."""
    found: dict[tuple[float, float], dict[str, tuple[int, int]]] = {}
    for layer in strip.layers:
        boxes = re.findall(r"M([\d.]+) (\d+)V(\d+)H([\d.]+)V\2z", layer.path)
        assert "".join(f"M{a} {t}V{b}H{c}V{t}z" for a, t, b, c in boxes) == layer.path
        for left, top, bottom, right in boxes:
            found.setdefault((float(left), float(right)), {})[layer.look] = int(top), int(bottom)
    for column in found.values():
        # One upon another, from the top to the bottom.
        edges = sorted(column.values())
        assert (edges[0][0], edges[-1][1]) == (0, HEIGHT)
        assert all(before[1] == after[0] for before, after in pairwise(edges))
    return [
        (left, right, {look: bottom - top for look, (top, bottom) in column.items()})
        for (left, right), column in sorted(found.items())
    ]


def drawn(one: PagemapReport, findings: tuple[Finding, ...] | None = None) -> Strip:
    return draw_strip(one, one.findings if findings is None else findings, SECTION)


@pytest.mark.parametrize(("scenario", "kernel"), SCENARIOS)
def test_each_column_shows_what_its_pages_are(scenario: str, kernel: str, dumps: Dumps) -> None:
    view = dumps.view(scenario, kernel)
    for one in dumps.audited(scenario, kernel).pgmap.pagemaps:
        ranges = [(r.start // PAGE, (r.end + 1) // PAGE) for r in one.detail.ranges]
        pages = expected_of(view, ranges)
        strip = drawn(one)
        columns = columns_of(strip)
        assert (columns[0][0], columns[-1][1]) == (0, 1000)
        assert all(before[1] == after[0] for before, after in pairwise(columns))
        cells = one.detail.cells
        assert cells is not None
        for start, end in pairwise(cells.bounds.tolist()):
            there = Counter(LOOKS[row] for row in pages[start:end])
            middle = (start + end) / 2 * 1000 / len(pages)
            (shown,) = [heights for left, right, heights in columns if left < middle < right]
            # Whatever is there can be seen, however little it is.
            assert shown.keys() == there.keys()
            assert min(shown.values()) >= 3
            for look, height in shown.items():
                share = there[look] / (end - start) * HEIGHT
                assert abs(height - share) <= 3.5 * len(shown)
        total = Counter(LOOKS[row] for row in pages)
        texts = {layer.look: layer.text for layer in strip.layers}
        assert {look: int(text.split()[0]) for look, text in texts.items()} == total


def test_findings_are_at_their_places(dumps: Dumps) -> None:
    one, other = dumps.audited(DAMAGED, "6.12").pgmap.pagemaps
    findings = (*one.findings, *other.findings)
    strip = drawn(one, findings)
    first, pages = 0x100000, 16384
    places = Counter[int]()
    for finding in one.findings:
        assert finding.vaddr is not None
        vpage = (finding.vaddr - View(dumps.core(DAMAGED, "6.12")).vmemmap) // PAGE
        places[vpage - first * STRUCT_PAGE // PAGE] += 1
    assert len(places) == 3
    half = 1000 / pages * 88 / 2
    for position in places:
        (mark,) = [m for m in strip.marks if abs(m.x - position * 1000 / pages) <= half + 0.01]
        assert mark.severity == "error"
    assert len(strip.marks) == 3
    assert {name for mark in strip.marks for name in re.findall(r"error (\S+)", mark.text)} == {
        "hole", "leaf-size", "not-deduplicated"
    }  # fmt: skip
    assert drawn(other, findings).marks == []


def test_the_worst_of_many_findings_leads(dumps: Dumps) -> None:
    one, _ = dumps.audited(DAMAGED, "6.12").pgmap.pagemaps
    start = one.vmemmap.start
    assert start is not None
    several = [
        Finding("hole", severity, start + 64 * number, None, None, None, "")
        for number, severity in enumerate([Severity.NOTE] * 5 + [Severity.ERROR, Severity.WARNING])
    ]
    outside = Finding("hole", Severity.ERROR, start - 1, None, None, None, "")
    behind = Finding("hole", Severity.ERROR, one.vmemmap.end, None, None, None, "")
    nowhere = Finding("hole", Severity.ERROR, None, 5, None, None, "")
    strip = drawn(one, (*several, outside, behind, nowhere))
    (mark,) = strip.marks
    assert mark.severity == "error"
    assert mark.text.endswith("; 4 more")
    assert strip.text.endswith("; 7 findings")
    assert strip.parts[0].text.endswith("7 findings")


def test_sections_and_ranges_have_their_borders(dumps: Dumps) -> None:
    for scenario, kernel in SCENARIOS[1:5]:
        for one in dumps.audited(scenario, kernel).pgmap.pagemaps:
            ranges = sorted((r.start, r.end + 1) for r in one.detail.ranges)
            total = sum(-(-end // PAGE * 64 // PAGE) - start // PAGE * 64 // PAGE
                        for start, end in ranges)  # fmt: skip
            ticks, breaks, before = [], [], 0
            for number, (start, end) in enumerate(ranges):
                if number and ranges[number - 1][1] != start:
                    breaks.append(before / total * 1000)
                for border in range(start, end, SUBSECTION):
                    if border % SECTION == 0 and border != start:
                        at = before + (border - start) // 64 / PAGE
                        ticks.append(at / total * 1000)
                before += (end - start) // PAGE * 64 // PAGE
            strip = drawn(one)
            assert strip.ticks == pytest.approx(ticks)
            assert strip.breaks == pytest.approx(breaks)
            sections = {p // SECTION for s, e in ranges for p in range(s, e, SUBSECTION)}
            assert f" for {len(sections)} section" in strip.text


SUBSECTION = 2 << 20


def test_numbers_stand_beside_it(dumps: Dumps) -> None:
    """All parts in words, with addresses that go on from one to the next."""
    one, _ = dumps.audited(DAMAGED, "6.12").pgmap.pagemaps
    strip = drawn(one)
    assert not strip.parts_left_out
    bounds = [tuple(int(a, 16) for a in part.addresses.split("-")) for part in strip.parts]
    assert (bounds[0][0], bounds[-1][1] + 1) == (one.vmemmap.start, one.vmemmap.end)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(bounds))
    counted = Counter[str]()
    for part in strip.parts:
        for number, words in re.findall(r"(\d+) pages? ([^,]+)", part.text):
            counted[words] += int(number)
    assert counted == {
        words: int(number)
        for number, words in (re.fullmatch(r"(\d+) pages? (.*)", x.text).groups()  # type: ignore
                              for x in strip.layers)
    }  # fmt: skip


@pytest.mark.parametrize("damaged", [False, True])
def test_sixteen_tebibytes_take_a_few_hundred_elements(damaged: bool, tmp_path: Path) -> None:
    """Eight million compound pages; then nothing alike anywhere, on as many devices as drawn."""
    report = report_on(DAMAGED, tmp_path, "6.12")
    assert report.pgmap is not None
    one = report.pgmap.pagemaps[0]
    detail = one.detail
    (span,) = detail.ranges
    large = PhysicalRange(span.start, span.start + (1 << 44) - 1)
    first = detail.pieces[0].start
    piece = Piece(Populated.COMPOUND, first, first + (1 << 26), first, 0)
    levels = Kernel.open_core(str(tmp_path / "vmcore")).vmemmap.table.levels
    cells = Cells([piece], 8, levels, detail.geometry)
    cells.add_compounds(first, 1 << 23, 8, piece, False)
    findings = one.findings
    if damaged:
        cells.pages[HOLE] += range(1, len(cells.pages[0]) + 1)
        cells.pages[HOLE, ::2] *= 600
        cells.pages[UNREADABLE, ::3] += 77777
        cells.pages[SHARED] -= cells.pages[HOLE] + cells.pages[UNREADABLE]
        assert (cells.pages >= 0).all()
        findings = tuple(
            Finding("hole", Severity.ERROR, detail.geometry.address(first + n * 40961), None,
                    "x" * 99, "y", "z") for n in range(1600)
        )  # fmt: skip
    changed = replace(detail, ranges=(large,), pieces=(piece,), cells=cells)
    many = tuple(
        replace(one, address=0x1000 + number, detail=changed, findings=findings)
        for number in range(48 if damaged else 1)
    )
    text = render_html(replace(report, pgmap=replace(report.pgmap, pagemaps=many)))
    assert len(text.encode()) < LIMIT
    page = Page(text)
    strip = text[text.index('<svg class="strip') :]
    strip = strip[: strip.index("</svg>")]
    assert strip.count("<") / 2 < 500
    elements = page.named("rect") + page.named("line") + page.named("path")
    assert len(elements) / len(many) < 300
    assert "67108864 pages of vmemmap, 256 GiB, for 131072 sections" in text


def test_a_pagemap_without_a_range_has_no_strip(dumps: Dumps) -> None:
    found = [
        one
        for scenario in ("range-inverted", "nr-range-absurd", "xarray-stray")
        for one in dumps.audited(scenario, "6.12").pgmap.pagemaps
        if not one.detail.ranges
    ]
    assert found
    for one in found:
        assert drawn(one) == Strip("none of its vmemmap was audited")


def test_what_changes_under_the_audit_is_drawn_as_not_read(dumps: Dumps) -> None:
    one = dumps.audited("hole", "6.12").pgmap.pagemaps[0]
    assert one.detail.cells is not None
    detail = replace(one.detail, cells=one.detail.cells.unread())
    (layer,) = drawn(replace(one, detail=detail)).layers
    assert layer.look == "unknown"
    assert layer.text == f"{one.vmemmap.pages} pages not read"


def test_a_reader_hears_the_numbers(tmp_path: Path) -> None:
    report = report_on(DAMAGED, tmp_path, "6.12")
    page = Page(render_html(report))
    labels = [one["aria-label"] or "" for one in page.named("svg") if one.get("role") == "img"]
    assert any(
        "16384 pages of vmemmap" in text
        and all(words in text for words in ("1 page not mapped", "512 pages not read"))
        for text in labels
    )
