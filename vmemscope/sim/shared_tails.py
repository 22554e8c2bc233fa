# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Frames of tail pages that everything of a zone and order shares (``zone->vmemmap_tails``).

Sources: ``mm/hugetlb_vmemmap.c: vmemmap_get_tail()`` (7.1), which only HugeTLB calls;
``mm/sparse-vmemmap.c: vmemmap_shared_tail_page()`` of the coming kernel, which device DAX
calls, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .memmap import TAIL_MAPPING, MemMap
from .memory import Words
from .nodes import Nodes
from .page_alloc import PageAllocator

__all__ = ("SLOTS_SIZE", "SharedTails")

#: VMEMMAP_OPTIMIZATION_NR_ORDERS, on x86-64 with 1 GiB pages of HugeTLB; the array of 7.1
_NR_ORDERS = 16
#: bytes of the slots of a zone
SLOTS_SIZE = 8 * _NR_ORDERS


class SharedTails:
    """
    The slots of all zones.

    :param alloc: gets zeroed memory: size in bytes -> virtual address
    :param boot: frames that memblock gave for (node, zone, order)
    """

    def __init__(
        self,
        nodes: Nodes,
        memmap: MemMap,
        pages: PageAllocator,
        alloc: Callable[[int], int],
        boot: Mapping[tuple[int, str, int], int],
    ) -> None:
        self.nodes, self.memmap, self.pages, self.alloc = nodes, memmap, pages, alloc
        self.memory, self.layouts = nodes.memory, memmap.layouts
        #: whether zones have slots at all, and whether these are an array in ``struct zone``
        self.exist = self.layouts.has_member("zone", "vmemmap_tails")
        self.embedded = self.layouts.has_member("zone", "vmemmap_tails[0]")
        #: (node, zone, order) -> frame of the tail pages
        self.frames: dict[tuple[int, str, int], int] = {}
        for key, pfn in boot.items():
            self._set(key, pfn)

    @property
    def min_order(self) -> int:
        """VMEMMAP_TAIL_MIN_ORDER: of the smallest compound page with two pages of vmemmap."""
        return (2 * self.memory.units.page_size // self.memmap.size).bit_length() - 1

    def page(self, nid: int, zone: str, order: int) -> int:
        """Return the frame of a zone's tail pages of an order, made if there is none yet."""
        key = nid, zone, order
        if key not in self.frames:
            self._set(key, self.pages.alloc_page(nid))
        return self.frames[key]

    def _set(self, key: tuple[int, str, int], pfn: int) -> None:
        """Write tail pages to a frame, and let the zone's slot name it."""
        self.frames[key] = pfn
        self.memory.physical.words(pfn)[:] = self._tail_pages(*key)
        self._set_slot(*key, pfn)

    def _tail_pages(self, nid: int, zone: str, order: int) -> Words:
        """
        ``mm_zero_struct_page()``, node and zone, ``prep_compound_tail()``.

        Nothing else is in their flags: no last CPU, as in other tail pages; but those of
        devices are reserved.
        """
        memmap, layouts = self.memmap, self.layouts
        pages = np.zeros((memmap.per_page, memmap.size // 8), self.memory.units.word)
        everywhere = memmap.links("ZONE_DMA", 0)
        pages[:, 0] = memmap.links(zone, nid) & ~everywhere & (1 << 64) - 1
        if zone == "ZONE_DEVICE":
            pages[:, 0] |= np.uint64(memmap.flag("reserved"))
        pages[:, layouts.offsetof("page", "compound_info") // 8] = memmap.compound_info(0, order)
        pages[:, layouts.offsetof("page", "mapping") // 8] = self.memory.arch.poison + TAIL_MAPPING
        pages[:, layouts.offsetof("page", "_mapcount") // 8] = memmap.counts(0)
        return pages.ravel()

    def _set_slot(self, nid: int, zone: str, order: int, pfn: int) -> None:
        slot = order - self.min_order
        struct = self.nodes.zone(nid, zone)
        page = self.memory.addresses.pfn_to_page(pfn)
        if self.embedded:
            struct[f"vmemmap_tails[{slot}]"] = page
            return
        if not struct["vmemmap_tails"]:
            struct["vmemmap_tails"] = self.alloc(SLOTS_SIZE)
        self.memory.write_int(struct["vmemmap_tails"] + 8 * slot, page)
