# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page tables, in simulated memory.

Their entries have the format of x86-64 whatever the architecture, in the kernel's byte
order, until the dump is written (:mod:`.architectures`). Levels, and how many entries a
table has, are the architecture's. Where tables are smaller than a page, several lie in one,
and bits 55:52 of an entry that points to one are bits 11:8 of its address.

Sources: ``arch/x86/include/asm/pgtable_types.h`` and ``pgtable_64_types.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from .memory import Memory, Words

__all__ = ("PageTables",)

PRESENT = 1 << 0
RW = 1 << 1
PSE = 1 << 7
NX = 1 << 63

#: _PAGE_TABLE: what p?d_populate() puts in an entry that points to a table
TABLE = 0x067
#: PAGE_KERNEL and PAGE_KERNEL_LARGE: writable, global, accessed, dirty, NX
KERNEL = NX | 0x163
KERNEL_LARGE = NX | 0x1E3
#: kernel text and read-only data, large
KERNEL_LARGE_EXEC_RO = 0x1A1
KERNEL_LARGE_RO = NX | 0x1A1

ADDRESS = 0x000F_FFFF_FFFF_F000
#: bits of a small table's address: how far they are shifted left in an entry
_WITHIN, _WITHIN_SHIFT = 0xF00, 44


class PageTables:
    """
    ``init_mm``'s tables.

    A level is named by its shift: log2 of the bytes that one entry covers.

    :param levels: shift, and log2 of the entries of a table, of each level, top level first
    :param root: pfn of the top-level table
    :param alloc: gets frames for a new table: virtual address that it is needed for, frames
        (a power of 2) -> pfn of the first
    """

    def __init__(
        self,
        memory: Memory,
        levels: Sequence[tuple[int, int]],
        root: int,
        alloc: Callable[[int, int], int],
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.root = root
        self.levels = tuple(levels)
        self.shifts = tuple(shift for shift, _ in levels)
        self._masks = {shift: (1 << bits) - 1 for shift, bits in levels}
        self.alloc = alloc
        #: bytes of a small table -> address of room for more, and its bytes that are left
        self._room: dict[int, tuple[int, int]] = {}
        #: bits of an entry that hold an address
        self.address = ADDRESS

    def index(self, va: int, shift: int) -> int:
        """Return the number of the entry for an address in its table."""
        return va >> shift & self._masks[shift]

    def table_frames(self, shift: int) -> int:
        """Return the frames that a table of a level takes."""
        return max(8 * (self._masks[shift] + 1) >> self.units.page_shift, 1)

    def _entry(self, table: int, va: int, shift: int) -> tuple[Words, int]:
        """Return the frame that holds an entry of a table, as words, and which of them it is."""
        address = table + 8 * (va >> shift & self._masks[shift])
        page_shift = self.units.page_shift
        return self.memory.words(address >> page_shift), (address & (1 << page_shift) - 1) >> 3

    def _below(self, entry: int) -> int:
        """Return the physical address of the table that an entry points to."""
        return entry & self.address | entry >> _WITHIN_SHIFT & _WITHIN

    def _new_table(self, va: int, shift: int) -> int:
        """Return the physical address of a new table of a level, all zeros."""
        size, page = 8 * (self._masks[shift] + 1), self.units.page_size
        if size >= page:
            pfn = self.alloc(va, size // page)
            for i in range(size // page):
                self.memory.page(pfn + i)[:] = 0
            return pfn * page
        # arch/powerpc/mm/pgtable-frag.c: pte_fragment_alloc(); init-common.c: pgtable_cache_add()
        room, left = self._room.get(size, (0, 0))
        if not left:
            pfn, left = self.alloc(va, 1), page
            room = pfn * page
            self.memory.page(pfn)[:] = 0
        self._room[size] = room + size, left - size
        return room

    def frame(self, entry: int) -> int:
        """Return the pfn that an entry of a base page or table holds."""
        return (entry & ADDRESS) >> self.units.page_shift

    def pte(self, pfn: int, flags: int = KERNEL) -> int:
        """Make the entry of a base page."""
        return pfn << self.units.page_shift | flags

    def tables(self, va: int) -> Iterator[tuple[int, int, int]]:
        """Go down: shift, pfn of the table at that level, its entry for an address."""
        table = self.root << self.units.page_shift
        for shift in self.shifts:
            words, at = self._entry(table, va, shift)
            entry = int(words[at])
            yield shift, table >> self.units.page_shift, entry
            if not entry & PRESENT or (entry & PSE and shift > self.units.page_shift):
                return
            table = self._below(entry)

    def leaf(self, va: int) -> tuple[int, int] | None:
        """Return shift and entry of the leaf that maps an address, if there is one."""
        # Most of a boot is spent here: what _entry() and _below() do, without calls.
        page_shift, address, words = self.units.page_shift, self.address, self.memory.words
        within = (1 << page_shift) - 1
        table = self.root << page_shift
        for shift, mask in self._masks.items():
            at = table + 8 * (va >> shift & mask)
            entry = words(at >> page_shift).item((at & within) >> 3)
            if not entry & PRESENT:
                return None
            if shift == page_shift or entry & PSE:
                return shift, entry
            table = entry & address | entry >> _WITHIN_SHIFT & _WITHIN
        return None

    def target(self, entry: int, shift: int) -> int:
        """Return the physical address that a leaf of a level maps."""
        return entry & self.address & ~((1 << shift) - 1)

    def translate(self, va: int) -> int | None:
        """Return the physical address that a virtual one is mapped to."""
        leaf = self.leaf(va)
        if leaf is None:
            return None
        shift, entry = leaf
        return self.target(entry, shift) | va & (1 << shift) - 1

    def last(self, va: int) -> Words | None:
        """
        Return the table of the last level that maps an address, making what is missing.

        :return: as many entries as it has; ``None`` if there is a large leaf above it
        """
        shift = self.units.page_shift
        table = self._table(va, shift)
        if table is None:
            return None
        first = (table & self.units.page_size - 1) >> 3
        return self.memory.words(table >> shift)[first : first + self._masks[shift] + 1]

    def _table(self, va: int, shift: int) -> int | None:
        """
        Return the physical address of the table whose entry of that shift covers an address,
        making what is missing above it; ``None`` if there is a large leaf above it.
        """
        table = self.root << self.units.page_shift
        for level, below in zip(self.shifts, self.shifts[1:], strict=False):
            if level == shift:
                return table
            words, at = self._entry(table, va, level)
            entry = int(words[at])
            if not entry & PRESENT:
                table = self._new_table(va, below)
                words[at] = table & ADDRESS | (table & _WITHIN) << _WITHIN_SHIFT | TABLE
                continue
            if entry & PSE:
                return None
            table = self._below(entry)
        if shift == self.shifts[-1]:
            return table
        raise ValueError(f"no level of shift {shift}")

    def entry(self, va: int, shift: int) -> int:
        """Return the entry of an existing table, 0 if there is no table."""
        for level, _, entry in self.tables(va):
            if level == shift:
                return entry
        return 0

    def set(self, va: int, shift: int, entry: int) -> None:
        """Set an entry, making the tables above it."""
        table = self._table(va, shift)
        if table is None:
            raise ValueError(f"{va:#x} is below a large leaf")
        words, at = self._entry(table, va, shift)
        words[at] = entry

    def map_range(self, va: int, pa: int, size: int, flags: int) -> None:
        """
        Map physical memory with leaves as large as alignment allows, as
        ``arch/x86/mm/init.c: split_mem_range()`` does.

        :param flags: of a large leaf
        """
        units = self.units
        shifts = [one for one in (units.pud_shift, units.pmd_shift) if one in self.shifts[1:]]
        end = va + size
        while va < end:
            for shift in (*shifts, units.page_shift):
                mask = (1 << shift) - 1
                if not (va | pa) & mask and end - va > mask:
                    break
            self.set(va, shift, pa | (flags if shift > units.page_shift else flags & ~PSE))
            va += 1 << shift
            pa += 1 << shift

    def below(self, entries: Words) -> list[int]:
        """Return the physical addresses of the tables that entries of a table point to."""
        pointers = entries[(entries & np.uint64(PRESENT | PSE)) == np.uint64(PRESENT)]
        within = pointers >> np.uint64(_WITHIN_SHIFT) & np.uint64(_WITHIN)
        found: list[int] = (pointers & np.uint64(ADDRESS) | within).tolist()
        return found

    def encrypt(self, mask: int, roots: Iterable[int]) -> None:
        """
        Set the bit of memory encryption in all entries (``sme_me_mask``), once all is mapped.

        :param roots: pfns of other top-level tables
        """
        self.address &= ~mask
        below_of = dict(zip(self.shifts, self.shifts[1:], strict=False))
        tables = dict.fromkeys((self.root, *roots), self.shifts[0])
        done = set[int]()
        while tables:
            pfn, shift = tables.popitem()
            done.add(pfn)
            words = self.memory.words(pfn)
            for index in np.flatnonzero(words & np.uint64(PRESENT)).tolist():
                entry = int(words[index])
                below = (entry & self.address) >> self.units.page_shift
                if shift in below_of and not entry & PSE and below not in done:
                    tables[below] = below_of[shift]
            words[words & np.uint64(PRESENT) > 0] |= np.uint64(mask)
