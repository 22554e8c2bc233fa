# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Population of the vmemmap of device memory in the coming kernel.

Source: ``mm/sparse-vmemmap.c`` in mm-unstable of September 2026. The order in
``struct mem_section`` decides what is shared, and all devices of a node and order share one
frame of tail pages. As in :mod:`.vmemmap`, what looks wrong here is wrong there.
"""

from __future__ import annotations

from .objects import Struct
from .pagetable import PSE
from .radix import RadixVmemmap
from .shared_tails import SharedTails
from .sparse import Sections
from .vmemmap import Vmemmap, pgmap_vmemmap_nr

__all__ = ("RadixSectionVmemmap", "SectionVmemmap")


class SectionVmemmap(Vmemmap):
    """Maps struct pages of device memory by what sections say."""

    sections: Sections
    tails: SharedTails

    def optimizable(self, pfn: int) -> bool:
        """``section_vmemmap_optimizable()``: whether the section of a pfn shares tail pages."""
        order = self.sections.compound_order(pfn // self.units.pages_per_section)
        return order >= self.tails.min_order and not self.size & self.size - 1

    def can_optimize(self, pfn: int, altmap: Struct | None, pgmap: Struct) -> bool:
        """Only the section decides."""
        return self.optimizable(pfn)

    def section_nr_vmemmap_pages(
        self, pfn: int, count: int, altmap: Struct | None, pgmap: Struct | None
    ) -> int:
        """``section_nr_vmemmap_pages()``: VMEMMAP_OPTIMIZATION_PAGES is 1."""
        if not self.optimizable(pfn):
            return -(-count * self.size // self.units.page_size)
        per_compound = 1 << self.sections.compound_order(pfn // self.units.pages_per_section)
        if per_compound < self.units.pages_per_section:
            return count // per_compound
        return int(pfn % per_compound == 0)

    def vmemmap_populate_compound_pages(
        self, start_pfn: int, start: int, end: int, nid: int, pgmap: Struct
    ) -> None:
        """
        ``vmemmap_populate_compound_pages()``: a frame for the head, the frame of the node's
        devices for all else.
        """
        order = self.sections.compound_order(start_pfn // self.units.pages_per_section)
        tail = self.tails.page(nid, "ZONE_DEVICE", order)
        if self.reuse_compound_section(start_pfn, pgmap):
            self.vmemmap_populate_range(start, end, nid, tail)
            return
        size = min(end - start, self.size << order)
        for addr in range(start, end, size):
            self.vmemmap_populate_address(addr, nid, None)
            self.vmemmap_populate_range(addr + self.units.page_size, addr + size, nid, tail)

    def compound_nr_pages(
        self, head: int, altmap: Struct | None, pgmap: Struct, is_early: bool
    ) -> int:
        """
        ``compound_nr_pages()``: those in the head's frame (VMEMMAP_OPTIMIZATION_NR_STRUCT_PAGES)
        if the head's section shares tail pages, else all, whatever the following sections do.
        """
        return self.memmap.per_page if self.optimizable(head) else pgmap_vmemmap_nr(pgmap)


class RadixSectionVmemmap(SectionVmemmap, RadixVmemmap):
    """
    The same on ppc64 with the radix MMU.

    Source: ``arch/powerpc/mm/book3s64/radix_pgtable.c`` of that tree.
    """

    def vmemmap_populate_compound_pages(
        self, start_pfn: int, start: int, end: int, nid: int, pgmap: Struct
    ) -> None:
        """
        ``vmemmap_populate_compound_pages()``: a frame for what starts at a multiple of a compound
        page, the frame of the node's devices for all else; what is mapped stays.
        """
        units = self.units
        order = self.sections.compound_order(start_pfn // units.pages_per_section)
        tail = self.tails.page(nid, "ZONE_DEVICE", order)
        for addr in range(start, end, units.page_size):
            if self.tables.entry(addr, units.pmd_shift) & PSE:
                # "existing huge mapping. Skip the range"
                continue
            offset = self.addresses.page_to_pfn(addr) % (1 << order)
            self.pte_populate(addr, nid, None, tail if offset else None)
