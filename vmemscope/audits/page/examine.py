# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read everything about one page: sections, zones, pagemaps, page tables, frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...report.documents.common import TargetInfo
from ...report.documents.page import PageReport, PageSummary, ResourceReport, StepReport
from ...vmemmap.tables import Kind, trace
from .contents import check_compound
from .frame import FrameReader
from .meaning import understand
from .place import Places
from .state import describe
from .struct_page import StructPageReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...machine import Kernel
    from ...report.documents.page import StructPage
    from ...vmemmap.tables import Trace

__all__ = ("Examination", "examine")


class Examination:
    """
    Reads everything about pages of one kernel.

    :param pfns: pages that will be read; one walk over the vmemmap serves all of them
    """

    def __init__(self, kernel: Kernel, pfns: Sequence[int] = ()) -> None:
        self.kernel, self.vmemmap = kernel, kernel.vmemmap
        self.places = Places(kernel)
        self.pages = StructPageReader(self.places)
        self.frames = FrameReader(self.pages, pfns)
        #: the frames of tail pages that devices share, by pfn
        self.shared = {one.pfn: one for one in kernel.shared_tails.values() if one.pfn is not None}

    def report(self, number: int, meaning: str | None) -> PageReport:
        """
        Read a page; parameters and errors are those of :func:`examine`.
        """
        kernel, vmemmap, places, frames = self.kernel, self.vmemmap, self.places, self.frames
        places.start()
        pfn, understood = understand(
            number, meaning, vmemmap, kernel.physmem_bits, kernel.direct_map
        )
        resources, section = places.resources_of(pfn), places.section_of(pfn)
        place, layout = places.place_of(pfn)
        page = self.pages.read(pfn)
        way = trace(vmemmap.page_tables, vmemmap.table, vmemmap.geometry.page_address(pfn))
        self._count_unread(page, way)
        nid, zone = places.zone_of(pfn, page, place, section)
        report = PageReport(
            target=TargetInfo.about(kernel),
            meaning=understood,
            pfn=pfn,
            physical=pfn * vmemmap.geometry.page_size,
            resources=tuple(ResourceReport.of(one) for one in resources),
            section=section,
            node=nid,
            zone=zone,
            place=place,
            page=page,
            walk=tuple(StepReport.of(one) for one in way.steps),
            frame=frames.frame_of(way),
            sharing=frames.sharing(pfn, page, place, way),
            backs=frames.backing(pfn),
            state=(),
            findings=()
            if place is None or layout is None
            else check_compound(pfn, place, layout, vmemmap, kernel.flags),
            summary=PageSummary(),
        )
        in_ram = any(one.is_system_ram for one in resources)
        return report.changed(
            state=tuple(describe(report, in_ram, vmemmap.geometry.page_size, self.shared)),
            not_read=tuple(f"{what}: {n}" for what, n in sorted(places.unread.items()) if n),
        )

    def _count_unread(self, page: StructPage, way: Trace) -> None:
        """Count what of a ``struct page`` could not be read."""
        if way.kind is Kind.UNREADABLE:
            self.places.unread["page tables on the way to the struct page"] += 1
        elif way.kind is Kind.MAPPED and not page.readable:
            where = _MEMORY.get(self.places.memory_of(way.pfn or 0), "no memory that is known")
            self.places.unread[f"the struct page, which lies in {where}"] += 1


#: by what :meth:`.Places.memory_of` says
_MEMORY = {"RAM": "RAM", "device": "the device itself"}


def examine(
    kernel: Kernel, number: int, meaning: str | None, reader: Examination | None = None
) -> PageReport:
    """
    Read everything about one page, once.

    :param number: page frame number, physical or virtual address
    :param meaning: which of these: pfn, phys, address, or ``None`` to find out
    :param reader: of the same kernel, which has read other pages
    :raises VmemscopeError: if there is no such page
    """
    return (Examination(kernel) if reader is None else reader).report(number, meaning)
