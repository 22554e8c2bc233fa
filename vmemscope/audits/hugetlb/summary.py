# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report of a HugeTLB audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...columns import select
from ...kernel.hugetlb_folio import FolioList
from ...report.documents.common import TargetInfo
from ...report.documents.finding import BugReport
from ...report.documents.hugetlb import (
    FolioReport,
    HstateReport,
    HugetlbReport,
    HugetlbSummary,
    HvoReport,
    NodeCounts,
    TailFrame,
)
from ...rules import rules_of
from ...rules.bugs import Symptoms
from ...rules.hugetlb_vmemmap import initialised_again
from ...rules.rule import Scope
from ...vmemmap.struct_pages import self_hosted
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...vmemmap.layout import Geometry
    from .facts import HugetlbFacts

__all__ = ("summarise",)

_PLACES = {FolioList.FREE: "free", FolioList.ACTIVE: "in use", FolioList.NONE: "elsewhere"}


def summarise(facts: HugetlbFacts, folios: bool) -> HugetlbReport:
    """
    Sum up.

    :param folios: list each folio, too
    """
    hstates = tuple(_hstate(facts, index) for index in range(len(facts.hstates)))
    found = facts.found
    outcomes = facts.findings.outcomes(
        rules_of(Scope.HUGETLB, facts.kernel.arch.name, facts.scheme.id)
    )
    report = HugetlbReport(
        target=TargetInfo.about(facts.kernel),
        present=facts.present,
        hvo=HvoReport.of(
            facts.hvo,
            never=_never(facts.vmemmap.geometry),
            protected=facts.vmemmap.geometry.arch.read_only,
        ),
        hstates=hstates,
        shared_tails=_tails(facts),
        summary=HugetlbSummary(
            folios=sum(one.folios for one in hstates),
            optimized=sum(one.optimized for one in hstates),
            pages=sum(one.pages for one in hstates),
            frames=sum(one.frames for one in hstates),
            saved_bytes=sum(one.saved_bytes for one in hstates),
            savable_bytes=sum(one.savable_bytes for one in hstates),
            read_only=found.read_only,
            walked=found.mapped,
            not_read=tuple(f"{what}: {n}" for what, n in sorted(facts.unread.items()) if n),
        ),
        folios=_folios(facts) if folios else (),
        bugs=BugReport.found_by(
            Symptoms(
                {one.rule: one.violations for one in outcomes if one.violations},
                gigantic_tails=_initialised_again(facts),
            )
        ),
        findings=facts.findings.finish(),
        outcomes=outcomes,
    )
    return report.changed()


def _never(geometry: Geometry) -> str | None:
    """``mm/hugetlb_vmemmap.h: hugetlb_vmemmap_optimizable_size()``."""
    size = geometry.struct_page_size
    if size & (size - 1):
        return f"struct page has {size} bytes, not a power of two"
    return None


def _hstate(facts: HugetlbFacts, index: int) -> HstateReport:
    hstate, geometry = facts.hstates[index], facts.vmemmap.geometry
    here = facts.folios.hstate == index
    folios, maps = select(facts.folios, here), select(facts.found.maps, here)
    # Several that are smaller than a page of the vmemmap (ppc64 with pages of 64 KiB) lie in one.
    own = np.ones(len(maps.first), dtype=np.bool_)
    own[1:] = maps.first[1:] != maps.first[:-1]
    mapped, read_only = int(maps.mapped[own].sum()), int(maps.read_only.sum())
    # Frames that tail pages share with other folios; else they map that of their own head.
    tails = maps.low[(maps.read_only > 0) & (maps.low != maps.kept_pfn)]
    frames = mapped - read_only + len(np.unique(tails))
    saves = facts.hvo.built_in and not geometry.page_size % geometry.struct_page_size
    # mm/hugetlb_vmemmap.c: hugetlb_vmemmap_optimize_folio() leaves those alone whose memory map
    # lies in their own memory block.
    hosted = np.zeros(len(folios.head), dtype=np.bool_)
    if saves:
        known = (maps.head_kind == Kind.MAPPED) & (maps.writable > 0)
        hosted[known] = self_hosted(facts.vmemmap, maps.head_pfn[known])
    flagged = (folios.private & np.uint64(facts.hvo.flag)) != 0
    return HstateReport(
        address=hstate.address,
        name=hstate.name,
        order=hstate.order,
        size=geometry.page_size << hstate.order,
        nr_huge_pages=hstate.nr,
        free_huge_pages=hstate.free,
        resv_huge_pages=hstate.reserved,
        surplus_huge_pages=hstate.surplus,
        folios=len(folios.head),
        free=int(np.count_nonzero(folios.place == FolioList.FREE)),
        in_use=int(np.count_nonzero(folios.place == FolioList.ACTIVE)),
        elsewhere=int(np.count_nonzero(folios.place == FolioList.NONE)),
        flagged=int(np.count_nonzero(flagged)),
        optimized=int(np.count_nonzero(maps.read_only)),
        pages=int((maps.end - maps.first)[own].sum()),
        mapped=mapped,
        read_only=read_only,
        unreadable=int(maps.unreadable[own].sum()),
        frames=frames,
        saved_bytes=(mapped - frames) * geometry.page_size,
        savable_bytes=int(maps.writable[~hosted & own].sum()) * geometry.page_size if saves else 0,
        self_hosted=int(np.count_nonzero(hosted)),
        nodes=_by_node(
            None if facts.nid is None else facts.nid[here], folios.place, maps.read_only
        ),
    )


def _by_node(
    nid: NDArray[np.int64] | None, place: NDArray[np.uint8], read_only: NDArray[np.int64]
) -> tuple[NodeCounts, ...]:
    if nid is None:
        nid = np.full(len(place), -1, dtype=np.int64)
    counts = []
    for one in np.unique(nid).tolist():
        here = nid == one
        counts.append(
            NodeCounts(
                node=None if one < 0 else one,
                folios=int(np.count_nonzero(here)),
                free=int(np.count_nonzero(place[here] == FolioList.FREE)),
                optimized=int(np.count_nonzero(read_only[here])),
            )
        )
    return tuple(counts)


def _initialised_again(facts: HugetlbFacts) -> int:
    gigantic = {hstate.order for hstate in facts.hstates if hstate.gigantic}
    return sum(
        one.tail.order in gigantic
        and one.words is not None
        and initialised_again(one.words, facts.vmemmap.page)
        for one in facts.shared
    )


def _tails(facts: HugetlbFacts) -> tuple[TailFrame, ...]:
    maps = facts.found.maps
    low = maps.low[(maps.read_only > 0) & (maps.low == maps.high)]
    return tuple(
        TailFrame(
            node=one.tail.nid,
            zone=one.tail.zone_name,
            order=one.tail.order,
            pfn=one.pfn,
            refcount=one.refcount,
            folios=0 if one.pfn is None else int(np.count_nonzero(low == np.uint64(one.pfn))),
        )
        for one in facts.shared
    )


def _folios(facts: HugetlbFacts) -> tuple[FolioReport, ...]:
    folios, maps, geometry = facts.folios, facts.found.maps, facts.vmemmap.geometry
    flagged = ((folios.private & np.uint64(facts.hvo.flag)) != 0).tolist()
    found = []
    for i, pfn in enumerate(folios.head.tolist()):
        hstate = facts.hstates[int(folios.hstate[i])]
        shares = bool(maps.read_only[i]) and maps.low[i] == maps.high[i]
        found.append(
            FolioReport(
                pfn=pfn,
                page=geometry.page_address(pfn),
                hstate=hstate.name,
                size=geometry.page_size << hstate.order,
                node=None if facts.nid is None else int(facts.nid[i]),
                state=_PLACES[FolioList(int(folios.place[i]))],
                flagged=flagged[i],
                pages=int(maps.end[i] - maps.first[i]),
                read_only=int(maps.read_only[i]),
                head_pfn=int(maps.head_pfn[i]) if maps.head_kind[i] == Kind.MAPPED else None,
                tail_pfn=int(maps.low[i]) if shares else None,
            )
        )
    return tuple(found)
