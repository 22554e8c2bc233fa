# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Population of the vmemmap on ppc64 with the radix MMU.

Source: ``arch/powerpc/mm/book3s64/radix_pgtable.c`` (6.6 and newer). Functions have the
kernel's names, less ``radix__``.
"""

from __future__ import annotations

from .objects import Struct
from .pagetable import PRESENT, PSE
from .vmemmap import Vmemmap, pgmap_vmemmap_nr

__all__ = ("RadixVmemmap",)


class RadixVmemmap(Vmemmap):
    """Maps struct pages of device memory as ppc64 does."""

    def vmemmap_populate(self, start: int, end: int, nid: int, altmap: Struct | None) -> None:
        """
        ``radix__vmemmap_populate()``: a PMD where the address starts one, else base pages.

        A PMD that a section nearby has is used. Both come from the altmap, but for what would
        cover struct pages outside of the device, and blocks that it has no aligned room for.
        """
        units = self.units
        addr = start // units.page_size * units.page_size
        while addr < end:
            entry = self.tables.entry(addr, units.pmd_shift)
            stop = min((addr // units.pmd_size + 1) * units.pmd_size, end)
            if entry & PSE:
                addr = stop
                continue
            crosses = altmap is not None and self.altmap_cross_boundary(
                altmap, addr, units.pmd_size
            )
            if not (entry & PRESENT or addr % units.pmd_size or crosses) and self.vmemmap_set_pmd(
                addr, nid, altmap
            ):
                addr = stop
                continue
            self.pte_populate(addr, nid, altmap, None)
            addr += units.page_size

    def vmemmap_set_pmd(self, addr: int, nid: int, altmap: Struct | None) -> bool:
        """The same as elsewhere; struct pages may stay as they were allocated."""
        if not super().vmemmap_set_pmd(addr, nid, altmap):
            return False
        self._clear(
            self.tables.frame(self.tables.entry(addr, self.units.pmd_shift) & ~PSE),
            self.units.pmd_pages,
        )
        return True

    def _clear(self, pfn: int, count: int) -> None:
        """Have frames in memory that nothing may be written to."""
        for i in range(count):
            self.memory.page(pfn + i)

    def altmap_cross_boundary(self, altmap: Struct, addr: int, size: int) -> bool:
        """``altmap_cross_boundary()``: whether a mapping has struct pages of other memory."""
        first = self.addresses.page_to_pfn(addr)
        last = first + size // self.size - 1
        return bool(last > altmap["end_pfn"] or first < altmap["base_pfn"])

    def pte_populate(self, addr: int, nid: int, altmap: Struct | None, reuse: int | None) -> int:
        """
        ``vmemmap_pte_populate()``: map a page unless it is mapped.

        :return: its frame
        """
        table = self.tables.last(addr)
        assert table is not None
        index = self.tables.index(addr, self.units.page_shift)
        if int(table[index]):
            return self.tables.frame(int(table[index]))
        if altmap is not None and self.altmap_cross_boundary(altmap, addr, self.units.page_size):
            altmap = None
        if reuse is not None:
            pfn = reuse
            self.get_page(pfn, 1)
        elif altmap is not None:
            pfn = self.altmap_alloc_block_buf(1, altmap)
        else:
            pfn = self.pages.alloc_page(nid)
            self._clear(pfn, 1)
        table[index] = self.tables.pte(pfn)
        return pfn

    def vmemmap_populate_compound_pages(
        self, start_pfn: int, start: int, end: int, nid: int, pgmap: Struct
    ) -> None:
        """
        ``vmemmap_populate_compound_pages()``: a frame for the head, one for the first page of
        tails, and the latter again. Compound pages start at multiples of their size, wherever
        the range does.
        """
        units, per_compound = self.units, pgmap_vmemmap_nr(pgmap)
        addr = start // units.page_size * units.page_size
        pfn = self.addresses.page_to_pfn(addr)
        while addr < end:
            entry = self.tables.entry(addr, units.pmd_shift)
            if entry & PSE:
                # "existing huge mapping. Skip the range"
                stop = min((addr // units.pmd_size + 1) * units.pmd_size, end)
                pfn += (stop - addr) // self.size
                addr = stop
                continue
            count, offset = 1, pfn % per_compound
            if not self.tables.entry(addr, units.page_shift):
                if not offset:
                    self.pte_populate(addr, nid, None, None)
                    if not self.tables.entry(addr + units.page_size, units.pmd_shift) & PSE:
                        self.pte_populate(addr + units.page_size, nid, None, None)
                    count = 2
                else:
                    tail = self.vmemmap_compound_tail_page(addr, offset, nid)
                    self.pte_populate(addr, nid, None, tail)
            pfn += count * self.pfns_a_page
            addr += count * units.page_size

    @property
    def pfns_a_page(self) -> int:
        """By how many page frames the kernel advances for each page of the vmemmap."""
        return self.units.page_size // self.size if self.behaviour.radix_population else 1

    def vmemmap_compound_tail_page(self, addr: int, offset: int, nid: int) -> int | None:
        """
        ``vmemmap_compound_tail_page()``: the frame of the compound page's first page of tails,
        mapped if it is not.

        :param offset: page frames from the compound page's head
        :return: ``None`` if a large leaf maps that page
        """
        units = self.units
        size = units.page_size
        second = addr - offset * self.size + size
        if self.tables.entry(second, units.pmd_shift) & PSE:
            return None
        if not self.tables.entry(second, units.page_shift):
            self.pte_populate(second - size, nid, None, None)
            return self.pte_populate(second, nid, None, None)
        return self.tables.frame(self.tables.entry(second, units.page_shift))
