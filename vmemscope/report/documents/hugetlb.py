# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The report of ``vmemscope hugetlb``, written as ``vmemscope.hugetlb/1`` (``docs/hugetlb.md``).

Sizes and addresses are in bytes, ``pages`` are base pages of the vmemmap, frames
base pages of physical memory; ``None`` stands for unknown values.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import field

from ...fields import Address, Bytes, Count, Facts, Seconds, Text, one_of
from ...rules.findings import Finding, RuleOutcome
from .common import LeftOut, Summed, TargetReport, Timings
from .finding import BugReport

__all__ = (
    "FolioReport",
    "HstateReport",
    "HugetlbReport",
    "HugetlbSummary",
    "HugetlbTimings",
    "HvoReport",
    "NodeCounts",
    "TailFrame",
)


class HvoReport(Facts, frozen=True):
    """The kernel's vmemmap optimization, and whether it is on."""

    #: whether the kernel was built with it
    built_in: bool
    #: whether new folios are optimized; ``None`` if that could not be read
    enabled: bool | None
    #: how many optimized folios its static key counts; ``None`` in kernels without
    #: one (7.1+), and if it could not be read
    key: int | None
    #: tail pages of all folios of a zone share a frame (7.1+)
    shared_tails: bool
    #: why no folio is ever optimized, whatever the switch says; else ``None``
    never: Text | None
    #: whether shared tail pages are read-only. If not, each ``read_only`` counts pages that
    #: can be written to, and share a frame with the page before or after
    protected: bool


class NodeCounts(Facts, frozen=True, kw_only=True):
    """Folios of one size on one node, by the node in their ``struct page``."""

    #: ``None`` where the layout of page flags is not known
    node: Count | None
    folios: Count
    free: Count
    optimized: Count


class HstateReport(Facts, frozen=True, kw_only=True):
    """One size of huge pages."""

    #: virtual address of the ``struct hstate``
    address: Address
    name: Text
    order: Count
    #: bytes in a folio
    size: Bytes
    #: what the kernel counts, in folios
    nr_huge_pages: Count
    free_huge_pages: Count
    resv_huge_pages: Count
    surplus_huge_pages: Count
    #: folios that were found, and of these those on a free list, on the list of
    #: those in use, and on neither
    folios: Count
    free: Count
    in_use: Count
    elsewhere: Count
    #: folios that say that they are optimized
    flagged: Count
    #: folios some of whose vmemmap really is read-only
    optimized: Count
    #: base pages of vmemmap that describe the folios: all, mapped, read-only,
    #: and those whose page tables could not be read
    pages: Count
    mapped: Count
    read_only: Count
    unreadable: Count
    #: different frames behind them
    frames: Count
    saved_bytes: int
    #: what optimizing the rest of the folios would save
    savable_bytes: Count
    #: folios that the kernel never optimizes: their memory map lies in their own memory block
    #: (memory_hotplug.memmap_on_memory)
    self_hosted: Count
    nodes: tuple[NodeCounts, ...]


class TailFrame(Facts, frozen=True, kw_only=True):
    """A frame that the tail pages of all folios of a zone and order share (7.1+)."""

    node: Count
    #: DMA, DMA32, Normal, Movable, Device
    zone: Text
    order: Count
    #: ``None`` if what the zone points to is no struct page
    pfn: Count | None
    #: ``None`` if it could not be read
    refcount: int | None
    #: folios whose tail pages map it
    folios: Count


class FolioReport(Facts, frozen=True, kw_only=True):
    """One folio."""

    #: page frame of the head page, and virtual address of its ``struct page``
    pfn: Count
    page: Address
    #: name of the hstate
    hstate: Text
    #: bytes
    size: Bytes
    #: ``None`` where the layout of page flags is not known
    node: Count | None
    #: the list that it is on
    state: Annotated[str, one_of("free", "in use", "elsewhere")]
    #: whether the flag says that it is optimized
    flagged: bool
    #: base pages of vmemmap, and those of them that are read-only
    pages: Count
    read_only: Count
    #: frame behind the head page, and the one behind the read-only pages;
    #: ``None`` if there is none, it is not known, or they differ
    head_pfn: Count | None
    tail_pfn: Count | None


class HugetlbSummary(Summed, frozen=True, kw_only=True):
    """Sums over all sizes."""

    folios: Count
    optimized: Count
    pages: Count
    frames: Count
    saved_bytes: int
    savable_bytes: Count
    #: read-only pages in all of the vmemmap
    read_only: Count
    #: base pages of vmemmap that were found mapped, whatever they describe
    walked: Count
    errors: Count = 0
    warnings: Count = 0
    notes: Count = 0
    #: what could not be read, in words
    not_read: tuple[Text, ...] = ()
    left_out: LeftOut = LeftOut()


class HugetlbTimings(Timings, frozen=True, kw_only=True):
    """Seconds per phase."""

    attach: Seconds = 0.0
    types: Seconds = 0.0
    read: Seconds = 0.0
    walk: Seconds = 0.0
    check: Seconds = 0.0


class HugetlbReport(TargetReport, frozen=True, kw_only=True, tag="vmemscope.hugetlb/1"):
    """All folios of HugeTLB, and how their vmemmap is mapped."""

    #: whether the kernel has HugeTLB
    present: bool
    hvo: HvoReport
    hstates: tuple[HstateReport, ...]
    shared_tails: tuple[TailFrame, ...]
    folios: tuple[FolioReport, ...]
    #: known bugs of the kernel that explain findings
    bugs: tuple[BugReport, ...] = ()
    findings: tuple[Finding, ...]
    #: outcome of each rule
    outcomes: tuple[RuleOutcome, ...] = field(name="rules")
    summary: HugetlbSummary
    timings: HugetlbTimings = HugetlbTimings()
