# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the dump lacks. No rule may report any of it."""

from __future__ import annotations

from typing import Literal

from ..pagetable import PMD_SHIFT, PTE_SHIFT
from ..units import PAGE_SIZE
from .planter import Planted, SimPlanter
from .registry import Page, fault


@fault()
def unreadable_table(
    p: SimPlanter, at: Page = Page(), level: Literal["pte", "pmd"] = "pte"
) -> Planted:
    """A page-table page is not in the dump."""
    va = p.place(at).page_va
    wanted = PTE_SHIFT if level == "pte" else PMD_SHIFT
    for shift, table, _ in p.path(va):
        if shift == wanted:
            p.kernel.physical.missing.add(table)
            # One table covers as much as an entry of the level above.
            covered = 1 << shift + 9
            return p.planted(va // covered * covered, table, size=covered)
    raise p.error(f"there is no table of that level at {va:#x}")


@fault()
def unreadable_struct_page(
    p: SimPlanter, at: Page = Page(), of: Literal["device", "frame"] = "device"
) -> Planted:
    """
    Struct pages are not in the dump: the device's own, or those of the frames
    that back them (so that reference counts are unknown).
    """
    va = p.place(at).page_va
    pfn = p.frame_at(va)
    missing = p.frame_at(p.page_va(pfn)) if of == "frame" else pfn
    p.kernel.physical.missing.add(missing)
    return p.planted(va, pfn, missing_pfn=missing)


@fault()
def unreadable_node(p: SimPlanter) -> Planted:
    """
    The node of pgmap_array that leads to a pagemap.

    makedumpfile up to 1.7.8 leaves such out of a dump of 7.1 or later: the page of
    the slab that it is in is a tail page, which it takes for one of a process.
    """
    node = p.kernel.pgmap_array.nodes()[-1]
    p.kernel.physical.missing.add(p.kernel.addresses.va_to_pfn(node.va))
    return p.planted(node.va)


@fault()
def unreadable_sections(p: SimPlanter) -> Planted:
    """Pages of the section table with nothing but zeros, which dump filters leave out."""
    sections = p.kernel.sections
    used = sections.highest_present // sections.sections_per_root * 8 // PAGE_SIZE
    first = sections.base + (used + 1) * PAGE_SIZE
    count = sections.roots * 8 // PAGE_SIZE - (used + 1)
    pfn = p.kernel.addresses.va_to_pfn(first)
    p.kernel.physical.missing.update(range(pfn, pfn + count))
    return p.planted(first, count=count)
