# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table: widths, numbers, order of findings, and that nothing is said that is not so."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from vmemscope.report import render_all
from vmemscope.rules.rule import Severity

from .builders import (
    TARGET,
    finding,
    hostile,
    of_every_kind,
    pagemap_report,
    report,
)


def table(text: str) -> list[str]:
    """Get the lines of the table: from its heading to the first empty line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("NAME"))
    return lines[start : lines.index("", start)]


def cells(text: str) -> dict[str, list[str]]:
    """Get the columns of the table, by where its heading has them."""
    heading, *rows = table(text)
    return {
        name: [row.split("  ")[0] if i == 0 else _cell(heading, name, row) for row in rows]
        for i, name in enumerate(heading.split())
    }


def _cell(heading: str, name: str, row: str) -> str:
    start = heading.index(name)
    # Left-aligned columns start where the heading does, others end where it ends.
    end = start + len(name)
    if row[start - 2 : start] == "  " and not row[start : start + 1].isspace():
        return row[start:].split("  ")[0]
    return row[:end].rsplit("  ", 1)[1].strip()


def test_header_names_the_target() -> None:
    first = render_all(report(*of_every_kind()), 100).splitlines()[0]
    assert first == "core dump vmcore: Linux 6.1.0-56-amd64, x86_64, 4 KiB pages, types from BTF"


@pytest.mark.parametrize(
    ("kind", "words"),
    [("core", "core dump"), ("live", "running kernel"), ("qemu", "QEMU guest")],
)
def test_header_names_the_kind_of_target(kind: str, words: str) -> None:
    target = replace(TARGET, kind=kind, path="somewhere", types="dwarf")
    first = render_all(report(target=target), 100).splitlines()[0]
    assert first.startswith(f"{words} somewhere: ")
    assert first.endswith("types from DWARF")


def test_header_of_a_simulated_kernel() -> None:
    first = render_all(report(target=replace(TARGET, path="sim:mixed")), 100).splitlines()[0]
    assert first.startswith("simulated kernel mixed: Linux ")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("name", [None, "dax0.0", "namespace10.12", "n" * 64])
def test_table_fits_its_width(width: int, name: str | None) -> None:
    one, *others = of_every_kind()
    wide = replace(one, name=name)
    rows = table(render_all(report(wide, *others), width))
    assert len(rows) == 6
    assert max(map(len, rows)) <= width
    assert all(
        row.split()[-1] == pm.state for row, pm in zip(rows[1:], (wide, *others), strict=True)
    )


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (160, "NAME TYPE RANGE SIZE COMPOUND PAGES FRAMES SAVED STATE"),
        (100, "NAME TYPE START SIZE COMPOUND PAGES FRAMES SAVED STATE"),
        (80, "NAME TYPE START PAGES FRAMES SAVED STATE"),
        (20, "NAME STATE"),
    ],
)
def test_columns_go_one_after_the_other(width: int, columns: str) -> None:
    pagemaps = [replace(one, name=f"namespace{i}.0") for i, one in enumerate(of_every_kind()[:3])]
    heading = table(render_all(report(*pagemaps), width))[0]
    assert heading.split() == columns.split()


def test_cells() -> None:
    found = cells(render_all(report(*of_every_kind()), 160))
    assert found == {
        "NAME": ["dax0.0", "namespace1.0", "dax2.0", "0xffff888101237000", "dax4.0"],
        "TYPE": ["generic", "fsdax", "generic", "generic", "generic"],
        "RANGE": [
            "0x140000000-0x15fffffff",
            "0x160000000-0x17fffffff",
            "0x180000000-0x22fffffff",
            "0x240000000-0x26fffffff",
            "0x280000000-0x287ffffff +2",
        ],
        "SIZE": ["512 MiB", "512 MiB", "2.8 GiB", "768 MiB", "384 MiB"],
        "COMPOUND": ["2 MiB", "4 KiB", "1 GiB", "2 MiB", "2 MiB"],
        "PAGES": ["2048", "2048", "11264", "3072", "1536"],
        "FRAMES": ["512", "2048", "6", "3072", "382"],
        "SAVED": ["6 MiB", "0 B", "44.0 MiB", "0 B", "4.5 MiB"],
        "STATE": ["deduplicated", "not-optimized", "deduplicated", "not-optimized", "partial"],
    }


def test_names_that_look_like_numbers_stay_as_they_are() -> None:
    pagemaps = [pagemap_report(name) for name in ("1e3", "0x10", "007", "nan")]
    assert cells(render_all(report(*pagemaps), 100))["NAME"] == ["1e3", "0x10", "007", "nan"]


def test_long_name_is_cut_and_says_so() -> None:
    text = render_all(report(pagemap_report("n" * 64)), 100)
    assert cells(text)["NAME"] == ["n" * 21 + "..."]


def test_pagemap_without_ranges() -> None:
    one = pagemap_report(
        ranges=(), sharing={}, leaf_sizes={}, state="unreadable", reason="gone", first=()
    )
    one = replace(one, compound_size=None)
    found = cells(render_all(report(one), 160))
    assert [found[name] for name in ("RANGE", "SIZE", "COMPOUND", "PAGES")] == [
        ["-"], ["-"], ["-"], ["0"],
    ]  # fmt: skip


def test_why_each_is_not_deduplicated() -> None:
    lines = render_all(report(*of_every_kind()), 100).splitlines()
    reasons = [line for line in lines if ": not-optimized" in line or ": partial" in line]
    assert reasons == [
        "namespace1.0: not-optimized, base pages (vmemmap_shift 0)",
        "0xffff888101237000: not-optimized, the memory map lies on the device (altmap);"
        " deduplication would save 9 MiB",
        "dax4.0: partial, 8 pages of its vmemmap are not mapped",
    ]
    assert not any(line.startswith("dax0.0: ") for line in lines)


def test_totals() -> None:
    text = render_all(
        report(
            *of_every_kind(),
            refcounts_checked=6020,
            refcounts_unreadable=4,
            compounds=70000,
            compounds_checked=1024,
            compounds_unreadable=1,
            base_pages=65536,
            base_pages_checked=65472,
            base_pages_unreadable=64,
            not_read=("reference counts of frames: 4",),
        ),
        100,
    )
    assert (
        "5 pagemaps: 19968 pages of vmemmap (78 MiB) in 6020 frames (23.5 MiB),"
        " 54.5 MiB saved, 9 MiB more could be saved\n"
        "checked: reference counts of 6020 frames, one for each large leaf"
        " (4 more could not be read);"
        " struct pages of 1024 of 70000 compound pages (1 could not be read, or only in part),"
        " 65472 of 65536 base pages (64 could not be read, or only in part)\n"
        "not read: reference counts of frames: 4\n"
    ) in text


def test_nothing_more_to_save_and_no_large_leaf() -> None:
    text = render_all(report(pagemap_report()), 100)
    assert " 6 MiB saved, nothing more could be saved\n" in text
    assert "checked: reference counts of 512 frames; struct pages of 256 of" in text


def test_one_of_each_is_not_several() -> None:
    one = pagemap_report(ranges=((0x140000000, 0x140000FFF),), sharing={1: 1})
    text = render_all(report(one, compounds=1, compounds_checked=1), 100)
    assert "1 pagemap: " in text
    assert "1 frame (4 KiB)" in text
    assert "1 of 1 compound page\n" in text


def test_no_struct_pages() -> None:
    text = render_all(report(of_every_kind()[1], compounds=0, compounds_checked=0), 100)
    assert "; no struct pages (none to check)\n" in text


def test_contents_that_were_not_asked_for() -> None:
    text = render_all(report(of_every_kind()[1], compounds_checked=0, contents="none"), 100)
    assert "; no struct pages (--contents none)\n" in text


def test_findings_worst_first_one_line_each() -> None:
    first = pagemap_report(
        "dax0.0",
        findings=(
            finding("leaf-fallback", Severity.NOTE, 0x1000, None, "n", None, None),
            finding("tail-frame", Severity.ERROR, 0x9000, 0x99, "e2", "pfn 0x11", "pfn 0x99"),
        ),
    )
    second = pagemap_report(
        "dax1.0",
        findings=(
            finding("mask-alignment", Severity.WARNING, 0x2000, None, "w", None, 3),
            finding("hole", Severity.ERROR, 0x3000, None, "e1", "mapped", "not mapped"),
        ),
    )
    loose = finding("xarray", Severity.ERROR, None, None, "e0", None, None)
    lines = render_all(report(first, second, findings=(loose,)), 80).splitlines()
    start = lines.index("error xarray -: e0")
    assert lines[start - 1 :] == [
        "",
        "error xarray -: e0",
        "error hole dax1.0 at 0x3000: e1: expected mapped, observed not mapped",
        "error tail-frame dax0.0 at 0x9000 pfn 0x99: e2: expected pfn 0x11, observed pfn 0x99",
        "warning mask-alignment dax1.0 at 0x2000: w: observed 3",
        "note leaf-fallback dax0.0 at 0x1000: n",
        "",
        "3 errors, 1 warning, 1 note",
    ]


def test_finding_is_never_broken() -> None:
    long = finding(message="word " * 100)
    lines = render_all(report(pagemap_report(findings=(long,))), 80).splitlines()
    [line] = [line for line in lines if line.startswith("error ")]
    assert len(line) > 500
    assert line.endswith(": expected 7, observed 6")


def test_value_of_zero_is_a_value() -> None:
    zero = finding(vaddr=0, pfn=0, expected=0, observed=0, message="m")
    text = render_all(report(findings=(zero,)), 80)
    assert "error refcount-low - at 0x0 pfn 0x0: m: expected 0, observed 0\n" in text


@pytest.mark.parametrize(
    ("severities", "partial", "verdict"),
    [
        ((), False, "sound"),
        ((), True, "nothing wrong in what could be read"),
        ((Severity.ERROR,), False, "1 error"),
        ((Severity.ERROR,) * 3 + (Severity.WARNING,), False, "3 errors, 1 warning"),
        ((Severity.ERROR,), True, "1 error, and not everything could be read"),
        ((Severity.WARNING,) * 2, False, "no errors, 2 warnings"),
        ((Severity.WARNING,), True, "no errors in what could be read, 1 warning"),
        ((Severity.NOTE,), False, "sound, 1 note"),
        ((Severity.NOTE,), True, "nothing wrong in what could be read, 1 note"),
    ],
)
def test_verdict_is_the_last_line(
    severities: tuple[Severity, ...], partial: bool, verdict: str
) -> None:
    found = tuple(finding(severity=severity) for severity in severities)
    whole = report(pagemap_report(findings=found), not_read=("x: 1",) if partial else ())
    text = render_all(whole, 100)
    assert text.endswith("\n")
    assert text.splitlines()[-1] == verdict


def test_no_pagemaps_is_said_in_a_sentence() -> None:
    lines = render_all(report(), 100).splitlines()
    assert lines[2:] == [
        "no pagemaps: this kernel has no device memory that struct pages describe",
        "",
        "sound",
    ]


def test_no_pagemaps_because_they_could_not_be_read() -> None:
    lines = render_all(report(not_read=("pgmap_array can't be read: 1",)), 100).splitlines()
    assert lines[2:] == [
        "no pagemaps in what could be read",
        "",
        "not read: pgmap_array can't be read: 1",
        "",
        "nothing wrong in what could be read",
    ]


def test_nothing_hostile_reaches_a_terminal() -> None:
    bad = hostile()
    one = pagemap_report(
        bad,
        kind=bad,
        state="partial",
        reason=bad,
        findings=(finding(rule=bad, message=bad, expected=bad, observed=bad),),
    )
    target = replace(TARGET, path=bad, osrelease=bad, arch=bad, types=bad, kind=bad)
    text = render_all(report(one, target=target, not_read=(bad,)), 160)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.count(r"a\x1b[2J\nb\x9b1m") >= 8
    assert len(text.splitlines()) == 14
