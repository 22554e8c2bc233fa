# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What ``vmemscope hugetlb`` finds out: plain frozen dataclasses, for reports and for scripts.

Sizes and addresses are in bytes, ``pages`` are base pages of the vmemmap, frames
base pages of physical memory; ``None`` stands for what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...kernel.hugetlb_vmemmap import Hvo
    from ...rules.findings import Finding, RuleOutcome
    from .pgmap import TargetInfo

__all__ = ("FolioReport", "HstateReport", "HugetlbReport", "NodeCounts", "TailFrame", "Totals")


@dataclass(frozen=True)
class NodeCounts:
    """Folios of one size on one node, by the node in their ``struct page``."""

    #: ``None`` where the layout of page flags is not known
    nid: int | None
    folios: int
    free: int
    optimized: int


@dataclass(frozen=True)
class HstateReport:
    """One size of huge pages."""

    #: virtual address of the ``struct hstate``
    address: int
    name: str
    order: int
    #: bytes in a folio
    size: int
    #: what the kernel counts, in folios
    nr_huge_pages: int
    free_huge_pages: int
    resv_huge_pages: int
    surplus_huge_pages: int
    #: folios that were found, and of these those on a free list, on the list of
    #: those in use, and on neither
    folios: int
    free: int
    in_use: int
    elsewhere: int
    #: folios that say that they are optimized
    flagged: int
    #: folios some of whose vmemmap really is read-only
    optimized: int
    #: base pages of vmemmap that describe the folios: all, mapped, read-only,
    #: and those whose page tables could not be read
    pages: int
    mapped: int
    read_only: int
    unreadable: int
    #: different frames behind them
    frames: int
    saved_bytes: int
    #: what optimizing the rest of the folios would save
    savable_bytes: int
    by_node: tuple[NodeCounts, ...]


@dataclass(frozen=True)
class TailFrame:
    """A frame that the tail pages of all folios of a zone and order share (7.1+)."""

    nid: int
    #: DMA, DMA32, Normal, Movable, Device
    zone: str
    order: int
    #: ``None`` if what the zone points to is no struct page
    pfn: int | None
    #: ``None`` if it could not be read
    refcount: int | None
    #: folios whose tail pages map it
    folios: int


@dataclass(frozen=True)
class FolioReport:
    """One folio."""

    #: page frame of the head page, and virtual address of its ``struct page``
    pfn: int
    page: int
    #: name of the hstate
    hstate: str
    #: bytes
    size: int
    #: ``None`` where the layout of page flags is not known
    nid: int | None
    #: free, in use or elsewhere
    place: str
    #: whether the flag says that it is optimized
    flagged: bool
    #: base pages of vmemmap, and those of them that are read-only
    pages: int
    read_only: int
    #: frame behind the head page, and the one behind the read-only pages;
    #: ``None`` if there is none, it is not known, or they differ
    head_pfn: int | None
    tail_pfn: int | None


@dataclass(frozen=True)
class Totals:
    """Sums over all sizes."""

    folios: int
    optimized: int
    pages: int
    frames: int
    saved_bytes: int
    savable_bytes: int
    #: read-only pages in all of the vmemmap
    read_only: int
    #: base pages of vmemmap that were found mapped, whomever they describe
    walked: int


@dataclass(frozen=True)
class HugetlbReport:
    """All folios of HugeTLB, and how their vmemmap is mapped."""

    target: TargetInfo
    #: whether the kernel has HugeTLB
    present: bool
    hvo: Hvo
    hstates: tuple[HstateReport, ...]
    tails: tuple[TailFrame, ...]
    totals: Totals
    folios: tuple[FolioReport, ...]
    findings: tuple[Finding, ...]
    #: what came of each rule
    outcomes: tuple[RuleOutcome, ...]
    #: what could not be read, in words
    not_read: tuple[str, ...]
    #: seconds per phase: attach, types, read, walk, check
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether something could not be read."""
        return bool(self.not_read)
