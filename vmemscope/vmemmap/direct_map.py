# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The direct map: all memory, at one distance from its physical addresses.

Each architecture keeps that distance in another variable, or in none. The table of sections is
memory that the kernel allocated (``mm/sparse.c: memory_present()``, ``sparse_index_alloc()``),
so it is in the direct map, and the page tables say where: that holds on all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .tables import trace

if TYPE_CHECKING:
    from .vmemmap import Vmemmap

__all__ = ("DirectMap", "find_direct_map")


class DirectMap:
    """
    The physical memory that virtual addresses stand for, mapped or not.

    A page need not be mapped there: the kernel takes those with memory errors out
    (``set_mce_nospec()``), and a fault there is about the page all the same.

    :param offset: virtual address of physical address 0; not all of it must be the kernel's
    :param vmemmap: knows the sections that there are
    :param bits: of a physical address, at most
    """

    def __init__(self, offset: int, vmemmap: Vmemmap, bits: int) -> None:
        self.offset = offset
        self._sections = vmemmap.sections
        self._page_size = vmemmap.geometry.page_size
        self._bits = bits

    def pfn_at(self, address: int) -> int | None:
        """
        Return the page frame that a virtual address stands for.

        :param address: in bytes
        :return: ``None`` if it is outside, where no memory is, or in the first page of the
            address space, which a null pointer leads to
        """
        physical = address - self.offset
        if physical < 0 or physical >> self._bits or address < self._page_size:
            return None
        pfn = physical // self._page_size
        return pfn if self._sections.index(pfn // self._sections.pages) is not None else None


def find_direct_map(vmemmap: Vmemmap, bits: int) -> DirectMap | None:
    """
    Find the direct map of a kernel.

    :param bits: of a physical address, at most
    :return: ``None`` if it can't be read where the table of sections is mapped
    """
    windows = vmemmap.geometry.arch.windows
    for address in vmemmap.sections.allocated:
        for first, end in windows:
            if first <= address < end:
                return DirectMap(first, vmemmap, bits)
        pfn = trace(vmemmap.page_tables, vmemmap.table, address).pfn
        if pfn is not None and vmemmap.ram.contains(np.array([pfn], np.uint64))[0]:
            size = vmemmap.geometry.page_size
            return DirectMap(address // size * size - pfn * size, vmemmap, bits)
    return None
