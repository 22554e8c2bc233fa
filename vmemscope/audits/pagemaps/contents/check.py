# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which ``struct page``s of a pagemap are checked, and what the check of one pagemap found."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....rules.alignment import HEAD_ALIGNMENT, HeadFacts
from ....rules.page_rows import PageKind
from ....rules.struct_pages import (
    RULES_BY_KIND,
    compound_order,
    page_uninitialised,
    page_zone,
    pgmap_link,
    tail_contents,
)
from ....vmemmap.layout import first_compound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.page_rows import Expected
    from ....rules.page_violations import PageRule, PageViolations
    from ....vmemmap.vmemmap import Vmemmap
    from ..audited import AuditedPagemap

__all__ = (
    "Contents",
    "ContentsCheck",
    "ContentsChecked",
    "Region",
    "checked_apart",
    "counted",
    "picked",
    "regions_of",
    "why_not",
)

#: compound pages, and vpages of base pages, in the sample of a range: spread evenly,
#: the first and the last among them
_SAMPLE = 1024
_NONE = "contents of struct pages were not asked for (--contents none)"


class Contents(Enum):
    """How many ``struct page``s are checked."""

    ALL = "all"
    SAMPLE = "sample"
    NONE = "none"


class Region(NamedTuple):
    """Page frames whose ``struct page``s are initialised alike."""

    #: ``[start, end)``
    start: int
    end: int
    #: log2 of the pages in its compound pages; 0: base pages
    order: int
    #: whether these are the frames that an altmap hands out
    altmap: bool = False
    #: ``struct page``s in a vpage
    per_page: int = 1

    @property
    def parts(self) -> int:
        """Compound pages, or vpages of base pages."""
        if self.order:
            return -(-(self.end - self.start) >> self.order)
        return -(-self.end // self.per_page) - self.start // self.per_page


def why_not(audited: AuditedPagemap, vmemmap: Vmemmap, contents: Contents) -> str | None:
    """Return why no ``struct page`` of a pagemap is checked, ``None`` if some are."""
    geometry, order = vmemmap.geometry, audited.order
    if contents is Contents.NONE:
        return _NONE
    if not audited.shift_sound:
        return audited.no_compounds
    if geometry.struct_page_size % 8:
        return "struct pages that are no whole words"
    row = row_of(audited, vmemmap)
    if order and any(region.start % row for region in regions_of(audited, vmemmap) if region.order):
        return "compound pages that start inside a page of the vmemmap"
    return None


def checked_apart(audited: AuditedPagemap, vmemmap: Vmemmap) -> bool:
    """
    Return whether ``struct page``s are read by themselves, and not a vpage at a time.

    They are where some lie across two vpages, and where a compound page fills no two of them
    (ppc64 with pages of 64 KiB: 32 compound pages of 2 MiB lie in one).
    """
    geometry, order = vmemmap.geometry, audited.order
    return geometry.straddles or bool(order and geometry.compound_vpages(order) < 2)


def row_of(audited: AuditedPagemap, vmemmap: Vmemmap) -> int:
    """Return how many ``struct page``s are read as one."""
    row = vmemmap.geometry.row
    return min(row, 1 << audited.order) if audited.order else row


def regions_of(audited: AuditedPagemap, vmemmap: Vmemmap) -> list[Region]:
    """Return the regions of a pagemap, in order of address."""
    altmap = audited.pagemap.altmap
    per_page = row_of(audited, vmemmap)
    regions = []
    for start, end in audited.layout.pfns:
        first = first_compound(audited.pagemap, start)
        if altmap is not None:
            # Those of the reserved frames before are never written to.
            held = max(altmap.base_pfn + altmap.reserve, start)
            held_end = min(altmap.base_pfn + altmap.reserve + altmap.free, first, end)
            if held < held_end:
                regions.append(Region(held, held_end, 0, True, per_page))
        if first < end:
            regions.append(Region(first, end, audited.order, False, per_page))
    return regions


def picked(region: Region, contents: Contents) -> NDArray[np.int64]:
    """Pick compound pages, or vpages of base pages, by their number."""
    if contents is Contents.ALL or region.parts <= _SAMPLE:
        return np.arange(region.parts, dtype=np.int64)
    return np.arange(_SAMPLE, dtype=np.int64) * (region.parts - 1) // (_SAMPLE - 1)


_SAMPLED = "struct pages that are not in the sample (--contents all has all)"
_UNREAD = "struct pages that are not mapped, or could not be read"
_STRANGERS = "struct pages that are not the device's, or were never initialised"


class ContentsChecked(NamedTuple):
    """How many there are, how many were checked, how many could not be read in full."""

    compounds: int = 0
    compounds_checked: int = 0
    compounds_unreadable: int = 0
    #: base pages: those of pagemaps without compound pages
    base_pages: int = 0
    base_pages_checked: int = 0
    base_pages_unreadable: int = 0


def counted(regions: list[Region], vmemmap: Vmemmap) -> ContentsChecked:
    """Count the pages of regions."""
    return ContentsChecked(
        compounds=sum(region.parts for region in regions if region.order),
        base_pages=sum(
            region.end - region.start
            for region in regions
            if not region.order and not region.altmap
        ),
    )


class ContentsCheck:
    """What the content checks of one pagemap rely on, and what they found."""

    def __init__(
        self,
        audited: AuditedPagemap,
        vmemmap: Vmemmap,
        expected: Expected,
        contents: Contents,
        step: Callable[[int], None],
    ) -> None:
        self.audited, self.vmemmap, self.expected = audited, vmemmap, expected
        self.contents, self.step = contents, step
        self.per_page = row_of(audited, vmemmap)
        self.plain = min(vmemmap.page.folio_pages, self.per_page - 1)
        self.checked = self.unreadable = self.base_checked = self.base_unreadable = 0
        #: struct pages of the frames that an altmap hands out
        self.altmap_unreadable = 0
        #: what the pagemap's own pages are
        self.kind = PageKind.COMPOUND if audited.order else PageKind.BASE
        #: rules that were evaluated for anything
        self.asked: set[PageRule] = set()
        #: whether anything could not be read, was left out, or is not the device's
        self.missed = self.sampled = self.strangers = False
        #: whether tail pages hold a mask; ``None`` while none was seen
        self.masked: bool | None = None
        self.heads: list[int] = []
        #: what most tail pages hold in the frame that it shares with other devices (uint64),
        #: shape ``(words,)``; ``None`` if there is none, or it could not be read
        self.zone_usual: NDArray[np.uint64] | None = None
        #: the same of the heads' frames, if all of them have others
        self.heads_usual: NDArray[np.uint64] | None = None

    def own(self, vpage: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which vpages do not map another owner's frame."""
        if not self.audited.foreign:
            return np.ones(vpage.shape, dtype=np.bool_)
        own: NDArray[np.bool_] = ~np.isin(vpage, list(self.audited.foreign))
        return own

    def rules_that_apply(self, kind: PageKind) -> tuple[PageRule, ...]:
        """Return the rules about pages of a kind, but for those that do not apply."""
        return tuple(
            rule for rule in RULES_BY_KIND[kind] if rule.why_not(self.expected, kind) is None
        )

    def report(self, violations: PageViolations, checked: Callable[[int], tuple[int, int]]) -> None:
        """Report violations; parameters are those of :meth:`PageViolations.report`."""
        self.strangers |= page_uninitialised in violations or page_zone in violations
        violations.report(self.audited.findings, checked)

    def finish(self, regions: list[Region]) -> ContentsChecked:
        """Record what was checked, and what not."""
        findings = self.audited.findings
        findings.checked(*self.asked)
        if self.altmap_unreadable and not (self.unreadable or self.base_unreadable):
            # Where the device's own are lost, too, one line says so.
            what = "struct pages of the altmap's own frames"
            self.audited.not_read[what] += self.altmap_unreadable
        for reason, holds in (
            (_UNREAD, self.missed),
            (_SAMPLED, self.sampled),
            (_STRANGERS, self.strangers),
        ):
            if holds:
                findings.skipped(reason, *RULES_BY_KIND[self.kind])
        if self.audited.order:
            for rule in (pgmap_link, compound_order):
                if self.asked and rule not in self.asked and not self.missed:
                    findings.skipped("no struct page that could be read is a head", rule)
            if tail_contents not in self.asked:
                findings.skipped("no tail pages that share a frame", tail_contents)
            facts = HeadFacts(self.audited.pagemap, self.heads, self.masked, self.vmemmap.geometry)
            for one in HEAD_ALIGNMENT:
                findings.check(one, facts)
        return counted(regions, self.vmemmap)._replace(
            compounds_checked=self.checked,
            compounds_unreadable=self.unreadable,
            base_pages_checked=self.base_checked,
            base_pages_unreadable=self.base_unreadable,
        )
