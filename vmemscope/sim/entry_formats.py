# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Entries of page tables as each architecture has them, from those of x86-64.

Each function takes the entries of a table that cover ``1 << shift`` bytes each, and whether it
is of the last level.

Sources: ``arch/arm64/include/asm/pgtable-hwdef.h``, ``arch/riscv/include/asm/pgtable-64.h``,
``pgtable-bits.h``, ``arch/powerpc/include/asm/book3s/64/pgtable.h``, ``radix.h``,
``arch/s390/include/asm/pgtable.h``, ``arch/loongarch/include/asm/pgtable-bits.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .pagetable import ADDRESS, NX, PRESENT, PSE, RW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .memory import Words

    Flags = NDArray[np.bool_]

__all__ = ("LOONGARCH_WINDOW", "arm64", "loongarch64", "ppc64", "riscv64", "s390x")

#: CSR_DMW1: the window that maps all physical memory, cached
LOONGARCH_WINDOW = 0x9000_0000_0000_0000


def riscv64(entry: Words, shift: int, last: bool) -> Words:
    present, leaf = _kinds(entry, last)
    flags = np.where(leaf, np.uint64(0xE3), np.uint64(1))
    flags |= np.where(leaf & (entry & np.uint64(RW) != 0), np.uint64(1 << 2), np.uint64(0))
    flags |= np.where(leaf & (entry & np.uint64(NX) == 0), np.uint64(1 << 3), np.uint64(0))
    pfn = (entry & np.uint64(ADDRESS)) >> np.uint64(12)
    found: Words = np.where(present, pfn << np.uint64(10) | flags, entry & ~np.uint64(PRESENT))
    return found


def arm64(entry: Words, shift: int, last: bool) -> Words:
    present, leaf = _kinds(entry, last)
    # PTE_AF, inner shareable, PTE_UXN; a block has bit 1 clear.
    block = 0x0040_0000_0000_0701 | (2 if last else 0)
    flags = np.where(leaf, np.uint64(block), np.uint64(3))
    written = entry & np.uint64(RW) != 0
    flags |= np.where(leaf & written, np.uint64(1 << 51), np.uint64(0))
    flags |= np.where(leaf & ~written, np.uint64(1 << 7), np.uint64(0))
    flags |= np.where(leaf & (entry & np.uint64(NX) != 0), np.uint64(1 << 53), np.uint64(0))
    address = entry & np.uint64(ADDRESS & (1 << 48) - 1)
    found: Words = np.where(present, address | flags, entry & ~np.uint64(PRESENT))
    return found


def ppc64(page_shift: int) -> Callable[[Words, int, bool], Words]:
    below = {39: 9, 30: 9, 21: 21 - page_shift}

    def convert(entry: Words, shift: int, last: bool) -> Words:
        present, leaf = _kinds(entry, last)
        # _PAGE_PRESENT, _PAGE_PTE, ACCESSED, DIRTY, PRIVILEGED, READ; a pointer has
        # RADIX_PxD_INDEX_SIZE of the table that it points to (PMD_VAL_BITS).
        flags = np.where(leaf, np.uint64(3 << 62 | 0x18C), np.uint64(1 << 63 | below.get(shift, 0)))
        flags |= np.where(leaf & (entry & np.uint64(RW) != 0), np.uint64(2), np.uint64(0))
        flags |= np.where(leaf & (entry & np.uint64(NX) == 0), np.uint64(1), np.uint64(0))
        # Tables of base pages of 64 KiB are smaller than a page: see PageTables.
        within = np.where(leaf, np.uint64(0), entry >> np.uint64(44) & np.uint64(0xF00))
        address = entry & np.uint64(ADDRESS) | within
        found: Words = np.where(present, address | flags, np.uint64(0))
        return found

    return convert


def s390x(entry: Words, shift: int, last: bool) -> Words:
    present, leaf = _kinds(entry, last)
    written, executable = entry & np.uint64(RW) != 0, entry & np.uint64(NX) == 0
    # _REGION_ENTRY_TYPE_*, and _REGION_ENTRY_LENGTH of what points to a region or segment table
    kind = {20: 0, 31: 0x4, 42: 0x8, 53: 0xC}.get(shift, 0)
    # YOUNG, DIRTY, READ, WRITE and PRESENT of the last level; _SEGMENT_ENTRY_LARGE and
    # _REGION3_ENTRY_LARGE above
    flags = np.where(leaf, np.uint64(0x3D if last else 0x400 | kind), np.uint64(kind))
    flags |= np.where(leaf & ~written, np.uint64(0x200), np.uint64(0))
    flags |= np.where(leaf & ~executable, np.uint64(0x100), np.uint64(0))
    flags |= np.where(~leaf, np.uint64(3 if kind else 0), np.uint64(0))
    # Of the second half of a page: see PageTables.
    within = np.where(leaf, np.uint64(0), entry >> np.uint64(44) & np.uint64(0xF00))
    # _PAGE_INVALID; _REGION_ENTRY_INVALID and _SEGMENT_ENTRY_INVALID
    empty = np.uint64(0x400 if last else 0x20 | kind)
    found: Words = np.where(present, entry & np.uint64(ADDRESS) | within | flags, empty)
    return found


def loongarch64(entry: Words, shift: int, last: bool) -> Words:
    """An empty directory entry is left 0: :mod:`.image` makes it point to an empty table."""
    present, leaf = _kinds(entry, last)
    written, executable = entry & np.uint64(RW) != 0, entry & np.uint64(NX) == 0
    # VALID, coherent cached, PRESENT; GLOBAL, which is HUGE above the last level, and HGLOBAL there
    flags = np.where(leaf, np.uint64(0xD1 if last else 0x10D1), np.uint64(LOONGARCH_WINDOW))
    # DIRTY, WRITE, MODIFIED
    flags |= np.where(leaf & written, np.uint64(0x302), np.uint64(0))
    flags |= np.where(leaf & ~executable, np.uint64(1 << 62), np.uint64(0))
    address = entry & np.uint64(ADDRESS & (1 << 48) - 1)
    found: Words = np.where(present, address | flags, np.uint64(0))
    return found


def _kinds(entry: Words, last: bool) -> tuple[Flags, Flags]:
    """Return which entries are present, and which of them are leaves."""
    present = entry & np.uint64(PRESENT) != 0
    return present, present if last else present & (entry & np.uint64(PSE) != 0)
