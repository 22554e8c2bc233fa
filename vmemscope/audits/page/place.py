# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a page is: resources, section, pagemap, zone, kind of memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...kernel import SUBSECTION_SIZE
from ...kernel.mem_section import section_flags
from ...kernel.mem_section_usage import read_subsections
from ...kernel.pglist_data import DEVICE
from ...report.documents.page import Place, Section
from ...vmemmap.layout import Populated, first_compound

if TYPE_CHECKING:
    from ...kernel.resource import Resource
    from ...machine import Kernel
    from ...report.documents.page import StructPage
    from ...vmemmap.pagemaps import PagemapLayout

__all__ = ("Places",)


class Places:
    """Finds where pages of a kernel are."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.vmemmap, self.layouts = kernel, kernel.vmemmap, kernel.layouts
        #: what could not be read, in words, and how often
        self.unread: Counter[str] = Counter()
        self.start()

    def start(self) -> None:
        """Forget what could not be read of one page; what all pages need is kept."""
        self.unread.clear()
        self.unread.update(self.kernel.unread)
        self.unread.update(one.message for one in self.kernel.zone_damage)

    def resources_of(self, pfn: int) -> tuple[Resource, ...]:
        """Return the resources that contain a page, outermost first."""
        physical = pfn * self.vmemmap.geometry.page_size
        holding = [r for r in self.kernel.resources if r.depth and r.start <= physical <= r.end]
        self.unread["names of resources"] += sum(not one.named for one in holding)
        return tuple(sorted(holding, key=lambda r: r.depth))

    def section_of(self, pfn: int) -> Section:
        """Read the section of a page."""
        sections, page_size = self.vmemmap.sections, self.vmemmap.geometry.page_size
        valid: bool | None
        number, within = divmod(pfn, sections.pages)
        subsection = within * page_size // SUBSECTION_SIZE
        index = sections.index(number)
        if index is None:
            if sections.damage:
                self.unread["part of the section table"] += 1
            valid = None if sections.damage else False
            return Section(number, False, False, (), subsection, valid, None)
        found = read_subsections(self.kernel.prog, sections, page_size, np.array([index]))
        valid = bool(found.valid.contains(np.array([pfn]))[0])
        if found.unknown.total:
            self.unread["which subsections are valid"] += 1
            valid = None
        flags = tuple(section_flags(self.kernel.prog, int(sections.raw[index])))
        online = bool(sections.online[index])
        order = None if sections.orders is None else int(sections.orders[index])
        return Section(number, True, online, flags, subsection, valid, order)

    def place_of(self, pfn: int) -> tuple[Place | None, PagemapLayout | None]:
        """Find the pagemap of a page, and where in it the page is."""
        for layout in self.layouts:
            for first, end in layout.pfns:
                if first <= pfn < end:
                    return self._place(pfn, layout, first, end), layout
        return None, None

    def _place(self, pfn: int, layout: PagemapLayout, first: int, end: int) -> Place:
        geometry, pagemap = self.vmemmap.geometry, layout.pagemap
        pieces = layout.pieces(geometry, self.vmemmap.sections, layout.dedup.applied)
        vpage = geometry.vpage(pfn)
        populated = next((p.populated.value for p in pieces if p.start <= vpage < p.end), "unknown")
        shared = self.kernel.shared_pages.get(vpage)
        if shared is not None and not shared.kept_by(layout):
            populated = Populated.NEIGHBOUR.value
        data = first_compound(pagemap, first)
        altmap = None
        if pagemap.altmap is not None:
            reserved = first + pagemap.altmap.reserve
            altmap = "reserve" if pfn < reserved else "map" if pfn < data else "data"
        compound = head = None
        if layout.order and pfn >= data:
            compound = pfn - data >> layout.order
            head = data + (compound << layout.order)
        return Place(
            address=pagemap.address,
            name=layout.name,
            type=pagemap.type,
            start=first * geometry.page_size,
            end=end * geometry.page_size - 1,
            populated=populated,
            altmap=altmap,
            compound=compound,
            head_pfn=head,
            order=layout.order,
        )

    def zone_of(
        self, pfn: int, page: StructPage, place: Place | None, section: Section
    ) -> tuple[int | None, str | None]:
        """Return node and zone: of the page's flags if valid, else by the zones' spans."""
        flags = page.flags
        if flags is not None and flags.zone_name is not None:
            return flags.node, flags.zone_name
        if section.present and not section.online and place is None:
            return None, None
        spanning = [
            (zone.nid, zone.name)
            for zone in self.kernel.zones
            if zone.start <= pfn < zone.end and (zone.name == DEVICE) == (place is not None)
        ]
        return spanning[0] if len(spanning) == 1 else (None, None)

    def memory_of(self, pfn: int) -> str:
        """Return the kind of memory that a frame is in: RAM, device or no memory."""
        one = np.array([pfn], dtype=np.uint64)
        if self.vmemmap.ram.contains(one)[0]:
            return "RAM"
        return "device" if self.place_of(pfn)[0] is not None else "no memory"
