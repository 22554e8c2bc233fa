# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The report of ``vmemscope pgmap``, written as ``vmemscope.pgmap/1`` (``docs/json.md``).

Addresses and sizes are in bytes, counts in frames or base pages; ``None`` stands for
unreadable values, with the reason beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET, UnsetType, field

from ...fields import Address, Bytes, Count, Counts, Facts, Seconds, Text
from ...rules.findings import Finding, Outcome, RuleOutcome
from .common import (
    DeviceTails,
    LeftOut,
    PagemapName,
    PagemapType,
    SharedPages,
    Summed,
    TargetReport,
    Timings,
)
from .finding import BugReport

if TYPE_CHECKING:
    from typing import Any

    from ...kernel.dev_pagemap import Pagemap, PhysicalRange
    from ...vmemmap.cells import Cells
    from ...vmemmap.layout import Geometry, Piece

__all__ = (
    "Altmap",
    "FrameCounts",
    "FrameSpan",
    "PagemapDetail",
    "PagemapReport",
    "PgmapTimings",
    "Range",
    "Report",
    "SharedTails",
    "State",
    "Summary",
    "VmemmapCounts",
)

#: how much of a pagemap's vmemmap is deduplicated, from best to worst; unreadable vmemmap may
#: be in any state
State = Literal["deduplicated", "partial", "not-optimized", "unreadable"]


class Range(Facts, frozen=True):
    """A range of physical addresses, ``end`` inclusive as in the kernel."""

    start: Address
    end: Address


class Altmap(Facts, frozen=True, kw_only=True):
    """The frames of a device that hold its own memory map; all in frames."""

    base_pfn: Count
    end_pfn: Count
    reserve: Count
    free: Count
    align: Count
    alloc: Count


class VmemmapCounts(Facts, frozen=True):
    """The part of the vmemmap that describes a pagemap, in base pages."""

    #: virtual address of its first byte, and of the first byte after it; ``None`` if no range
    #: is valid
    start: Address | None
    end: Address | None
    pages: Count
    mapped: Count
    unmapped: Count
    unreadable: Count
    #: bytes of a leaf -> entries of that size
    leaf_sizes: Counts


class FrameCounts(Facts, frozen=True):
    """The frames behind it."""

    backing: Count
    #: ``None`` where it is not known what the kernel should have built
    expected: Count | None
    #: entries per frame -> frames, in base pages
    sharing: Counts
    #: of the frames behind it, those on the device itself (altmap), and those that are
    #: neither there nor in System RAM; ``None`` in old documents
    on_device: Count | None = None
    elsewhere: Count | None = None


class SharedTails(DeviceTails, frozen=True, kw_only=True):
    """The same, with how it is mapped and counted."""

    #: entries of tail pages that map it, of all these pagemaps
    entries: Count
    #: its reference count, ``None`` if that could not be read
    refcount: int | None


class FrameSpan(Facts, frozen=True):
    """Neighbouring vpages that map one frame, or one large leaf, or nothing."""

    #: virtual address of the first
    address: Address
    vpages: int
    #: ``None`` where nothing is mapped or could be read
    pfn: int | None
    #: in words: head, tail, base, leaf, early, unknown, hole, unreadable
    role: str
    #: part of a large leaf, in which each vpage has the next frame
    large: bool = False


class PagemapDetail(Facts, frozen=True, kw_only=True):
    """Facts of a pagemap that its document does not have."""

    pagemap: Pagemap
    geometry: Geometry
    #: the ranges that could be audited
    ranges: tuple[PhysicalRange, ...]
    pieces: tuple[Piece, ...]
    #: the first compound page (or the first pages) as mapped, for drawing
    first: tuple[FrameSpan, ...] = ()
    #: what is mapped by place; ``None`` if it has no valid range
    cells: Cells | None = None
    #: what deduplicating would save on top, if the kernel did it
    savable_bytes: int
    #: what of it could not be read, in words
    not_read: tuple[str, ...] = ()
    #: whether its tail pages share a frame with those of other devices
    per_zone: bool = False
    #: pages that count with a neighbour, frames that only these map, and frames that they save
    pages_elsewhere: int = 0
    frames_elsewhere: int = 0
    saved_elsewhere: int = 0
    #: of the other frames, those that an earlier pagemap has, too
    frames_again: int = 0


if TYPE_CHECKING:
    _Detail = PagemapDetail
    _NO_DETAIL: Any
else:
    # For msgspec: a field that no document has.
    from msgspec import UnsetType as _Detail

    _NO_DETAIL = UNSET


class PagemapReport(PagemapName, frozen=True, kw_only=True):
    """One pagemap."""

    type: PagemapType
    #: log2 of the pages in a compound page; ``None`` on kernels before 5.17
    vmemmap_shift: Count | None
    #: bytes in a compound page, a base page where there are none; ``None`` if absurd
    compound_size: Bytes | None
    altmap: Altmap | None
    #: all that the pagemap says it has, valid or not
    ranges: tuple[Range, ...]
    vmemmap: VmemmapCounts
    #: unset if none of its pages describes other memory
    shared_pages: SharedPages | UnsetType = UNSET
    frames: FrameCounts
    saved_bytes: Count
    state: State
    #: why it is not deduplicated
    reason: Text | None
    findings: tuple[Finding, ...] = ()
    #: outcome of each rule that is evaluated for a pagemap
    outcomes: tuple[RuleOutcome, ...] = field(name="rules", default=())
    #: unset in a report that was read from a document
    detail: _Detail = _NO_DETAIL


class Summary(Summed, frozen=True, kw_only=True):
    """
    Sums, and what was and was not checked.

    Fields with a default follow from the rest of the report, or are missing in old documents.
    """

    pagemaps: Count = 0
    vmemmap_pages: Count = 0
    backing_frames: Count = 0
    saved_bytes: Count = 0
    savable_bytes: Count = 0
    errors: Count = 0
    warnings: Count = 0
    notes: Count = 0
    #: rules by outcome, one rule for one pagemap as one
    rules_checked: Count = 0
    rules_skipped: Count = 0
    rules_failed: Count = 0
    #: frames whose reference count was compared, and those where it could not be read
    refcounts_checked: Count
    refcounts_unreadable: Count
    #: how many struct pages were to be checked
    contents: Literal["all", "sample", "none"] = "sample"
    #: compound pages, those whose struct pages were checked, and of these
    #: those of which some could not be read
    compounds: Count
    compounds_checked: Count
    compounds_unreadable: Count
    #: the same of base pages, in pagemaps without compound pages
    base_pages: Count = 0
    base_pages_checked: Count = 0
    base_pages_unreadable: Count = 0
    #: what could not be read, in words
    not_read: tuple[Text, ...] = ()
    left_out: LeftOut = LeftOut()


class PgmapTimings(Timings, frozen=True, kw_only=True):
    """Seconds per phase."""

    attach: Seconds = 0.0
    types: Seconds = 0.0
    pagemaps: Seconds = 0.0
    walk: Seconds = 0.0
    frames: Seconds = 0.0
    contents: Seconds = 0.0
    audit: Seconds = 0.0


class Report(TargetReport, frozen=True, kw_only=True, tag="vmemscope.pgmap/1"):
    """An audit of all pagemaps of a target."""

    pagemaps: tuple[PagemapReport, ...] = field(name="pgmaps")
    #: frames that several of them share; unset on kernels whose devices share none
    device_tails: tuple[SharedTails, ...] | UnsetType = UNSET
    #: why the kernel can't have any; ``None`` if it can
    no_pagemaps: Text | None = None
    #: known bugs of the kernel that explain findings
    bugs: tuple[BugReport, ...] = ()
    #: findings of no single pagemap
    findings: tuple[Finding, ...]
    #: outcome of each rule that is evaluated for the target as a whole
    outcomes: tuple[RuleOutcome, ...] = field(name="rules", default=())
    summary: Summary
    timings: PgmapTimings = PgmapTimings()

    def all_outcomes(self) -> list[RuleOutcome]:
        """Return the outcomes of all rules, those of the target first."""
        return [*self.outcomes, *(o for one in self.pagemaps for o in one.outcomes)]

    def outcome_counts(self) -> Counter[Outcome]:
        """Return the number of rules by outcome, one rule for one pagemap as one."""
        return Counter(one.outcome for one in self.all_outcomes())

    def all_findings(
        self, only: PagemapReport | None = None
    ) -> list[tuple[PagemapReport | None, Finding]]:
        """
        Return all findings with their pagemaps, worst first.

        :param only: leave out the findings of all other pagemaps
        """
        found: list[tuple[PagemapReport | None, Finding]] = [(None, f) for f in self.findings]
        for one in self.pagemaps:
            if only is None or one.address == only.address:
                found.extend((one, f) for f in one.findings)
        return sorted(found, key=lambda pair: (pair[1].severity, pair[1].vaddr or 0))

    def every_finding(self) -> Iterable[Finding]:
        """Return all findings, in no order."""
        return (finding for _, finding in self.all_findings())

    def sums(self) -> dict[str, int]:
        """Return the fields of the summary that follow from the rest of the report."""
        rules = self.outcome_counts()
        # A page or a frame that several pagemaps have is among those of each.
        details = [one.detail for one in self.pagemaps]
        again = sum(one.frames_again for one in details)
        backing = sum(one.frames.backing for one in self.pagemaps)
        return {
            **super().sums(),
            **{f"rules_{one.value}": rules[one] for one in Outcome},
            "pagemaps": len(self.pagemaps),
            "vmemmap_pages": sum(one.vmemmap.pages for one in self.pagemaps)
            - sum(one.pages_elsewhere for one in details),
            "backing_frames": backing - again - sum(one.frames_elsewhere for one in details),
            "saved_bytes": sum(one.saved_bytes for one in self.pagemaps)
            + (again - sum(one.saved_elsewhere for one in details)) * self.target.page_size,
            "savable_bytes": sum(one.detail.savable_bytes for one in self.pagemaps),
        }
