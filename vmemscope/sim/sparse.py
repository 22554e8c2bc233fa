# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory sections: ``mem_section`` and what hangs off it.

Source: ``mm/sparse.c`` with SPARSEMEM_EXTREME and SPARSEMEM_VMEMMAP.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UsageError
from .objects import KernelMemory, Struct
from .vmemmap import Vmemmap, vmemmap_can_optimize

__all__ = ("Sections",)

_MIGRATE_MOVABLE = 1


class Sections:
    """
    All sections.

    :param base: virtual address of the array of roots
    :param roots: length of that array
    :param alloc: gets zeroed memory: size in bytes -> virtual address
    :param pageblock_bits: see :attr:`.Behaviour.pageblock_bits`
    """

    def __init__(
        self,
        memory: KernelMemory,
        base: int,
        roots: int,
        alloc: Callable[[int], int],
        pageblock_bits: int,
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.base = base
        self.roots = roots
        self.alloc = alloc
        self._size = memory.layouts.sizeof("mem_section")
        self.sections_per_root = self.units.page_size // self._size
        self._pageblock_bits = pageblock_bits
        #: the member with the order; its name is the first in early postings
        self._order = next(
            (
                name
                for name in ("order", "compound_page_order")
                if memory.layouts.has_member("mem_section", name)
            ),
            None,
        )
        self.highest_present = 0

    def flag(self, name: str) -> int:
        """Return ``SECTION_name``, a bit of section_mem_map; 0 if the kernel has no such flag."""
        constant = f"SECTION_{name}_BIT"
        layouts = self.memory.layouts
        return 1 << layouts.constant(constant) if layouts.has_constant(constant) else 0

    def get(self, nr: int, create: bool = False) -> Struct | None:
        """Return a section (``__nr_to_section()``), making its root (``sparse_index_init()``)."""
        slot = self.base + nr // self.sections_per_root * 8
        root = self.memory.read_int(slot)
        if not root:
            if not create:
                return None
            root = self.alloc(self.units.page_size)
            self.memory.write_int(slot, root)
        return self.memory.struct("mem_section", root + nr % self.sections_per_root * self._size)

    def is_early(self, nr: int) -> bool:
        """``early_section()``."""
        section = self.get(nr)
        return section is not None and bool(section["section_mem_map"] & self.flag("IS_EARLY"))

    @property
    def have_orders(self) -> bool:
        """Whether sections say for which compound pages their memory map is populated."""
        return self._order is not None

    def compound_order(self, nr: int) -> int:
        """``section_compound_order()``: log2 of the pages in a compound page, 0 if of none."""
        section = self.get(nr) if self.have_orders else None
        return 0 if section is None or self._order is None else int(section[self._order])

    def section_set_compound_order_range(self, pfn: int, count: int, order: int) -> None:
        """``section_set_compound_order_range()``: of the sections that are in it as a whole."""
        first, end = (
            -(-pfn // self.units.pages_per_section),
            (pfn + count) // self.units.pages_per_section,
        )
        for nr in range(first, end):
            section = self.get(nr, create=True)
            assert section is not None
            assert self._order is not None
            section[self._order] = order

    @property
    def usage_size(self) -> int:
        """``mem_section_usage_size()``."""
        pageblocks = self.units.subsections
        return self.memory.layouts.sizeof("mem_section_usage") + (
            pageblocks * self._pageblock_bits // 8
        )

    def _new_usage(self, section: Struct) -> Struct:
        section["usage"] = self.alloc(self.usage_size)
        usage = self.memory.struct("mem_section_usage", section["usage"])
        # set_pageblock_migratetype(..., MIGRATE_MOVABLE) of all pageblocks
        size = self.memory.layouts.sizeof("mem_section_usage")
        one = _MIGRATE_MOVABLE if self._pageblock_bits == 8 else _MIGRATE_MOVABLE * 0x11
        self.memory.write(usage.va + size, bytes((one,)) * (self.usage_size - size))
        return usage

    def fill_subsection_map(self, pfn: int, count: int) -> None:
        """``fill_subsection_map()``: of pages in one section."""
        units = self.units
        section = self.get(pfn // units.pages_per_section, create=True)
        assert section is not None
        usage = (
            self.memory.struct("mem_section_usage", section["usage"])
            if section["usage"]
            else self._new_usage(section)
        )
        first = pfn % units.pages_per_section // units.pages_per_subsection
        last = (pfn + count - 1) % units.pages_per_section // units.pages_per_subsection
        mask = (1 << last + 1) - (1 << first)
        for word in range(first // 64, last // 64 + 1):
            name = f"subsection_map[{word}]"
            usage[name] = usage[name] | mask >> 64 * word & (1 << 64) - 1

    def init_one(self, nr: int, vmemmap_base: int, flags: int) -> None:
        """
        ``__section_mark_present()`` and ``sparse_init_one_section()``. With
        SPARSEMEM_VMEMMAP the encoded memory map is the same for all sections:
        where the struct page of pfn 0 would be.
        """
        section = self.get(nr, create=True)
        assert section is not None
        kept = section["section_mem_map"] & (self.flag("MAP_LAST") - 1)
        section["section_mem_map"] = (
            vmemmap_base | kept | flags | self.flag("MARKED_PRESENT") | self.flag("HAS_MEM_MAP")
        )
        self.highest_present = max(self.highest_present, nr)

    def online_mem_sections(self, start_pfn: int, end_pfn: int) -> None:
        """``online_mem_sections()``."""
        for pfn in range(start_pfn, end_pfn, self.units.pages_per_section):
            section = self.get(pfn // self.units.pages_per_section)
            assert section is not None
            section["section_mem_map"] = section["section_mem_map"] | self.flag("IS_ONLINE")

    def taint_zone_device(self, start_pfn: int, end_pfn: int) -> None:
        """
        ``mm/memory_hotplug.c: move_pfn_range_to_zone()``: mark the sections
        that are device memory in part only.
        """
        for pfn, section_pfn in ((start_pfn, start_pfn), (end_pfn, end_pfn - 1)):
            if pfn % self.units.pages_per_section:
                section = self.get(section_pfn // self.units.pages_per_section)
                assert section is not None
                section["section_mem_map"] = section["section_mem_map"] | self.flag(
                    "TAINT_ZONE_DEVICE"
                )

    def sparse_add_section(
        self,
        pfn: int,
        count: int,
        nid: int,
        altmap: Struct | None,
        pgmap: Struct | None,
        vmemmap: Vmemmap,
    ) -> None:
        """
        ``sparse_add_section()`` and ``section_activate()``: add pages that lie in
        one section.
        """
        units = self.units
        nr = pfn // units.pages_per_section
        if count < units.pages_per_section and self.compound_order(nr):
            raise UsageError(
                f"part of section {nr}, whose memory map is made for compound pages, can't be added"
                " (EOPNOTSUPP)"
            )
        self.fill_subsection_map(pfn, count)
        # "The early init code does not consider partially populated initial
        # sections": whatever is added to one uses the memory map made at boot.
        if count == units.pages_per_section or not self.is_early(nr):
            if self.have_orders:
                optimize = vmemmap_can_optimize(altmap, pgmap)
                order = pgmap["vmemmap_shift"] if pgmap is not None and optimize else 0
                self.section_set_compound_order_range(pfn, count, order)
            vmemmap.populate_section_memmap(pfn, count, nid, altmap, pgmap)
        self.init_one(nr, vmemmap.addresses.vmemmap_base, 0)
