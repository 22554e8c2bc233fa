# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports made by hand: a kernel with 4 KiB pages, 64 bytes of struct page, vmemmap below."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from vmemscope.arch.x86_64 import ARCHITECTURE
from vmemscope.kernel.dev_pagemap import Pagemap, PhysicalRange
from vmemscope.report.documents.common import TargetInfo
from vmemscope.report.documents.pgmap import (
    Altmap,
    FrameCounts,
    FrameSpan,
    PagemapDetail,
    PagemapReport,
    PgmapTimings,
    Range,
    Report,
    Summary,
    VmemmapCounts,
)
from vmemscope.rules.findings import Finding, Outcome, RuleOutcome
from vmemscope.rules.rule import Severity
from vmemscope.vmemmap.layout import Geometry, Piece, Populated

PAGE = 4096
VMEMMAP = 0xFFFFEA0000000000
GEOMETRY = Geometry(ARCHITECTURE, PAGE, 64, VMEMMAP)
TARGET = TargetInfo("core", "vmcore", "6.1.0-56-amd64", "x86_64", PAGE, 64, "btf")
ALTMAP = Altmap(
    base_pfn=0x120000, end_pfn=0x14FFFF, reserve=2, free=0xDFE, align=0x1FE, alloc=0xC00
)

#: vpages that one frame backs, its pfn or None, role
Span = tuple[int, int | None, str]
DEDUPLICATED_2M: tuple[Span, ...] = ((1, 0x10, "head"), (7, 0x11, "tail"))


def vmemmap(physical: int) -> int:
    """Get the virtual address of the ``struct page`` of a physical address."""
    return VMEMMAP + physical // PAGE * 64


def pagemap_report(
    name: str | None = "dax0.0",
    *,
    address: int = 0xFFFF888101234000,
    ranges: tuple[tuple[int, int], ...] = ((0x140000000, 0x15FFFFFFF),),
    shift: int | None = 9,
    kind: str = "generic",
    altmap: Altmap | None = None,
    populated: Populated = Populated.COMPOUND,
    sharing: dict[int, int] | None = None,
    leaf_sizes: dict[int, int] | None = None,
    expected: int | None = None,
    unmapped: int = 0,
    unreadable: int = 0,
    savable: int = 0,
    state: str = "deduplicated",
    reason: str | None = None,
    findings: tuple[Finding, ...] = (),
    first: tuple[Span, ...] = DEDUPLICATED_2M,
    outcomes: tuple[RuleOutcome, ...] = (),
) -> PagemapReport:
    """Make a report of a pagemap; what is not given follows from what is."""
    physical = tuple(PhysicalRange(*one) for one in ranges)
    vpages = [
        (GEOMETRY.vpage(r.start // PAGE), GEOMETRY.vpage((r.end + 1) // PAGE)) for r in physical
    ]
    pages = sum(end - start for start, end in vpages)
    mapped = pages - unmapped - unreadable
    if sharing is None:
        sharing = {1: mapped // 8, 7: mapped // 8} if mapped else {}
    backing = sum(sharing.values())
    start = GEOMETRY.address(vpages[0][0]) if vpages else None
    end = GEOMETRY.address(vpages[-1][1]) if vpages else None
    spans, at = [], start or VMEMMAP
    for count, pfn, role in first:
        spans.append(FrameSpan(at, count, pfn, role, count > 1 and role in ("leaf", "early")))
        at += count * PAGE
    return PagemapReport(
        address=address,
        name=name,
        type=kind,
        vmemmap_shift=shift,
        compound_size=PAGE << (shift or 0),
        altmap=altmap,
        ranges=tuple(Range(*one) for one in ranges),
        vmemmap=VmemmapCounts(
            start, end, pages, mapped, unmapped, unreadable,
            ({PAGE: mapped} if mapped else {}) if leaf_sizes is None else leaf_sizes,
        ),
        frames=FrameCounts(
            backing, backing if expected is None else expected, sharing, backing if altmap else 0, 0
        ),
        saved_bytes=0 if altmap else (mapped - backing) * PAGE,
        state=state,
        reason=reason,
        findings=findings,
        outcomes=outcomes,
        detail=PagemapDetail(
            pagemap=Pagemap(address, kind, shift, len(physical), physical, None, ()),
            geometry=GEOMETRY,
            ranges=physical,
            pieces=tuple(Piece(populated, first, last, first, 0) for first, last in vpages),
            first=tuple(spans),
            savable_bytes=savable,
        ),
    )  # fmt: skip


def finding(
    rule: str = "refcount-low",
    severity: Severity = Severity.ERROR,
    vaddr: int | None = VMEMMAP + 0x5001000,
    pfn: int | None = 0x11,
    message: str = "7 entries map the frame, its reference count is 6",
    expected: str | int | None = 7,
    observed: str | int | None = 6,
) -> Finding:
    return Finding(rule, severity, vaddr, pfn, expected, observed, message)


#: one rule of each outcome
OUTCOMES = (
    RuleOutcome("hole", Outcome.CHECKED),
    RuleOutcome("altmap-frame", Outcome.SKIPPED, "no altmap"),
    RuleOutcome("refcount-low", Outcome.FAILED, None, 1),
)


def report(
    *pagemaps: PagemapReport,
    findings: tuple[Finding, ...] = (),
    target: TargetInfo = TARGET,
    not_read: tuple[str, ...] = (),
    timings: dict[str, float] | None = None,
    outcomes: tuple[RuleOutcome, ...] = (),
    **summary: Any,
) -> Report:
    """Make a report whose summary adds up."""
    whole = Report(
        target=target,
        pagemaps=pagemaps,
        findings=findings,
        outcomes=outcomes,
        summary=Summary(
            refcounts_checked=sum(one.frames.backing for one in pagemaps),
            refcounts_unreadable=0,
            compounds=256,
            compounds_checked=256,
            compounds_unreadable=0,
            not_read=not_read,
        ),
        timings=PgmapTimings.measured(
            timings
            or {
                "attach": 0.02, "types": 0.1, "pagemaps": 0.06, "walk": 0.03, "frames": 0.04,
                "contents": 0.05, "audit": 0.01,
            }
        ),
    ).changed()  # fmt: skip
    return replace(whole, summary=replace(whole.summary, **summary))


def of_every_kind() -> tuple[PagemapReport, ...]:
    """Make the five pagemaps of a machine with each kind of namespace."""
    return (
        pagemap_report(),
        pagemap_report(
            "namespace1.0",
            address=0xFFFF888101235000,
            ranges=((0x160000000, 0x17FFFFFFF),),
            shift=0,
            kind="fsdax",
            populated=Populated.LEAF,
            sharing={1: 2048},
            leaf_sizes={2 << 20: 4},
            state="not-optimized",
            reason="base pages (vmemmap_shift 0)",
            first=((8, 0x8000, "leaf"),),
        ),
        pagemap_report(
            "dax2.0",
            address=0xFFFF888101236000,
            ranges=((0x180000000, 0x22FFFFFFF),),
            shift=18,
            sharing={1: 3, 4095: 2, 3071: 1},
            first=((1, 0x20, "head"), (4095, 0x21, "tail")),
        ),
        pagemap_report(
            None,
            address=0xFFFF888101237000,
            ranges=((0x240000000, 0x26FFFFFFF),),
            altmap=ALTMAP,
            populated=Populated.LEAF,
            sharing={1: 3072},
            leaf_sizes={2 << 20: 6},
            savable=2304 * PAGE,
            state="not-optimized",
            reason="the memory map lies on the device (altmap)",
            first=((8, 0x240200, "leaf"),),
        ),
        pagemap_report(
            "dax4.0",
            address=0xFFFF888101238000,
            ranges=(
                (0x280000000, 0x287FFFFFF),
                (0x290000000, 0x297FFFFFF),
                (0x2A0000000, 0x2A7FFFFFF),
            ),
            unmapped=8,
            sharing={1: 190, 7: 191, 6: 1},
            state="partial",
            reason="8 pages of its vmemmap are not mapped",
            findings=(finding(), finding("hole", pfn=None, message="8 pages not mapped")),
        ),
    )


def hostile() -> str:
    """Get text that no terminal should ever see as it is."""
    return "a\x1b[2J\nb\x9b1m\u202e\x7f\udcff"
