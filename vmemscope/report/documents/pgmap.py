# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an audit finds out: plain frozen dataclasses, for reports and for scripts.

Physical and virtual addresses and sizes are in bytes, ``pfn`` and counts in
frames or base pages; ``None`` stands for what could not be read, with the
reason beside it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...kernel.dev_pagemap import Altmap, Pagemap, PhysicalRange
    from ...machine import Kernel
    from ...rules.findings import Finding, Outcome, RuleOutcome
    from ...vmemmap.layout import Geometry, Piece

__all__ = (
    "FrameCounts",
    "FrameSpan",
    "PagemapReport",
    "Report",
    "Summary",
    "TargetInfo",
    "VmemmapCounts",
)


@dataclass(frozen=True)
class TargetInfo:
    """What was looked at."""

    #: core, live or qemu
    kind: str
    path: str
    osrelease: str
    arch: str
    page_size: int
    struct_page_size: int
    #: btf or dwarf
    types: str

    @classmethod
    def of(cls, kernel: Kernel) -> TargetInfo:
        """Describe the target of a kernel that was audited."""
        return cls(
            kind=kernel.target.kind,
            path=kernel.target.path,
            osrelease=kernel.target.osrelease,
            arch=kernel.arch.name,
            page_size=kernel.page_size,
            struct_page_size=kernel.page.size,
            types=kernel.types,
        )


@dataclass(frozen=True)
class VmemmapCounts:
    """The part of the vmemmap that describes a pagemap, in base pages."""

    #: virtual address of its first byte, and of the first byte after it
    start: int
    end: int
    pages: int
    mapped: int
    unmapped: int
    unreadable: int
    #: bytes of a leaf -> entries of that size
    leaf_sizes: Mapping[int, int]


@dataclass(frozen=True)
class FrameCounts:
    """The frames behind it."""

    backing: int
    #: ``None`` where it can't be told what the kernel should have built
    expected: int | None
    #: entries per frame -> frames, in base pages
    sharing: Mapping[int, int]


@dataclass(frozen=True)
class FrameSpan:
    """Neighbouring vpages that map one frame, or one large leaf, or nothing."""

    #: virtual address of the first
    address: int
    vpages: int
    #: ``None`` where nothing is mapped or could be read
    pfn: int | None
    #: in words: head, tail, base, leaf, early, unknown, hole, unreadable
    role: str
    #: part of a large leaf, in which each vpage has the next frame
    large: bool = False


@dataclass(frozen=True)
class PagemapReport:
    """All about one pagemap."""

    pagemap: Pagemap
    name: str | None
    #: bytes in a compound page, a base page where there are none; ``None`` if absurd
    compound_size: int | None
    #: the ranges that could be looked at
    ranges: tuple[PhysicalRange, ...]
    pieces: tuple[Piece, ...]
    vmemmap: VmemmapCounts
    frames: FrameCounts
    saved_bytes: int
    #: what deduplicating would save on top, if the kernel did it
    savable_bytes: int
    #: deduplicated, partial, not-optimized or unreadable
    state: str
    reason: str | None
    findings: tuple[Finding, ...]
    #: what of it could not be read, in words
    not_read: tuple[str, ...] = ()
    #: what came of each rule that is evaluated for a pagemap
    outcomes: tuple[RuleOutcome, ...] = ()
    #: the first compound page (or the first pages) as mapped, for drawing
    first: tuple[FrameSpan, ...] = ()

    @property
    def address(self) -> int:
        """Virtual address of the ``struct dev_pagemap``."""
        return self.pagemap.address

    @property
    def altmap(self) -> Altmap | None:
        """The altmap, if there is one."""
        return self.pagemap.altmap


@dataclass(frozen=True)
class Summary:
    """Totals, and what was and was not checked."""

    pagemaps: int
    vmemmap_pages: int
    backing_frames: int
    saved_bytes: int
    savable_bytes: int
    errors: int
    warnings: int
    notes: int
    #: frames whose reference count was compared, and those where it could not be read
    refcounts_checked: int
    refcounts_unreadable: int
    #: compound pages, those whose struct pages were looked into, and of these
    #: those of which some could not be read
    compounds: int
    compounds_checked: int
    compounds_unreadable: int
    #: the same of base pages, in pagemaps without compound pages
    base_pages: int = 0
    base_pages_checked: int = 0
    base_pages_unreadable: int = 0
    #: how many struct pages were to be looked into: all, sample or none
    contents: str = "sample"
    #: what could not be read, in words
    not_read: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether something could not be read."""
        return bool(self.not_read)


@dataclass(frozen=True)
class Report:
    """An audit of all pagemaps of a target."""

    target: TargetInfo
    geometry: Geometry
    pagemaps: tuple[PagemapReport, ...]
    #: findings of no single pagemap
    findings: tuple[Finding, ...]
    summary: Summary
    #: seconds per phase: attach, types, walk, frames, contents, audit
    timings: dict[str, float] = field(default_factory=dict)
    #: what came of each rule that is evaluated for the target as a whole
    outcomes: tuple[RuleOutcome, ...] = ()

    def outcome_counts(self) -> Counter[Outcome]:
        """Count rules by what came of them, one rule for one pagemap as one."""
        groups = (self.outcomes, *(one.outcomes for one in self.pagemaps))
        return Counter(one.outcome for group in groups for one in group)

    def all_findings(self) -> list[tuple[PagemapReport | None, Finding]]:
        """All findings with the pagemap that each is of, worst first."""
        found: list[tuple[PagemapReport | None, Finding]] = [(None, f) for f in self.findings]
        for one in self.pagemaps:
            found.extend((one, f) for f in one.findings)
        return sorted(found, key=lambda pair: (pair[1].severity, pair[1].vaddr or 0))
