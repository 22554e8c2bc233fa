# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections, and what the vmemmap has beside that of devices."""

from __future__ import annotations

from ..addresses import STRUCT_PAGE_SIZE
from ..objects import Struct
from ..pagetable import KERNEL_LARGE, PMD_SHIFT, PMD_SIZE, PSE, PTE_SHIFT, pte
from ..units import PAGE_SIZE, PAGES_PER_SECTION, PAGES_PER_SUBSECTION
from .planter import PagemapPlanter, Planted

__all__ = (
    "boot_memmap_hole",
    "counter",
    "leak",
    "section_map",
    "subsection_lost",
    "subsection_stale",
    "usage_lost",
)


def subsection_lost(p: PagemapPlanter) -> Planted:
    """A subsection of the device is mapped but not valid."""
    start, end = p.range()
    pfn = start + p.option("subsection") * PAGES_PER_SUBSECTION
    if pfn >= end:
        raise p.error(f"that is outside {p.record.name}")
    section = p.kernel.sections.get(pfn // PAGES_PER_SECTION)
    assert section is not None
    usage = p.kernel.memory.struct("mem_section_usage", section["usage"])
    bit = pfn % PAGES_PER_SECTION // PAGES_PER_SUBSECTION
    usage["subsection_map[0]"] = usage["subsection_map[0]"] & ~(1 << bit)
    return p.planted(p.kernel.addresses.pfn_to_page(pfn), first_pfn=pfn)


def subsection_stale(p: PagemapPlanter) -> Planted:
    """A subsection beside the device is valid, memory map and all: a device went half."""
    start, _ = p.record.ranges[0]
    pfn = start // PAGES_PER_SECTION * PAGES_PER_SECTION
    pfn += p.option("subsection") * PAGES_PER_SUBSECTION
    va = p.kernel.addresses.pfn_to_page(pfn)
    if p.option("subsection") >= PAGES_PER_SECTION // PAGES_PER_SUBSECTION or p.tables.leaf(va):
        raise p.error("there is something else already, or it is in another section")
    p.kernel.sections.fill_subsection_map(pfn, PAGES_PER_SUBSECTION)
    pages = PAGES_PER_SUBSECTION * STRUCT_PAGE_SIZE // PAGE_SIZE
    for i in range(pages):
        page = p.kernel.pages.alloc_page(p.record.spec.nid)
        p.tables.set(va + i * PAGE_SIZE, PTE_SHIFT, pte(page))
    p.kernel.vmemmap.nr_memmap_pages += pages
    # As its driver left them.
    pgmap = p.record.pgmap.va
    nid = p.record.spec.nid
    p.memmap.store(pfn, p.memmap.fresh_device(pfn, PAGES_PER_SUBSECTION, nid, pgmap, 1))
    return p.planted(va, p.frame_at(va), first_pfn=pfn)


def _section(p: PagemapPlanter) -> tuple[Struct, int]:
    """Get a section of the device, and the address of its first struct page."""
    start, end = p.record.ranges[0]
    number = start // PAGES_PER_SECTION + p.option("section")
    section = p.kernel.sections.get(number)
    if section is None or number * PAGES_PER_SECTION >= end:
        raise p.error(f"that is outside {p.record.name}")
    return section, p.kernel.addresses.pfn_to_page(number * PAGES_PER_SECTION)


def section_map(p: PagemapPlanter) -> Planted:
    """A section says that its memory map is elsewhere."""
    section, va = _section(p)
    before = section["section_mem_map"]
    section["section_mem_map"] = before ^ 1 << p.option("bit")
    return p.planted(
        va, section=section.va, expected=before, observed=before ^ 1 << p.option("bit")
    )


def usage_lost(p: PagemapPlanter) -> Planted:
    """A section has a memory map, but does not say what of it is valid."""
    section, va = _section(p)
    section["usage"] = 0
    return p.planted(va, section=section.va)


def boot_memmap_hole(p: PagemapPlanter) -> Planted:
    """The memory map of a section of RAM is not mapped."""
    number = p.option("section")
    if number not in p.kernel.boot_memmap:
        raise p.error(f"section {number} has no RAM")
    va = p.kernel.addresses.pfn_to_page(number * PAGES_PER_SECTION)
    # Until then struct pages of RAM are written to.
    p.kernel.last_steps.append(lambda: p.tables.set(va, PMD_SHIFT, 0))
    # Of which there is now less than was counted.
    counter = p.kernel.image["nr_memmap_boot_pages"] if p.kernel.counters else None
    return p.planted(va, size=PMD_SIZE, counter=counter)


def leak(p: PagemapPlanter) -> Planted:
    """Vmemmap is mapped that describes nothing."""
    pfn = p.kernel.end_pfn
    va = p.kernel.addresses.pfn_to_page(pfn)
    if p.option("leaf") == "large":
        block = p.kernel.pages.alloc_pages(PMD_SHIFT - PTE_SHIFT, p.record.spec.nid)
        p.tables.set(va, PMD_SHIFT, block * PAGE_SIZE | KERNEL_LARGE | PSE)
        return p.planted(va, block, size=PMD_SIZE)
    for i in range(p.option("pages")):
        page = p.kernel.pages.alloc_page(p.record.spec.nid)
        p.tables.set(va + i * PAGE_SIZE, PTE_SHIFT, pte(page))
    return p.planted(va, p.frame_at(va), size=p.option("pages") * PAGE_SIZE)


def counter(p: PagemapPlanter) -> Planted:
    """The kernel counts other memory map than there is."""
    name, by = p.option("of"), p.option("by")
    if name not in p.kernel.counters:
        raise p.error("this kernel has no such counters")
    p.kernel.counters[name] += by
    return p.planted(p.kernel.image[name], by=by)
