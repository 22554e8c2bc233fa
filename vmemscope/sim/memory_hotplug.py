# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is plugged in after boot: sections with a memory map of their own."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np

from .pagetable import KERNEL_LARGE
from .resource import IORESOURCE_BUSY, IORESOURCE_SYSTEM_RAM

if TYPE_CHECKING:
    from .memory import Words
    from .memremap import Memremap
    from .nodes import Nodes
    from .objects import Struct
    from .resource import Resources
    from .scenario import Block
    from .slab import Slab

__all__ = ("MemoryHotplug",)


class MemoryHotplug:
    """
    Adds blocks of RAM to the kernel.

    :param ram: frames of RAM: first pfn, pfn after the last, node; it grows
    :param managed: pages that the page allocator manages, by node and zone
    """

    def __init__(
        self,
        memremap: Memremap,
        iomem: Resources,
        nodes: Nodes,
        slab: Slab,
        ram: list[tuple[int, int, int]],
        managed: dict[tuple[int, str], int],
        random: Random,
    ) -> None:
        self.memory = memremap.memory
        self.memremap = memremap
        self.iomem = iomem
        self.nodes = nodes
        self.slab = slab
        self.ram = ram
        self.managed = managed
        self.random = random

    def add_memory(self, block: Block) -> None:
        """
        ``mm/memory_hotplug.c: add_memory_resource()``, and ``online_pages()`` of what is
        online. The frames of the memory map come from the page allocator as they are:
        nothing is written to the struct pages before the block is online.
        """
        units, memmap = self.memory.units, self.memremap.memmap
        flags = IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY
        self.iomem.insert(b"System RAM", block.start, block.end - 1, flags=flags)
        start, end = block.start >> units.page_shift, block.end >> units.page_shift
        if self.memory.arch.maps_memory:
            va = self.memory.addresses.va(block.start)
            self.memremap.tables.map_range(va, block.start, block.size, KERNEL_LARGE)
        size = units.pages_per_section * self.memory.addresses.struct_page_size
        held = -(-size // units.page_size) if block.self_hosted else 0
        for first in range(start, end, units.pages_per_section):
            altmap = self._altmap(first, held) if held else None
            self.memremap.add_pages(first, first + units.pages_per_section, block.nid, altmap, None)
        if not block.online:
            for pages in memmap.views(start, end - start):
                pages[:] = self._left_behind(len(pages))
            return
        self.ram.append((start, end, block.nid))
        self.ram.sort()
        pages = memmap.fresh(start, end - start, "ZONE_NORMAL", block.nid)
        memmap.store(start, memmap.without_references(pages))
        self.nodes.add_range(block.nid, "ZONE_NORMAL", start, end)
        self.managed[block.nid, "ZONE_NORMAL"] = (
            self.managed.get((block.nid, "ZONE_NORMAL"), 0) + end - start
        )
        for first in range(start, end, units.pages_per_section):
            if held:
                # mhp_init_memmap_on_memory()
                pages = memmap.fresh(first, held, "ZONE_NORMAL", block.nid)
                pages[:, 0] |= memmap.flag("reserved") | memmap.flag("vmemmap_self_hosted")
                memmap.store(first, pages)
            self.slab.pages.add(first + held, first + units.pages_per_section, block.nid)
        self.memremap.sections.online_mem_sections(start, end)

    def _altmap(self, pfn: int, count: int) -> Struct:
        """Make the ``struct vmem_altmap`` of a memory block's own memory map."""
        altmap = self.slab.struct("vmem_altmap")
        altmap["base_pfn"] = pfn
        altmap["end_pfn"] = pfn + self.memory.units.pages_per_section - 1
        altmap["free"] = count
        return altmap

    def _left_behind(self, count: int) -> Words:
        """
        Return struct pages that nothing was written to: what the frame's last user left,
        or, with CONFIG_DEBUG_VM, the pattern of ``page_init_poison()``.
        """
        generator = np.random.default_rng(self.random.getrandbits(32))
        shape = count, self.memory.addresses.struct_page_size // 8
        pages = generator.integers(0, 1 << 64, shape, dtype=np.uint64)
        pages[generator.random(count) < 0.2] = np.uint64((1 << 64) - 1)
        return pages
