# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kmalloc()``: small objects, packed into frames that are marked as slab."""

from __future__ import annotations

from .memmap import MemMap
from .objects import KernelMemory, Struct
from .page_alloc import PageAllocator

__all__ = ("Slab",)


class Slab:
    """Allocates zeroed kernel memory by size; there is no free."""

    def __init__(self, memory: KernelMemory, pages: PageAllocator, memmap: MemMap) -> None:
        self.memory = memory
        self.units = memory.units
        self.pages = pages
        self.memmap = memmap
        self._va = 0
        self._left = 0

    def alloc(self, size: int) -> int:
        """Return the virtual address of ``size`` bytes, naturally aligned to 64 at least."""
        size = -(-size // 64) * 64
        if size > self.units.page_size:
            return self._pages(size)
        if size > self._left:
            self._va = self._pages(self.units.page_size)
            self._left = self.units.page_size
        va = self._va
        self._va += size
        self._left -= size
        return va

    def struct(self, name: str) -> Struct:
        """Allocate a structure."""
        return self.memory.struct(name, self.alloc(self.memory.layouts.sizeof(name)))

    def string(self, text: bytes) -> int:
        """``kstrdup()``."""
        va = self.alloc(len(text) + 1)
        self.memory.write(va, text + b"\0")
        return va

    def _pages(self, size: int) -> int:
        order = (-(-size // self.units.page_size) - 1).bit_length()
        pfn = self.pages.alloc_pages(order)
        for i in range(1 << order):
            self.memory.physical.page(pfn + i)
        self.memmap.set_page_type(pfn, "slab")
        return self.memory.addresses.va(pfn * self.units.page_size)
