# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the dump lacks. No rule may report any of it."""

from __future__ import annotations

from typing import Literal

from .planted import Planted
from .registry import Page, fault
from .simulated import SimPlanter


@fault()
def unreadable_table(
    p: SimPlanter, at: Page = Page(), level: Literal["pte", "pmd"] = "pte"
) -> Planted:
    """A page-table page is not in the dump."""
    va = p.place(at).page_va
    wanted = p.units.page_shift if level == "pte" else p.units.pmd_shift
    above = 0
    for shift, table, _ in p.path(va):
        if shift == wanted:
            frames = p.kernel.tables.table_frames(shift)
            p.kernel.physical.missing.update(range(table, table + frames))
            # One table covers as much as an entry of the level above.
            covered = 1 << above
            return p.planted(va // covered * covered, table, size=covered)
        above = shift
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
    used = sections.highest_present // sections.sections_per_root * 8 // p.units.page_size
    first = sections.base + (used + 1) * p.units.page_size
    count = sections.roots * 8 // p.units.page_size - (used + 1)
    pfn = p.kernel.addresses.va_to_pfn(first)
    p.kernel.physical.missing.update(range(pfn, pfn + count))
    return p.planted(first, count=count)
