# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections, and what the vmemmap has beside that of devices."""

from __future__ import annotations

from typing import Literal

from ..addresses import STRUCT_PAGE_SIZE
from ..pagetable import KERNEL_LARGE, PSE
from .planted import Planted, Struct
from .planter import Planter
from .registry import fault
from .simulated import SimPlanter


@fault("pgmap subsection-map", "memmap subsection-map", "memmap vmemmap-leak")
def subsection_lost(p: Planter, range_: int = 0, subsection: int = 0) -> Planted:
    """A subsection of the device is mapped but not valid: mapped in vain."""
    start, end = p.pfns(range_)
    pfn = start + subsection * p.units.pages_per_subsection
    section = p.section(pfn // p.units.pages_per_section)
    if pfn >= end or section is None:
        raise p.error(f"that is outside {p.record.name}")
    usage = p.struct("mem_section_usage", section["usage"])
    word, bit = divmod(pfn % p.units.pages_per_section // p.units.pages_per_subsection, 64)
    usage[f"subsection_map[{word}]"] &= ~(1 << bit)
    va, after = p.page_va(pfn), p.page_va(pfn + p.units.pages_per_subsection)
    commands = ["pgmap", "memmap"]
    findings = [p.finding(command, "subsection-map", va) for command in commands]
    # Only what describes nothing else is mapped in vain: none of a leaf that others use.
    first = -(-va // p.units.page_size) * p.units.page_size
    if first < after and p.mapped(first)[0] == p.units.page_shift:
        findings.append(p.finding("memmap", "vmemmap-leak", first))
    return p.planted(va, first_pfn=pfn, findings=findings)


@fault("memmap section-stale")
def subsection_stale(p: SimPlanter, subsection: int = 63) -> Planted:
    """A subsection beside the device is valid, memory map and all: a device went half."""
    start, _ = p.record.ranges[0]
    pfn = (
        start // p.units.pages_per_section * p.units.pages_per_section
        + subsection * p.units.pages_per_subsection
    )
    va = p.page_va(pfn)
    if subsection >= p.units.subsections or p.leaf(va):
        raise p.error("there is something else already, or it is in another section")
    p.kernel.sections.fill_subsection_map(pfn, p.units.pages_per_subsection)
    pages = p.units.pages_per_subsection * STRUCT_PAGE_SIZE // p.units.page_size
    for i in range(pages):
        p.set_entry(
            va + i * p.units.page_size, p.units.page_shift, p.pte(p.alloc_pages(0, p.record.nid))
        )
    p.kernel.vmemmap.nr_memmap_pages += pages
    # As its driver left them.
    page = p.memmap.fresh_device(pfn, p.units.pages_per_subsection, p.record.nid, p.record.va, 1)
    p.memmap.store(pfn, page)
    return p.planted(va, p.frame_at(va), first_pfn=pfn)


def _section(p: Planter, index: int) -> tuple[Struct, int]:
    """Return a section of the device, and the address of its first struct page."""
    start, end = p.record.ranges[0]
    number = start // p.units.pages_per_section + index
    section = p.section(number)
    if section is None or number * p.units.pages_per_section >= end:
        raise p.error(f"that is outside {p.record.name}")
    return section, p.page_va(number * p.units.pages_per_section)


@fault("memmap section-map")
def section_map(p: Planter, section: int = 0, bit: int = 20) -> Planted:
    """A section says that its memory map is elsewhere."""
    found, va = _section(p, section)
    before = found["section_mem_map"]
    found["section_mem_map"] = before ^ 1 << bit
    return p.planted(va, section=found.va, expected=before, observed=before ^ 1 << bit)


def _set_order(p: Planter, section: Struct, value: int) -> int:
    """Set the order of a section, and return what it was."""
    try:
        before = section["compound_page_order"]
    except LookupError:
        raise p.error("the sections of this kernel have no orders") from None
    section["compound_page_order"] = value
    return before


@fault("pgmap section-order", "memmap memmap-counter", kernels=("next",))
def section_order(p: Planter, section: int = 0, value: int = 0) -> Planted:
    """A section says that it is populated, and was counted, for compound pages of another order."""
    found, va = _section(p, section)
    before = _set_order(p, found, value)
    findings = [
        p.finding("pgmap", "section-order", va),
        p.finding("memmap", "memmap-counter", p.symbol("nr_memmap_pages")),
    ]
    return p.planted(va, findings=findings, section=found.va, expected=before, observed=value)


@fault("memmap ram-order", kernels=("next",))
def ram_order(p: Planter, number: int = 1, value: int = 18) -> Planted:
    """A section of RAM says that it is populated for compound pages, and it is not."""
    found = p.section(number)
    if found is None:
        raise p.error(f"there is no section {number}")
    _set_order(p, found, value)
    va = p.page_va(number * p.units.pages_per_section)
    return p.planted(va, section=found.va, expected=0, observed=value)


@fault("memmap section-usage")
def usage_lost(p: Planter, section: int = 0) -> Planted:
    """A section has a memory map, but does not say what of it is valid."""
    found, va = _section(p, section)
    found["usage"] = 0
    return p.planted(va, section=found.va)


@fault("memmap section-unmapped", "memmap memmap-counter")
def boot_memmap_hole(p: Planter, section: int = 0) -> Planted:
    """The memory map of a section of RAM is not mapped, but counted all the same."""
    va = p.page_va(section * p.units.pages_per_section)
    if not p.has_boot_memmap(section):
        raise p.error(f"section {section} has no RAM")
    size = p.units.leaf_pages * p.units.page_size
    va = va // size * size
    p.at_last(va, size.bit_length() - 1, 0)
    findings = [p.finding("memmap", "section-unmapped", va)]
    if p.counts("nr_memmap_boot_pages"):
        counter = p.symbol("nr_memmap_boot_pages")
        findings.append(p.finding("memmap", "memmap-counter", counter))
    return p.planted(va, findings=findings, size=size)


@fault("memmap vmemmap-leak")
def leak(p: Planter, pages: int = 1, leaf: Literal["base", "large"] = "base") -> Planted:
    """Vmemmap is mapped that describes nothing."""
    va = p.page_va(p.unused_pfn)
    if leaf == "large":
        if not p.units.large_leaves:
            raise p.error("there are no large leaves")
        block = p.alloc_pages(p.units.pmd_shift - p.units.page_shift, p.record.nid)
        p.set_entry(va, p.units.pmd_shift, p.pte(block, KERNEL_LARGE | PSE))
        return p.planted(va, block, size=p.units.pmd_size)
    for i in range(pages):
        p.set_entry(
            va + i * p.units.page_size, p.units.page_shift, p.pte(p.alloc_pages(0, p.record.nid))
        )
    return p.planted(va, p.frame_at(va), size=pages * p.units.page_size)


@fault("memmap memmap-counter", kernels=("6.12", "7.2", "next"))
def counter(
    p: Planter,
    of: Literal["nr_memmap_pages", "nr_memmap_boot_pages"] = "nr_memmap_pages",
    by: int = 1,
) -> Planted:
    """The kernel counts other memory map than there is."""
    if not p.counts(of):
        raise p.error("this kernel has no such counters")
    p.count(of, by)
    return p.planted(p.symbol(of), by=by)
