# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Contents of struct pages, written where the page tables say they are.

Sources: ``mm/mm_init.c``, ``mm/internal.h: prep_compound_head()``,
``include/linux/page-flags-layout.h``. Arrays of struct pages are numpy arrays
of shape (pages, 8), one 64-bit word a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .memory import Words
from .objects import KernelMemory
from .pagetable import PageTables

__all__ = ("NODES_PGSHIFT", "ZONES_PGSHIFT", "MemMap")

_ALL = slice(None)

#: PAGE_UNUSED in each byte (arch/x86/mm/init_64.c)
_UNUSED = 0xFDFDFDFDFDFDFDFD
_U32 = 0xFFFF_FFFF

# Debian: NODES_SHIFT 10, three bits of zone, LAST_CPUPID_SHIFT 21, no section
# number (SPARSEMEM_VMEMMAP); from the top of page->flags down.
NODES_PGSHIFT = 54
ZONES_PGSHIFT = 51
_LAST_CPUPID_WIDTH = 21
_LAST_CPUPID_MASK = (1 << _LAST_CPUPID_WIDTH) - 1

#: include/linux/poison.h, less POISON_POINTER_DELTA
LIST_POISON2 = 0x122
TAIL_MAPPING = 0x400


class MemMap:
    """
    The struct pages of all memory.

    :param ram: RAM as (first pfn, pfn after the last, node)
    :param off: options that the kernel lacks
    """

    def __init__(
        self,
        memory: KernelMemory,
        tables: PageTables,
        ram: Sequence[tuple[int, int, int]],
        off: Sequence[str] = (),
    ) -> None:
        self.memory = memory.physical
        self.units = memory.units
        self.arch = memory.arch
        self.tables = tables
        self.addresses = memory.addresses
        self.layouts = layouts = memory.layouts
        self.ram = ram
        # NODES_WIDTH is 0 without NUMA; ZONES_WIDTH is log2 of the number of zones.
        self._nodes_shift = 64 if "NUMA" in off else NODES_PGSHIFT
        width = NODES_PGSHIFT - ZONES_PGSHIFT - ("ZONE_DEVICE" in off)
        self._zones_shift = self._nodes_shift - width
        #: sizeof(struct page)
        self.size = layouts.sizeof("page")
        #: struct pages in a page of the vmemmap, and whether some lie across two
        self.per_page, rest = divmod(self.units.page_size, self.size)
        self.straddles = rest > 0
        #: struct pages that may lie across two pages, by section, until they are written
        self._apart: dict[int, Words] = {}
        self._mapcount = layouts.offsetof("page", "_mapcount")
        self._refcount = layouts.offsetof("page", "_refcount")
        self._compound = layouts.offsetof(
            "page", "compound_info" if self.has_info else "compound_head"
        )
        self._private = layouts.offsetof("page", "private")
        # __folio_index in 7.2
        self._index = self._private // 8 - 1
        self._mapping = layouts.offsetof("page", "mapping") // 8

    @property
    def has_mask(self) -> bool:
        """
        Whether tail pages hold a mask: ``compound_info_has_mask()``. Debian's
        7.2 sets CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP where the architecture has it, and 64 is
        a power of 2.
        """
        wanted = self.arch.hvo or (self.arch.deduplicates and self.shares_devices)
        return self.has_info and wanted and not self.size & self.size - 1

    @property
    def shares_devices(self) -> bool:
        """Whether devices share tail pages whose head is in any of their compound pages."""
        return self.layouts.has_member("mem_section", "compound_page_order")

    @property
    def has_info(self) -> bool:
        """Whether the member is compound_info (7.1+)."""
        return self.layouts.has_member("page", "compound_info")

    # Flags.

    def flag(self, name: str) -> int:
        """Return ``1 << PG_name``."""
        return 1 << self.layouts.constant(f"PG_{name}")

    def links(self, zone: str, nid: int) -> int:
        """``set_page_links()`` and ``page_cpupid_reset_last()``: fresh page->flags."""
        return (
            nid << self._nodes_shift
            | self.layouts.constant(zone) << self._zones_shift
            | _LAST_CPUPID_MASK << self._zones_shift - _LAST_CPUPID_WIDTH
        )

    def zone(self, pfn: int) -> str:
        """Name the zone of a frame of RAM."""
        return self.units.zone_of(pfn)

    def nid(self, pfn: int) -> int:
        """Return the node of a frame of RAM; of a hole, that of the RAM before it."""
        nid = 0
        for start, _, run_nid in self.ram:
            if start > pfn:
                break
            nid = run_nid
        return nid

    # Access by pfn.

    def words(self, pfn: int) -> Words:
        """
        Return a struct page as 8 words, in place.

        :raises KeyError: if the vmemmap has a hole there
        """
        units = self.units
        pa = self.tables.translate(self.addresses.pfn_to_page(pfn))
        if pa is None:
            raise KeyError(pfn)
        if self.straddles:
            found: Words = self._section(pfn)[pfn % units.pages_per_section]
            return found
        return self.memory.words(pa // units.page_size)[pa % units.page_size // 8 :][
            : self.size // 8
        ]

    def _section(self, pfn: int) -> Words:
        """Return the struct pages of a section of a kernel in which some lie across pages."""
        units = self.units
        number = pfn // units.pages_per_section
        if number not in self._apart:
            self._apart[number] = np.zeros((units.pages_per_section, self.size // 8), units.word)
        return self._apart[number]

    def words_at(self, va: int, count: int = 1) -> Words:
        """Return words of the vmemmap, in place: up to ``count``, fewer at the end of a page."""
        units = self.units
        count = min(count, (units.page_size - va % units.page_size) // 8)
        number = self.addresses.page_to_pfn(va) // units.pages_per_section
        if self.straddles and number in self._apart:
            start = self.addresses.pfn_to_page(number * units.pages_per_section)
            words: Words = self._apart[number].reshape(-1)[(va - start) // 8 :][:count]
            return words
        pa = self.tables.translate(va)
        assert pa is not None
        return self.memory.stretch(pa, 8 * count)

    def mark_unused(self, start: int, end: int) -> None:
        """``memset(..., PAGE_UNUSED, ...)`` of virtual addresses of the vmemmap."""
        while start < end:
            words = self.words_at(start, (end - start) // 8)
            words[:] = _UNUSED
            start += 8 * len(words)

    def flush(self) -> None:
        """Write the struct pages that are kept apart to where the page tables say they are."""
        units = self.units
        for number, pages in self._apart.items():
            start = self.addresses.pfn_to_page(number * units.pages_per_section)
            data = pages.reshape(-1).view(np.uint8)
            at = 0
            while at < len(data):
                va = start + at
                count = min(units.page_size - va % units.page_size, len(data) - at)
                pa = self.tables.translate(va)
                if pa is not None:
                    page = self.memory.page(pa // units.page_size).view(np.uint8)
                    page[pa % units.page_size :][:count] = data[at : at + count]
                at += count

    def exists(self, pfn: int) -> bool:
        """Whether there is a struct page for a pfn."""
        return self.tables.translate(self.addresses.pfn_to_page(pfn)) is not None

    def poke(self, pfn: int, offset: int, value: int, size: int = 8) -> None:
        """
        Write to a struct page.

        :param offset: bytes from the start of the struct page
        """
        value &= (1 << size * 8) - 1
        if size == 8 and not offset % 8:
            self.words(pfn)[offset // 8] = value
            return
        view = self.words(pfn).view(np.uint8)
        data = value.to_bytes(size, self.units.order)
        view[offset : offset + size] = np.frombuffer(data, np.uint8)

    def peek(self, pfn: int, offset: int, size: int = 8) -> int:
        view = self.words(pfn).view(np.uint8)[offset:][:size]
        return int.from_bytes(view.tobytes(), self.units.order)

    def counts(self, refcount: int, mapcount: int = _U32) -> int:
        """Return the word with ``_mapcount``, and ``_refcount`` behind it."""
        if self.units.order == "little":
            return refcount << 32 | mapcount
        return mapcount << 32 | refcount

    def refcount(self, pfn: int) -> int:
        return self.peek(pfn, self._refcount, 4)

    def set_refcount(self, pfn: int, count: int) -> None:
        self.poke(pfn, self._refcount, count, 4)

    def add_refcount(self, pfn: int, count: int) -> None:
        """``get_page()`` or ``put_page()``, that many times."""
        self.set_refcount(pfn, self.refcount(pfn) + count)

    def set_page_type(self, pfn: int, name: str) -> None:
        """Mark the use of a frame of RAM: slab, buddy or offline."""
        constant = f"PGTY_{name}"
        if self.layouts.has_constant(constant):
            self.poke(pfn, self._mapcount, self.layouts.constant(constant) << 24 | 0xFFFFFF, 4)
        elif name == "buddy":
            # Before 6.12: PAGE_TYPE_BASE with PG_buddy, 0x80, cleared.
            self.poke(pfn, self._mapcount, -129, 4)
        elif name == "offline":
            # The same with PG_offline, 0x100.
            self.poke(pfn, self._mapcount, -257, 4)
        if self.layouts.has_constant(f"PG_{name}"):
            self.words(pfn)[0] |= np.uint64(self.flag(name))

    def store(self, pfn: int, pages: Words) -> None:
        """Write struct pages from a pfn on, in ascending order, through the vmemmap."""
        pos = 0
        for view in self.views(pfn, len(pages)):
            view[:] = pages[pos : pos + len(view)]
            pos += len(view)

    def views(self, pfn: int, count: int) -> Iterator[Words]:
        """
        Return adjacent struct pages in place, in order: as many at a time as are adjacent in
        physical memory, too.

        :raises KeyError: if the vmemmap has a hole there
        """
        units = self.units
        while count and self.straddles:
            if not self.exists(pfn):
                raise KeyError(pfn)
            first = pfn % units.pages_per_section
            step = min(count, units.pages_per_section - first)
            yield self._section(pfn)[first : first + step]
            pfn += step
            count -= step
        while count:
            va = self.addresses.pfn_to_page(pfn)
            leaf = self.tables.leaf(va)
            if leaf is None:
                raise KeyError(pfn)
            shift, entry = leaf
            at = va & (1 << shift) - 1
            pages = self.memory.stretch(
                self.tables.target(entry, shift) + at, min(count * self.size, (1 << shift) - at)
            ).reshape(-1, self.size // 8)
            yield pages
            pfn += len(pages)
            count -= len(pages)

    # RAM.

    def fresh(self, pfn: int, count: int, zone: str, nid: int, refcount: int = 1) -> Words:
        """``__init_single_page()``, of adjacent ones."""
        pages = np.zeros((count, self.size // 8), self.units.word)
        pages[:, 0] = self.links(zone, nid)
        # INIT_LIST_HEAD(&page->lru)
        pages[:, 1] = self.addresses.pfn_to_page(pfn) + 8
        pages[:, 1] += np.arange(count, dtype=self.units.word) * np.uint64(self.size)
        pages[:, 2] = pages[:, 1]
        pages[:, self._mapcount // 8] = self.counts(refcount)
        return pages

    def without_references(self, pages: Words, free: slice | NDArray[np.bool_] = _ALL) -> Words:
        """
        Make fresh struct pages as they are once their frames are free, and return them.

        :param free: which of them, by default all
        """
        pages[free, self._refcount // 8] &= np.uint64(self.counts(0))
        return pages

    def prep_new_page(self, pfn: int) -> None:
        """What the struct page of a freshly allocated frame looks like."""
        words = self.words(pfn)
        words[1] = 0
        words[2] = self.arch.poison + LIST_POISON2
        words[self._private // 8] = 0
        self.set_refcount(pfn, 1)

    def get_page_bootmem(
        self, info: int, pfn: int, kind: str, packed: bool, count: int = 1
    ) -> None:
        """
        ``mm/bootmem_info.c: get_page_bootmem()``: adjacent frames from memblock
        hold memory map or page tables of a section.

        :param info: section number
        :param packed: see :attr:`Behaviour.bootmem_info_packed`
        """
        value = self.layouts.constant(kind)
        for pages in self.views(pfn, count):
            if packed:
                pages[:, self._private // 8] = info << 4 | value
            else:
                pages[:, self._index] = value
                pages[:, self._private // 8] = info
                pages[:, 0] |= np.uint64(self.flag("private"))
            pages[:, self._refcount // 8] += np.uint64(self.counts(1, 0))

    # Device memory.

    def fresh_device(self, pfn: int, count: int, nid: int, pgmap: int, refcount: int) -> Words:
        """
        ``__init_zone_device_page()``, of adjacent ones.

        :param pgmap: address of the ``struct dev_pagemap``
        """
        pages = self.fresh(pfn, count, "ZONE_DEVICE", nid, refcount)
        pages[:, 0] |= np.uint64(self.flag("reserved"))
        # Over lru: page->pgmap (later folio->pgmap) and zone_device_data.
        pages[:, 1] = pgmap
        pages[:, 2] = 0
        return pages

    def compound_info(self, head_pfn: int, order: int) -> int:
        """What ``set_compound_head()`` stores in a tail page."""
        if self.has_mask:
            # include/linux/page-flags.h: set_compound_head()
            return -(self.size << order) & (1 << 64) - 1 | 1
        return self.addresses.pfn_to_page(head_pfn) | 1

    def device_tails(self, head_pfn: int, count: int, order: int, nid: int) -> Words:
        """
        ``__init_zone_device_page()`` and ``prep_compound_tail()`` of ``count``
        tail pages; they are the same wherever in the compound page they are.
        """
        pages = self.fresh_device(head_pfn, count, nid, 0, 0)
        pages[:, self._compound // 8] = self.compound_info(head_pfn, order)
        pages[:, self._mapping] = self.arch.poison + TAIL_MAPPING
        return pages

    def prep_compound_head(self, head_pfn: int, order: int) -> None:
        """
        ``mm/internal.h: prep_compound_head()`` (6.1: ``mm/page_alloc.c``), by
        what members ``struct folio`` has.
        """
        for name, value in (
            # 6.1: destructor and order are bytes of their own.
            ("_folio_dtor", 1),
            ("_folio_order", order),
            ("_total_mapcount", -1),
            ("_large_mapcount", -1),
            ("_entire_mapcount", -1),
            ("_nr_pages_mapped", 0),
            ("_pincount", 0),
            ("_mm_id_mapcount", -1),
            ("_mm_ids", 0),
            ("_folio_nr_pages", 1 << order),
            ("_nr_pages", 1 << order),
        ):
            if self.layouts.has_member("folio", name):
                self._poke_folio(head_pfn, name, value)
        if not self.layouts.has_member("folio", "_folio_order"):
            # folio_set_order(): in the low byte of the first tail page's flags.
            offset = self.layouts.offsetof("folio", "_flags_1") - self.size
            flags = self.peek(head_pfn + 1, offset)
            self.poke(head_pfn + 1, offset, flags & ~0xFF | order)
        if self.layouts.has_member("folio", "_deferred_list"):
            offset = self.layouts.offsetof("folio", "_deferred_list")
            va = self.addresses.pfn_to_page(head_pfn) + offset
            self._poke_folio(head_pfn, "_deferred_list.next", va)
            self._poke_folio(head_pfn, "_deferred_list.prev", va)

    def _poke_folio(self, head_pfn: int, name: str, value: int) -> None:
        member = self.layouts.member("folio", name)
        page, offset = divmod(member.offset, self.size)
        self.poke(head_pfn + page, offset, value, member.size)
