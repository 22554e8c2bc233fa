# SPDX-License-Identifier: LGPL-2.1-or-later
"""
x86-64 page tables of 4 and 5 levels, in simulated memory.

Sources: ``arch/x86/include/asm/pgtable_types.h`` and ``pgtable_64_types.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .memory import Memory, Words
from .units import PAGE_SHIFT, PAGE_SIZE

__all__ = ("PMD_SHIFT", "PMD_SIZE", "PUD_SHIFT", "PageTables")

PTE_SHIFT = PAGE_SHIFT
PMD_SHIFT = 21
PMD_SIZE = 1 << PMD_SHIFT
PUD_SHIFT = 30

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


class PageTables:
    """
    ``init_mm``'s tables.

    A level is named by its shift: log2 of the bytes that one entry covers.

    :param root: pfn of the top-level table
    :param alloc: gets the frame of a new table: virtual address that it is
        needed for, shift of the table's entries -> pfn
    """

    def __init__(
        self, memory: Memory, levels: int, root: int, alloc: Callable[[int, int], int]
    ) -> None:
        self.memory = memory
        self.root = root
        self.shifts = tuple(range(PAGE_SHIFT + 9 * (levels - 1), PAGE_SHIFT - 1, -9))
        self.alloc = alloc
        #: bits of an entry that hold an address
        self.address = ADDRESS

    def tables(self, va: int) -> Iterator[tuple[int, int, int]]:
        """Go down: shift, pfn of the table at that level, its entry for an address."""
        pfn = self.root
        for shift in self.shifts:
            entry = int(self.memory.words(pfn)[va >> shift & 511])
            yield shift, pfn, entry
            if not entry & PRESENT or (entry & PSE and shift > PTE_SHIFT):
                return
            pfn = (entry & self.address) >> PAGE_SHIFT

    def leaf(self, va: int) -> tuple[int, int] | None:
        """Return shift and entry of the leaf that maps an address, if there is one."""
        words = self.memory.words
        pfn = self.root
        for shift in self.shifts:
            entry = int(words(pfn)[va >> shift & 511])
            if not entry & PRESENT:
                return None
            if shift == PTE_SHIFT or entry & PSE:
                return shift, entry
            pfn = (entry & self.address) >> PAGE_SHIFT
        return None

    def translate(self, va: int) -> int | None:
        """Return the physical address that a virtual one is mapped to."""
        leaf = self.leaf(va)
        if leaf is None:
            return None
        shift, entry = leaf
        offset = (1 << shift) - 1
        return entry & self.address & ~offset | va & offset

    def table(self, va: int, shift: int) -> Words | None:
        """
        Return the table whose entry of that shift covers an address, making what
        is missing above it.

        :return: ``None`` if there is a large leaf above it
        """
        pfn = self.root
        for level in self.shifts:
            words = self.memory.words(pfn)
            if level == shift:
                return words
            index = va >> level & 511
            entry = int(words[index])
            if not entry & PRESENT:
                pfn = self.alloc(va, level - 9)
                self.memory.page(pfn)[:] = 0
                words[index] = pfn << PAGE_SHIFT | TABLE
                continue
            if entry & PSE:
                return None
            pfn = (entry & self.address) >> PAGE_SHIFT
        raise ValueError(f"no level of shift {shift}")

    def entry(self, va: int, shift: int) -> int:
        """Return the entry of an existing table, 0 if there is no table."""
        for level, _, entry in self.tables(va):
            if level == shift:
                return entry
        return 0

    def set(self, va: int, shift: int, entry: int) -> None:
        """Set an entry, making the tables above it."""
        words = self.table(va, shift)
        if words is None:
            raise ValueError(f"{va:#x} is below a large leaf")
        words[va >> shift & 511] = entry

    def map_range(self, va: int, pa: int, size: int, flags: int) -> None:
        """
        Map physical memory with leaves as large as alignment allows, as
        ``arch/x86/mm/init.c: split_mem_range()`` does.

        :param flags: of a large leaf
        """
        end = va + size
        while va < end:
            for shift in (PUD_SHIFT, PMD_SHIFT, PTE_SHIFT):
                mask = (1 << shift) - 1
                if not (va | pa) & mask and end - va > mask:
                    break
            self.set(va, shift, pa | (flags if shift > PTE_SHIFT else flags & ~PSE))
            va += 1 << shift
            pa += 1 << shift

    def encrypt(self, mask: int, roots: Iterable[int]) -> None:
        """
        Set the bit of memory encryption in all entries (``sme_me_mask``), once all is mapped.

        :param roots: pfns of other top-level tables
        """
        self.address &= ~mask
        tables = dict.fromkeys((self.root, *roots), self.shifts[0])
        done = set[int]()
        while tables:
            pfn, shift = tables.popitem()
            done.add(pfn)
            words = self.memory.words(pfn)
            for index in np.flatnonzero(words & np.uint64(PRESENT)).tolist():
                entry = int(words[index])
                below = (entry & self.address) >> PAGE_SHIFT
                if shift > PTE_SHIFT and not entry & PSE and below not in done:
                    tables[below] = shift - 9
            words[words & np.uint64(PRESENT) > 0] |= np.uint64(mask)


def frame(entry: int) -> int:
    """Return the pfn that an entry of a base page or table holds."""
    return (entry & ADDRESS) >> PAGE_SHIFT


def pte(pfn: int, flags: int = KERNEL) -> int:
    """Make the entry of a base page."""
    return pfn * PAGE_SIZE | flags
