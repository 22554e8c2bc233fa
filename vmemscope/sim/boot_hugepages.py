# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Gigantic pages that are reserved at boot (``hugepagesz=1G hugepages=N``).

Sources: ``mm/hugetlb.c: alloc_bootmem()``, ``mm/hugetlb_vmemmap.c:
hugetlb_vmemmap_optimize_bootmem_page()``, ``mm/sparse-vmemmap.c: vmemmap_alloc_pte()`` of the
coming kernel. There, the sections of a page get its order before their memory map is
populated: a frame for the head, and the zone's for all else, with writable entries. HugeTLB
writes to the struct pages in the head's frame only, and protects the entries of the others
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .pagetable import PageTables

if TYPE_CHECKING:
    from .addresses import AddressSpace
    from .architectures import SimulatedArch
    from .page_alloc import Memblock
    from .scenario import HugePages
    from .sparse import Sections

__all__ = ("BootHugePages",)


class BootHugePages:
    """
    Allocates gigantic pages of memblock, and populates the memory map of their sections.

    :param struct_page: sizeof(struct page)
    """

    def __init__(
        self,
        pools: Sequence[HugePages],
        memblock: Memblock,
        sections: Sections,
        tables: PageTables,
        addresses: AddressSpace,
        arch: SimulatedArch,
    ) -> None:
        self.memblock, self.sections, self.tables = memblock, sections, tables
        self.addresses, self.units = addresses, arch.units
        #: (node, zone, order) -> frame of the tail pages, which is from memblock, too
        self.tails: dict[tuple[int, str, int], int] = {}
        #: first pfns, in the order of the pools
        self.pages: list[list[int]] = []
        #: pfns of the head's frames
        self.heads: list[int] = []
        size = addresses.struct_page_size
        optimizes = arch.hvo and sections.have_orders and not size & size - 1
        for pool in pools:
            order = self.units.huge_orders[pool.gigantic]
            found = []
            for _ in range(pool.count if pool.boot else 0):
                found.append(memblock.alloc(1 << order, 1 << order, pool.nid))
                if optimizes and pool.optimized:
                    sections.section_set_compound_order_range(found[-1], 1 << order, order)
            self.pages.append(found)

    def populate(self, nr: int, nid: int) -> None:
        """``vmemmap_populate_basepages()`` of a section that has an order."""
        units, per_page = self.units, self.units.page_size // self.addresses.struct_page_size
        order = self.sections.compound_order(nr)
        first = nr * units.pages_per_section
        for pfn in range(first, first + units.pages_per_section, per_page):
            # vmemmap_optimizable_pfn()
            if pfn % (1 << order) >= per_page:
                frame = self._tail(nid, units.zone_of(pfn), order)
            else:
                frame = self.memblock.alloc(1, nid=nid)
                self.heads.append(frame)
            va = self.addresses.pfn_to_page(pfn)
            self.tables.set(va, units.page_shift, self.tables.pte(frame))

    def _tail(self, nid: int, zone: str, order: int) -> int:
        key = nid, zone, order
        if key not in self.tails:
            self.tails[key] = self.memblock.alloc(1, nid=nid)
        return self.tails[key]
