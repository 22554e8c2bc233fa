# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames behind the vmemmap of a pagemap, and their reference counts."""

from __future__ import annotations

from ..findings import Rule, Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "frame-shared",
        Severity.ERROR,
        "a frame backs one head page, or the tail pages of one compound page, or one plain page",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
        since="5.19",
        meaning="Two owners write their struct pages to the same frame: the later one overwrote"
        " the earlier. Heads lose PG_head, their pagemap and their reference count; a fault on one"
        " device changes the state of the other. When one is removed, the frame is freed under the"
        " other.",
        look_at="Whether the owners are of one pagemap (a layout that the kernel gets wrong, rule"
        " section-alignment) or of several (a corrupted entry, or a frame that was freed and used"
        " again, rule refcount-low).",
    ),
    Rule(
        "frame-not-memory",
        Severity.ERROR,
        "the vmemmap is backed by System RAM, or by the device that an altmap lies on",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block_buf()",
        meaning="An entry of the vmemmap maps a frame that the kernel could never have allocated:"
        " page frame 0, a hole in physical memory, or device memory. Struct pages written there"
        " are lost, or worse, go to a device's registers. Thousands of entries on one such frame"
        " are a known bug (rule section-alignment).",
        look_at="The frame number: 0 is a page table entry read from the wrong place; a number"
        " with a single wrong bit is a flip; one within a device is an altmap's where none should"
        " be.",
    ),
    Rule(
        "altmap-frame",
        Severity.ERROR,
        "an altmap hands out frames from behind its reserve, as many as it has",
        "mm/sparse-vmemmap.c: altmap_alloc_block_buf()",
        meaning="The memory map of the device lies on it, but outside of what the altmap may hand"
        " out: it overwrites the namespace's metadata in front of it, or its data behind it. That"
        " is data loss.",
        look_at="The altmap's arithmetic (base_pfn + reserve + alloc + align) against the"
        " boundaries of the namespace; on powerpc, whether the kernel has the altmap boundary"
        " fixes (6.1.39, 6.1.45).",
    ),
    Rule(
        "refcount-low",
        Severity.ERROR,
        "a frame's reference count is no less than the number of entries that map it,"
        " or it is freed while still mapped",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
        meaning="More entries map the frame than hold a reference to it. When the device is"
        " removed, each entry drops one, and the frame goes back to the page allocator while"
        " others still map it: struct pages and somebody else's data then share it. With a count"
        " of 0 it is free already.",
        look_at="What the frame is now: on a free list or in use by somebody else means that the"
        " damage is done. How many entries are missing a reference, and whether they are of one"
        " section: a missing get_page() in population, or a double free in an error path.",
    ),
    Rule(
        "refcount-high",
        Severity.ERROR,
        "a frame's reference count is no more than the number of entries that map it,"
        " or it is never freed",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
        meaning="The frame is referenced more often than it is mapped. Removing the device will"
        " not free it: memory is lost until the next boot. Page walkers and memory failure"
        " handling take a reference for a moment, so on a running kernel one too many may be no"
        " fault.",
        look_at="Whether it is still so in a moment; whether entries elsewhere in the vmemmap map"
        " the frame too; how much the count is off: by the entries of a section or a compound page"
        " points to a teardown that did not finish.",
    ),
)
