# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is plugged in after boot: sections with a memory map of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .pagetable import KERNEL_LARGE
from .resource import IORESOURCE_BUSY, IORESOURCE_SYSTEM_RAM

if TYPE_CHECKING:
    from .kernel import SimulatedKernel
    from .memory import Words
    from .objects import Struct
    from .scenario import Block

__all__ = ("add_memory",)


def add_memory(kernel: SimulatedKernel, block: Block) -> None:
    """
    ``mm/memory_hotplug.c: add_memory_resource()``, and ``online_pages()`` of what is
    online. The frames of the memory map come from the page allocator as they are:
    nothing is written to the struct pages before the block is online.
    """
    units = kernel.units
    flags = IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY
    kernel.iomem.insert(b"System RAM", block.start, block.end - 1, flags=flags)
    start, end = block.start >> units.page_shift, block.end >> units.page_shift
    if kernel.arch.maps_memory:
        va = kernel.addresses.va(block.start)
        kernel.tables.map_range(va, block.start, block.size, KERNEL_LARGE)
    size = units.pages_per_section * kernel.addresses.struct_page_size
    held = -(-size // units.page_size) if block.self_hosted else 0
    for first in range(start, end, units.pages_per_section):
        altmap = _altmap(kernel, first, held) if held else None
        kernel.memremap.add_pages(first, first + units.pages_per_section, block.nid, altmap, None)
    if not block.online:
        for pages in kernel.memmap.views(start, end - start):
            pages[:] = _left_behind(kernel, len(pages))
        return
    kernel.ram.append((start, end, block.nid))
    kernel.ram.sort()
    pages = kernel.memmap.fresh(start, end - start, "ZONE_NORMAL", block.nid)
    kernel.memmap.store(start, kernel.memmap.without_references(pages))
    kernel.nodes.add_range(block.nid, "ZONE_NORMAL", start, end)
    kernel.managed[block.nid, "ZONE_NORMAL"] = (
        kernel.managed.get((block.nid, "ZONE_NORMAL"), 0) + end - start
    )
    for first in range(start, end, units.pages_per_section):
        if held:
            # mhp_init_memmap_on_memory()
            pages = kernel.memmap.fresh(first, held, "ZONE_NORMAL", block.nid)
            pages[:, 0] |= kernel.memmap.flag("reserved") | kernel.memmap.flag(
                "vmemmap_self_hosted"
            )
            kernel.memmap.store(first, pages)
        kernel.pages.add(first + held, first + units.pages_per_section, block.nid)
    kernel.sections.online_mem_sections(start, end)


def _altmap(kernel: SimulatedKernel, pfn: int, count: int) -> Struct:
    """Make the ``struct vmem_altmap`` of a memory block's own memory map."""
    altmap = kernel.slab.struct("vmem_altmap")
    altmap["base_pfn"] = pfn
    altmap["end_pfn"] = pfn + kernel.units.pages_per_section - 1
    altmap["free"] = count
    return altmap


def _left_behind(kernel: SimulatedKernel, count: int) -> Words:
    """
    Return struct pages that nothing was written to: what the frame's last user left,
    or, with CONFIG_DEBUG_VM, the pattern of ``page_init_poison()``.
    """
    generator = np.random.default_rng(kernel.random.getrandbits(32))
    shape = count, kernel.addresses.struct_page_size // 8
    pages = generator.integers(0, 1 << 64, shape, dtype=np.uint64)
    pages[generator.random(count) < 0.2] = np.uint64((1 << 64) - 1)
    return pages
