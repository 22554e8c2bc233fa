# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Population of the vmemmap of device memory.

Sources: ``mm/sparse-vmemmap.c`` and ``arch/x86/mm/init_64.c``. Functions have
the kernel's names. What looks wrong here is wrong there: the layout of
ranges that don't start where compounds and sections do is the kernel's.
"""

from __future__ import annotations

from ..errors import UsageError
from .addresses import AddressSpace
from .architectures import SimulatedArch
from .memmap import MemMap
from .memory import Memory
from .objects import Struct
from .page_alloc import PageAllocator
from .pagetable import KERNEL_LARGE, PRESENT, PSE, PageTables
from .versions import Behaviour

__all__ = ("Vmemmap", "vmemmap_can_optimize")

#: pages of the vmemmap that each compound page keeps: head and one of tails
VMEMMAP_RESERVE_NR = 2


def vmemmap_can_optimize(altmap: Struct | None, pgmap: Struct | None) -> bool:
    """
    ``include/linux/mm.h: vmemmap_can_optimize()`` where the architecture wants it.

    :param pgmap: ``struct dev_pagemap``; System RAM has none
    """
    if pgmap is None:
        return False
    size = pgmap.memory.layouts.sizeof("page")
    pages = pgmap_vmemmap_nr(pgmap) * size // pgmap.memory.units.page_size
    wanted = pgmap.memory.arch.deduplicates and altmap is None
    return wanted and pages > VMEMMAP_RESERVE_NR and not size & size - 1


def pgmap_vmemmap_nr(pgmap: Struct) -> int:
    """``include/linux/memremap.h: pgmap_vmemmap_nr()``: pages in a compound."""
    return 1 << pgmap["vmemmap_shift"]


class Vmemmap:
    """Maps struct pages of device memory."""

    def __init__(
        self,
        memory: Memory,
        tables: PageTables,
        pages: PageAllocator,
        memmap: MemMap,
        addresses: AddressSpace,
        behaviour: Behaviour,
        arch: SimulatedArch,
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.tables = tables
        self.pages = pages
        self.memmap = memmap
        self.addresses = addresses
        #: sizeof(struct page)
        self.size = addresses.struct_page_size
        self.behaviour = behaviour
        self.arch = arch
        #: whether the struct pages of a subsection fill pages, so that no page is used in part
        self.whole_subsections = (
            self.units.pages_per_subsection * self.size % (self.units.page_size) == 0
        )
        #: what nr_memmap_pages counts (6.11 and later)
        self.nr_memmap_pages = 0
        #: from here to the end of a large leaf, nothing has been marked unused yet
        self.unused_pmd_start = 0

    def populate_section_memmap(
        self, pfn: int, count: int, nid: int, altmap: Struct | None, pgmap: Struct | None
    ) -> None:
        """``__populate_section_memmap()``: of pages that lie in one section."""
        start = self.addresses.pfn_to_page(pfn)
        end = self.addresses.pfn_to_page(pfn + count)
        if pgmap is not None and self.can_optimize(pfn, altmap, pgmap):
            self.vmemmap_populate_compound_pages(pfn, start, end, nid, pgmap)
        else:
            self.vmemmap_populate(start, end, nid, altmap)
        if not self.memmap.exists(pfn + count - 1):
            # vmemmap_populate_range() goes from the start in steps of a page, aligned or not.
            raise UsageError(
                f"{self.arch.name} maps no page for the end of what begins at"
                f" {pfn * self.units.page_size:#x}, within a page of the memory map:"
                " the kernel crashes"
            )
        self.nr_memmap_pages += self.section_nr_vmemmap_pages(pfn, count, altmap, pgmap)

    def can_optimize(self, pfn: int, altmap: Struct | None, pgmap: Struct) -> bool:
        """Whether tail pages in the section of a pfn share frames."""
        return vmemmap_can_optimize(altmap, pgmap)

    def section_nr_vmemmap_pages(
        self, pfn: int, count: int, altmap: Struct | None, pgmap: Struct | None
    ) -> int:
        """``mm/sparse.c: section_nr_vmemmap_pages()``: how many the kernel says it used."""
        if pgmap is None or not vmemmap_can_optimize(altmap, pgmap):
            return -(-count * self.size // self.units.page_size)
        per_compound = pgmap_vmemmap_nr(pgmap)
        if per_compound < self.units.pages_per_section:
            return VMEMMAP_RESERVE_NR * count // per_compound
        return 0 if pfn % per_compound else VMEMMAP_RESERVE_NR

    def compound_nr_pages(
        self, head: int, altmap: Struct | None, pgmap: Struct, is_early: bool
    ) -> int:
        """
        ``mm/mm_init.c: compound_nr_pages()``: how many struct pages of a compound page to
        initialise. Where tails share a frame, that frame's. (Since 6.1.184, 6.12.97 all of
        them if the first section's memory map is from boot.)

        :param is_early: whether it is
        """
        if not vmemmap_can_optimize(altmap, pgmap) or is_early:
            return pgmap_vmemmap_nr(pgmap)
        return VMEMMAP_RESERVE_NR * self.memmap.per_page

    # mm/sparse-vmemmap.c

    def vmemmap_populate_compound_pages(
        self, start_pfn: int, start: int, end: int, nid: int, pgmap: Struct
    ) -> None:
        """
        ``vmemmap_populate_compound_pages()``: a frame for the head, one for the
        first page of tails, and the latter again for all other pages of tails.

        :param start: virtual address of the first struct page
        :param end: after the last one
        """
        if self.reuse_compound_section(start_pfn, pgmap):
            self.vmemmap_populate_range(start, end, nid, self.compound_section_tail_page(start))
            return
        size = min(end - start, pgmap_vmemmap_nr(pgmap) * self.size)
        for addr in range(start, end, size):
            self.vmemmap_populate_address(addr, nid, None)
            tail = self.vmemmap_populate_address(addr + self.units.page_size, nid, None)
            self.vmemmap_populate_range(addr + 2 * self.units.page_size, addr + size, nid, tail)

    def reuse_compound_section(self, start_pfn: int, pgmap: Struct) -> bool:
        """
        ``reuse_compound_section()``: whether pages continue a compound page
        that began in an earlier section. Counted from where the range being
        added starts, whatever its alignment.
        """
        range_start = pgmap[f"ranges[{pgmap['nr_range']}].start"]
        per_compound = pgmap_vmemmap_nr(pgmap)
        offset = start_pfn - range_start // self.units.page_size
        return offset % per_compound != 0 and per_compound > self.units.pages_per_subsection

    def compound_section_tail_page(self, addr: int) -> int:
        """
        ``compound_section_tail_page()``: get the frame that maps the page before
        an address. Sections are added in order, so it is one of tails.

        The kernel goes down to a PTE without asking whether there is a table:
        below a large leaf (of the memory map made at boot) it takes the mapped
        struct pages themselves for one.
        """
        units = self.units
        addr -= units.page_size
        leaf = self.tables.leaf(addr)
        if leaf is None:
            raise ValueError(f"nothing mapped at {addr:#x}")
        shift, entry = leaf
        if shift == units.pmd_shift:
            index = self.tables.index(addr, units.page_shift)
            entry = int(self.memory.words(self.tables.frame(entry))[index])
        return self.tables.frame(entry)

    def vmemmap_populate_range(self, start: int, end: int, nid: int, reuse: int) -> None:
        """``vmemmap_populate_range()`` with a page to reuse; a table at a time."""
        units = self.units
        while start < end:
            next_table = min((start // units.pmd_size + 1) * units.pmd_size, end)
            table = self.tables.last(start)
            if table is None:
                # The kernel would take struct pages of the leaf for a table.
                raise UsageError(
                    f"on {self.arch.name}, no part of a section can be deduplicated after one that"
                    " was not"
                )
            index = self.tables.index(start, units.page_shift)
            entries = table[index : index + (next_table - start) // units.page_size]
            empty = entries == 0
            entries[empty] = self.tables.pte(reuse)
            self.get_page(reuse, int(empty.sum()))
            start = next_table

    def vmemmap_populate_address(
        self, addr: int, nid: int, reuse: int | None, altmap: Struct | None = None
    ) -> int:
        """
        ``vmemmap_populate_address()``: map one page unless it is mapped.

        The kernel goes down to a PTE without asking whether there is a table. Below a large
        leaf, which a neighbouring section has, it takes the start of the leaf for one: of the
        neighbour's struct pages.

        :return: its frame
        """
        units = self.units
        table = self.tables.last(addr)
        index = self.tables.index(addr, units.page_shift)
        if table is None:
            leaf = addr // units.pmd_size * units.pmd_size
            table, index = self.memmap.words_at(leaf + index * 8), 0
        if not int(table[index]):
            if reuse is None and altmap is not None:
                pfn = self.altmap_alloc_block_buf(1, altmap)
            elif reuse is None:
                pfn = self.pages.alloc_page(nid)
                if not self.whole_subsections:
                    self.memory.allocate(pfn, 1)
            else:
                pfn = reuse
                self.get_page(pfn, 1)
            table[index] = self.tables.pte(pfn)
        return self.tables.frame(int(table[index]))

    def vmemmap_populate_basepages(
        self, start: int, end: int, nid: int, altmap: Struct | None = None
    ) -> None:
        """``vmemmap_populate_basepages()``, from wherever in a page."""
        for addr in range(start, end, self.units.page_size):
            self.vmemmap_populate_address(addr, nid, None, altmap)

    def vmemmap_populate_hugepages(
        self, start: int, end: int, nid: int, altmap: Struct | None
    ) -> None:
        """
        ``vmemmap_populate_hugepages()``: with 2 MiB leaves.

        Where a section's memory map does not start or end with one, it uses the leaf of the
        next section, or fills up the table of one that was added in part.
        """
        units = self.units
        addr = start
        while addr < end:
            stop = min((addr // units.pmd_size + 1) * units.pmd_size, end)
            entry = self.tables.entry(addr, units.pmd_shift)
            in_part = bool(addr % units.pmd_size or stop % units.pmd_size)
            if not entry & PRESENT and self.vmemmap_set_pmd(addr, nid, altmap):
                if in_part and altmap is None:
                    leaf = self.tables.entry(addr, units.pmd_shift) & ~PSE
                    self.memory.allocate(self.tables.frame(leaf), units.pmd_pages)
                if in_part and self.arch.marks_unused:
                    self.vmemmap_use_new_sub_pmd(addr, stop)
            elif entry & PSE:
                if self.arch.marks_unused:
                    self.vmemmap_use_sub_pmd(addr, stop)
            else:
                own = altmap if self.behaviour.altmap_base_pages else None
                self.vmemmap_populate_basepages(addr, stop, nid, own)
            addr = stop

    def vmemmap_set_pmd(self, addr: int, nid: int, altmap: Struct | None) -> bool:
        """
        ``vmemmap_set_pmd()``: map with a large leaf.

        :return: whether there was one to be had; if there is none in the altmap, s390x and ppc64
            go on with base pages
        :raises UsageError: where the kernel does without the device then
        """
        units = self.units
        if altmap is None:
            pfn = self.pages.alloc_pages(units.pmd_shift - units.page_shift, nid)
        else:
            try:
                pfn = self.altmap_alloc_block_buf(units.pmd_pages, altmap)
            except UsageError:
                if self.arch.falls_back:
                    return False
                raise
        leaf = addr // units.pmd_size * units.pmd_size
        self.tables.set(leaf, units.pmd_shift, self.tables.pte(pfn, KERNEL_LARGE | PSE))
        return True

    # arch/x86/mm/init_64.c (5.13): what of a large leaf no section uses

    def vmemmap_flush_unused_pmd(self) -> None:
        """``vmemmap_flush_unused_pmd()``: whatever has been put there since."""
        if start := self.unused_pmd_start:
            self.memmap.mark_unused(start, -(-start // self.units.pmd_size) * self.units.pmd_size)
            self.unused_pmd_start = 0

    def vmemmap_use_sub_pmd(self, start: int, end: int) -> None:
        """``vmemmap_use_sub_pmd()``."""
        if self.unused_pmd_start == start:
            self.unused_pmd_start = end if end % self.units.pmd_size else 0
            return
        self.vmemmap_flush_unused_pmd()

    def vmemmap_use_new_sub_pmd(self, start: int, end: int) -> None:
        """``vmemmap_use_new_sub_pmd()``."""
        units = self.units
        self.vmemmap_flush_unused_pmd()
        self.memmap.mark_unused(start // units.pmd_size * units.pmd_size, start)
        if end % units.pmd_size:
            self.unused_pmd_start = end

    @staticmethod
    def altmap_alloc_block_buf(count: int, altmap: Struct) -> int:
        """
        ``altmap_alloc_block_buf()``: take frames of the device itself.

        :param count: frames, a power of 2: the block is naturally aligned
        """
        pfn = altmap["base_pfn"] + altmap["reserve"] + altmap["alloc"] + altmap["align"]
        padding = -pfn % count
        if altmap["alloc"] + altmap["align"] + padding + count > altmap["free"]:
            raise UsageError("the altmap is too small")
        altmap["align"] = altmap["align"] + padding
        altmap["alloc"] = altmap["alloc"] + count
        return pfn + padding

    def get_page(self, pfn: int, count: int) -> None:
        """Take references to a frame, one for each entry that maps it."""
        if count:
            self.memmap.add_refcount(pfn, count)

    # arch/x86/mm/init_64.c

    def vmemmap_populate(self, start: int, end: int, nid: int, altmap: Struct | None) -> None:
        """
        ``vmemmap_populate()``: on x86-64 and arm64 less than a section gets base pages; on
        x86-64 of RAM even if there is an altmap.
        """
        part = end - start < self.units.pages_per_section * self.size
        if not self.units.large_leaves or (part and not self.arch.leaves_in_parts):
            own = altmap if self.arch.altmap_in_parts else None
            self.vmemmap_populate_basepages(start, end, nid, own)
        else:
            self.vmemmap_populate_hugepages(start, end, nid, altmap)
