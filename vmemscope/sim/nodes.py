# SPDX-License-Identifier: LGPL-2.1-or-later
"""
NUMA nodes and their zones.

Sources: ``include/linux/mmzone.h``, ``include/linux/nodemask.h``. Ranges are in
pfns, ends exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence

from .memmap import MemMap
from .objects import KernelMemory, Struct
from .page_alloc import PageAllocator

__all__ = ("MAX_NUMNODES", "NR_PAGE_ORDERS", "Nodes", "add_pages_to_list")

#: CONFIG_NODES_SHIFT=10
MAX_NUMNODES = 1024
#: blocks of the buddy allocator have orders below this
NR_PAGE_ORDERS = 11

_ZONE_NAMES = {
    "ZONE_DMA": b"DMA",
    "ZONE_DMA32": b"DMA32",
    "ZONE_NORMAL": b"Normal",
    "ZONE_MOVABLE": b"Movable",
    "ZONE_DEVICE": b"Device",
}
_MIGRATE_MOVABLE = 1


class Nodes:
    """
    ``node_data`` and ``node_states``.

    :param pgdats: virtual address of each node's ``pglist_data``, by node
    :param node_data: address of the array
    :param node_states: address of the array of masks
    :param names: address of each zone name, by zone
    """

    def __init__(
        self,
        memory: KernelMemory,
        ram: Sequence[tuple[int, int, int]],
        pgdats: dict[int, int],
        node_data: int,
        node_states: int,
    ) -> None:
        self.memory = memory
        self.ram = ram
        self.pgdats = {nid: memory.struct("pglist_data", va) for nid, va in pgdats.items()}
        for nid, pgdat in self.pgdats.items():
            memory.write_int(node_data + nid * 8, pgdat.va)
            self._init_node(nid, pgdat)
        size = memory.layouts.sizeof("nodemask_t")
        mask = sum(1 << nid for nid in pgdats)
        for state in ("N_POSSIBLE", "N_ONLINE", "N_NORMAL_MEMORY", "N_MEMORY"):
            memory.write_int(node_states + memory.layouts.constant(state) * size, mask)
        memory.write_int(node_states + memory.layouts.constant("N_CPU") * size, 1)

    def zone(self, nid: int, name: str) -> Struct:
        """Return a zone."""
        index = self.memory.layouts.constant(name)
        return self.memory.struct("zone", self.pgdats[nid].addr(f"node_zones[{index}]"))

    def set_zone_names(self, addresses: dict[str, int]) -> None:
        """Point zones at their names, by zone."""
        for nid in self.pgdats:
            for zone, va in addresses.items():
                self.zone(nid, zone)["name"] = va

    @staticmethod
    def zone_names() -> dict[str, bytes]:
        return _ZONE_NAMES

    def _init_node(self, nid: int, pgdat: Struct) -> None:
        ranges = [(start, end) for start, end, node in self.ram if node == nid]
        pgdat["node_id"] = nid
        pgdat["node_start_pfn"] = ranges[0][0]
        pgdat["node_spanned_pages"] = ranges[-1][1] - ranges[0][0]
        pgdat["node_present_pages"] = sum(end - start for start, end in ranges)
        for name in _ZONE_NAMES:
            zone = self.zone(nid, name)
            zone["zone_pgdat"] = pgdat.va
            zone["node"] = nid
            for order in range(NR_PAGE_ORDERS):
                for i in range(self.memory.layouts.constant("MIGRATE_TYPES")):
                    zone.init_list(f"free_area[{order}].free_list[{i}]")
            low, high = self.memory.units.zone_limits.get(name, (0, 0))
            inside = [
                (max(start, low), min(end, high))
                for start, end in ranges
                if start < high and low < end
            ]
            if inside:
                zone["zone_start_pfn"] = inside[0][0]
                zone["spanned_pages"] = inside[-1][1] - inside[0][0]
                zone["present_pages"] = sum(end - start for start, end in inside)
                self._init_zone(pgdat, zone, name)

    def _init_zone(self, pgdat: Struct, zone: Struct, name: str) -> None:
        """``init_currently_empty_zone()``."""
        zone["initialized"] = 1
        pgdat["nr_zones"] = max(pgdat["nr_zones"], self.memory.layouts.constant(name) + 1)

    def add_range(self, nid: int, name: str, start: int, end: int) -> None:
        """``resize_zone_range()`` and ``resize_pgdat_range()``: let a zone span more pfns."""
        zone = self.zone(nid, name)
        pgdat = self.pgdats[nid]
        for struct, first, spanned in (
            (zone, "zone_start_pfn", "spanned_pages"),
            (pgdat, "node_start_pfn", "node_spanned_pages"),
        ):
            if not struct[spanned]:
                struct[first], struct[spanned] = start, end - start
                continue
            new_start = min(struct[first], start)
            struct[spanned] = max(struct[first] + struct[spanned], end) - new_start
            struct[first] = new_start
        self._init_zone(pgdat, zone, name)

    def add_free_pages(self, pages: PageAllocator, memmap: MemMap) -> int:
        """
        Put all that the page allocator has left on the zones' free lists.

        :return: how many pages that are
        """
        private = self.memory.layouts.offsetof("page", "private")
        lists: dict[tuple[int, str, int], list[int]] = {}
        for pfn, order in pages.free_blocks(NR_PAGE_ORDERS - 1):
            memmap.set_page_type(pfn, "buddy")
            memmap.poke(pfn, private, order)
            lists.setdefault((memmap.nid(pfn), memmap.zone(pfn), order), []).append(pfn)
        for (nid, name, order), pfns in lists.items():
            zone, area = self.zone(nid, name), f"free_area[{order}]"
            zone[f"{area}.nr_free"] = zone[f"{area}.nr_free"] + len(pfns)
            free_list = zone.addr(f"{area}.free_list[{_MIGRATE_MOVABLE}]")
            add_pages_to_list(memmap, self.memory, pfns, free_list)
        return sum(len(pfns) << order for (_, _, order), pfns in lists.items())

    def set_managed_pages(self, managed: dict[tuple[int, str], int]) -> None:
        """Set how many pages of each (node, zone) the page allocator manages."""
        for (nid, name), count in managed.items():
            self.zone(nid, name)["managed_pages.counter"] = count


def add_pages_to_list(memmap: MemMap, memory: KernelMemory, pfns: Sequence[int], head: int) -> None:
    """
    Add pages to the end of a list, in their order, by ``page->lru``.

    :param head: virtual address of the list's head, which is in no struct page
    """
    addresses = memory.addresses
    lru = memory.layouts.offsetof("page", "lru")
    entries = [addresses.pfn_to_page(pfn) + lru for pfn in pfns]
    last = memory.read_int(head + 8)
    for pfn, following, before in zip(pfns, [*entries[1:], head], [last, *entries], strict=False):
        memmap.words(pfn)[lru // 8 : lru // 8 + 2] = following, before
    if last == head:
        memory.write_int(head, entries[0])
    else:
        memmap.poke(addresses.page_to_pfn(last - lru), lru, entries[0])
    memory.write_int(head + 8, entries[-1])
