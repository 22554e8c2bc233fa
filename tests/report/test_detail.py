# SPDX-License-Identifier: LGPL-2.1-or-later
"""One pagemap in detail: all that is known of it, in words and numbers."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from vmemscope.report import render_one
from vmemscope.report.documents.pgmap import PagemapReport, Range
from vmemscope.rules.rule import Severity
from vmemscope.vmemmap.layout import Piece, Populated

from .builders import ALTMAP, TARGET, finding, hostile, of_every_kind, pagemap_report, report


def lines_of(one: PagemapReport, width: int = 100, **rest: object) -> list[str]:
    return render_one(report(one, **rest), one, width).splitlines()  # type: ignore[arg-type]


def fields(one: PagemapReport) -> dict[str, str]:
    """Get the fields, several values of one joined by newlines."""
    lines = lines_of(one)
    found: dict[str, str] = {}
    name = ""
    for line in lines[3 : lines.index("expected layout") - 1]:
        name, before = (line[2:16].strip(), "") if line[2] != " " else (name, found[name] + "\n")
        found[name] = before + line[18:]
    return found


def section(lines: list[str], title: str) -> list[str]:
    start = lines.index(title) + 1
    return [line.strip() for line in lines[start : lines.index("", start)]]


def test_fields() -> None:
    assert lines_of(pagemap_report())[:3] == [
        "core dump vmcore: Linux 6.1.0-56-amd64, x86_64, 4 KiB pages, types from BTF",
        "",
        "dax0.0",
    ]
    assert fields(pagemap_report()) == {
        "dev_pagemap": "0xffff888101234000",
        "type": "generic",
        "vmemmap_shift": "9, compound pages of 2 MiB, 8 pages of vmemmap each",
        "altmap": "none",
        "range": "0x140000000-0x15fffffff (512 MiB)",
        "vmemmap": "0xffffea0005000000-0xffffea00057fffff",
        "pages": "2048: 2048 mapped, 0 not mapped, 0 unreadable",
        "leaves": "2048 of 4 KiB",
        "frames": "512, expected 512",
        "saved": "6 MiB",
        "state": "deduplicated",
    }


def test_fields_of_what_is_not_deduplicated() -> None:
    one = pagemap_report(
        None,
        altmap=ALTMAP,
        unmapped=1,
        unreadable=2,
        savable=3 << 20,
        sharing={1: 2045},
        leaf_sizes={2 << 20: 3, 4096: 509},
        state="not-optimized",
        reason="the memory map lies on the device (altmap)",
    )
    found = fields(one)
    assert found["altmap"] == (
        "base_pfn 0x120000, end_pfn 0x14ffff, reserve 2, free 3582, align 510, alloc 3072"
    )
    assert found["pages"] == "2048: 2045 mapped, 1 not mapped, 2 unreadable"
    assert found["leaves"] == "509 of 4 KiB, 3 of 2 MiB"
    assert found["could save"] == "3 MiB more"
    assert found["state"] == "not-optimized, the memory map lies on the device (altmap)"
    assert lines_of(one)[2] == "0xffff888101234000"


@pytest.mark.parametrize(
    ("shift", "compound_size", "text"),
    [
        (0, 4096, "0, no compound pages"),
        (None, 4096, "none in this kernel"),
        (63, None, "63, which makes no sense"),
        (6, 4096 << 6, "6, compound pages of 256 KiB, 1 page of vmemmap each"),
    ],
)
def test_shift(shift: int | None, compound_size: int | None, text: str) -> None:
    one = replace(pagemap_report(shift=0), compound_size=compound_size)
    one = replace(one, vmemmap_shift=shift)
    assert fields(one)["vmemmap_shift"] == text


def test_several_ranges_one_not_valid() -> None:
    one = of_every_kind()[4]
    broken = Range(0x1000, 0x1FFF)
    one = replace(one, ranges=(*one.ranges, broken))
    assert fields(one)["ranges"].splitlines() == [
        "0x280000000-0x287ffffff (128 MiB)",
        "0x290000000-0x297ffffff (128 MiB)",
        "0x2a0000000-0x2a7ffffff (128 MiB)",
        "0x1000-0x1fff (4 KiB), not valid: not audited",
    ]


def test_very_many_ranges_are_counted() -> None:
    many = tuple((i << 21, (i + 1 << 21) - 1) for i in range(0, 200, 2))
    found = fields(pagemap_report(ranges=many))["ranges"].splitlines()
    assert len(found) == 33
    assert found[-1] == "and 68 more"


def test_unreadable_pagemap() -> None:
    one = pagemap_report(
        ranges=(), shift=None, sharing={}, leaf_sizes={}, first=(),
        state="unreadable", reason="struct dev_pagemap can't be read",
    )  # fmt: skip
    one = replace(
        one,
        frames=replace(one.frames, expected=None),
        detail=replace(one.detail, not_read=("struct dev_pagemap can't be read: 1",)),
    )
    found = fields(one)
    assert found["range"] == "none"
    assert found["vmemmap_shift"] == "not read"
    assert found["leaves"] == "none"
    assert found["frames"] == "0, expected not known"
    assert "vmemmap" not in found
    lines = lines_of(one)
    assert section(lines, "expected layout") == ["none"]
    assert section(lines, "entries that map a frame: frames") == ["none"]
    assert "dax0.0: nothing wrong in what could be read" in lines


@pytest.mark.parametrize(
    ("populated", "altmap", "words"),
    [
        (Populated.COMPOUND, False, "deduplicated: a frame for the head of each compound page"),
        (Populated.EARLY, False, "as at boot: it is in a section that has had a memory map"),
        (Populated.LEAF, False, "leaves of 2 MiB of RAM: whole sections"),
        (Populated.LEAF, True, "leaves of 2 MiB on the device (altmap): whole sections"),
        (Populated.BASE, False, "base pages of RAM: part of a section"),
        (Populated.BASE, True, "base pages of RAM, altmap or not: part of a section"),
        (Populated.UNKNOWN, False, "not known: its vmemmap_shift makes no sense"),
    ],
)
def test_expected_layout_in_words(populated: Populated, altmap: bool, words: str) -> None:
    one = pagemap_report(populated=populated, altmap=ALTMAP if altmap else None)
    [piece] = section(lines_of(one), "expected layout")
    assert piece.startswith("0xffffea0005000000-0xffffea00057fffff  2048 pages  ")
    assert words in piece


def test_each_piece_has_its_line() -> None:
    one = pagemap_report()
    start = one.detail.pieces[0].start
    pieces = (
        Piece(Populated.EARLY, start, start + 1, start, 0),
        Piece(Populated.COMPOUND, start + 1, start + 3, start, 0),
    )
    found = section(
        lines_of(replace(one, detail=replace(one.detail, pieces=pieces))), "expected layout"
    )
    assert [line.split("  ")[:2] for line in found] == [
        ["0xffffea0005000000-0xffffea0005000fff", "1 page"],
        ["0xffffea0005001000-0xffffea0005002fff", "2 pages"],
    ]


def test_histogram_is_in_proportion() -> None:
    one = pagemap_report(sharing={4095: 100, 1: 50, 7: 1})
    assert section(lines_of(one), "entries that map a frame: frames") == [
        "1:  50  " + "#" * 20,
        "7:   1  #",
        "4095: 100  " + "#" * 40,
    ]


@pytest.mark.parametrize("width", [30, 80, 100, 160])
def test_histogram_fits(width: int) -> None:
    one = pagemap_report(sharing={1: 1 << 40, 262143: 5})
    lines = lines_of(one, width)
    bars = [line for line in lines if line.endswith("#")]
    assert len(bars) == 2
    assert max(map(len, bars)) <= width


def test_drawing_is_there() -> None:
    text = render_one(report(pagemap_report()), pagemap_report(), 80)
    assert "\nthe first compound page, as mapped\n\n  device memory" in text
    assert "|     1     | -------------> |    0x11   |" in text


def test_findings_and_the_rules_that_they_break() -> None:
    one = pagemap_report(
        findings=(finding(), finding(), finding("hole", message="m"), finding("of-the-future"))
    )
    lines = lines_of(one, 200)
    assert sum(line.startswith("error refcount-low dax0.0 at ") for line in lines) == 2
    rules = [line for line in lines if line.startswith(("hole: ", "refcount-low: "))]
    assert rules == [
        "hole: all of the vmemmap that describes a pagemap is mapped"
        " [mm/sparse-vmemmap.c: __populate_section_memmap(), all versions]",
        "refcount-low: a frame's reference count is no less than the number of entries that map"
        " it, or it is freed while still mapped [mm/sparse-vmemmap.c: vmemmap_pte_populate(),"
        " get_page(), all versions]",
    ]


def test_findings_of_other_pagemaps_are_only_counted() -> None:
    mine = pagemap_report(findings=(finding(severity=Severity.WARNING),))
    mine = replace(mine, detail=replace(mine.detail, not_read=("reference counts of frames: 1",)))
    other = pagemap_report("dax1.0", findings=(finding(), finding()))
    whole = report(mine, other, not_read=("reference counts of frames: 1",))
    lines = render_one(whole, mine, 100).splitlines()
    assert not any("dax1.0" in line for line in lines)
    assert lines[-2:] == [
        "dax0.0: no errors in what could be read, 1 warning",
        "all pagemaps: 2 errors, 1 warning, and not everything could be read",
    ]
    assert "  not read: reference counts of frames: 1" in lines


def test_pagemap_is_not_sound_while_something_of_it_could_not_be_read() -> None:
    one = pagemap_report()
    assert lines_of(one)[-2:] == ["dax0.0: sound", "all pagemaps: sound"]
    unread = ("compound pages: 2",)
    assert lines_of(one, not_read=unread)[-2:] == [
        "dax0.0: sound",
        "all pagemaps: nothing wrong in what could be read",
    ]
    assert lines_of(replace(one, detail=replace(one.detail, not_read=unread)), not_read=unread)[
        -2:
    ] == [
        "dax0.0: nothing wrong in what could be read",
        "all pagemaps: nothing wrong in what could be read",
    ]


def test_nothing_hostile_reaches_a_terminal() -> None:
    bad = hostile()
    one = pagemap_report(
        bad,
        state="partial",
        reason=bad,
        findings=(finding(rule=bad, message=bad, expected=bad, observed=bad),),
    )
    whole = report(one, target=replace(TARGET, path=bad), not_read=(bad,))
    text = render_one(whole, one, 100)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.count(r"a\x1b[2J\nb\x9b1m") >= 7
