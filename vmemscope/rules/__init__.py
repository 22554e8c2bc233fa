# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules: what must hold for the vmemmap of a pagemap.

:data:`CATALOGUE` has them all, with where each comes from in the kernel. The
modules beside this one evaluate them, one for each kind of fact: ``ranges``
(the pagemap itself), ``mapping`` (page-table entries), ``backing`` (frames and
their reference counts) and ``contents`` (the ``struct page``s of compound pages).
"""

from __future__ import annotations

from ..findings import Rule, Severity

__all__ = ("CATALOGUE",)

_RULES = (
    Rule(
        "range-invalid",
        Severity.ERROR,
        "a pagemap's ranges are whole subsections of physical address space",
        "mm/memory_hotplug.c: check_pfn_span(), 5.3+",
    ),
    Rule(
        "range-overlap",
        Severity.ERROR,
        "no two ranges of pagemaps overlap",
        "mm/memremap.c: pagemap_range(), all versions",
    ),
    Rule(
        "nr-range",
        Severity.ERROR,
        "the number of ranges is one that a driver can make",
        "mm/memremap.c: memremap_pages(), 5.10+",
    ),
    Rule(
        "vmemmap-shift",
        Severity.ERROR,
        "a compound page is no larger than its pagemap",
        "mm/memremap.c: memremap_pages(), 5.17+",
    ),
    Rule(
        "xarray",
        Severity.ERROR,
        "the entries of pgmap_array are the frames of the pagemaps' ranges",
        "mm/memremap.c: pagemap_range(), xa_store_range(), all versions",
    ),
    Rule(
        "resource-tree",
        Severity.ERROR,
        "the resources below iomem_resource form a tree",
        "kernel/resource.c: __request_resource(), all versions",
    ),
    Rule(
        "section-alignment",
        Severity.WARNING,
        "compound pages larger than a section start on a section boundary, and not in a section"
        " that was there at boot",
        "mm/sparse-vmemmap.c: reuse_compound_section(), 5.19 to 7.2: goes by the offset in the"
        " range, while sections are cut at absolute boundaries",
    ),
    Rule(
        "mask-alignment",
        Severity.WARNING,
        "where tail pages find their head by a mask, compound pages are aligned to their size",
        "include/linux/page-flags.h: compound_info_has_mask(), 7.1+",
    ),
    Rule(
        "hole",
        Severity.ERROR,
        "all of the vmemmap that describes a pagemap is mapped",
        "mm/sparse-vmemmap.c: __populate_section_memmap(), all versions",
    ),
    Rule(
        "leaf-size",
        Severity.ERROR,
        "only the memory map of whole sections without deduplication has large leaves",
        "arch/x86/mm/init_64.c: vmemmap_populate(), all versions",
    ),
    Rule(
        "leaf-fallback",
        Severity.NOTE,
        "the memory map of a whole section without deduplication has large leaves",
        "mm/sparse-vmemmap.c: vmemmap_populate_hugepages(), which falls back to base pages",
    ),
    Rule(
        "read-only",
        Severity.ERROR,
        "the vmemmap of device memory is writable",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), PAGE_KERNEL, all versions",
    ),
    Rule(
        "executable",
        Severity.ERROR,
        "the vmemmap can't be executed",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), PAGE_KERNEL, all versions",
    ),
    Rule(
        "not-deduplicated",
        Severity.ERROR,
        "the tail pages of a compound page share one frame",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages(), 5.19+",
    ),
    Rule(
        "tail-frame",
        Severity.ERROR,
        "all tail pages of a compound page map the same frame",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages(), 5.19+",
    ),
    Rule(
        "frame-shared",
        Severity.ERROR,
        "a frame backs one head page, or the tail pages of one compound page, or one plain page",
        "mm/sparse-vmemmap.c: vmemmap_populate_compound_pages(), 5.19+",
    ),
    Rule(
        "frame-not-memory",
        Severity.ERROR,
        "the vmemmap is backed by System RAM, or by the device that an altmap lies on",
        "mm/sparse-vmemmap.c: vmemmap_alloc_block_buf(), all versions",
    ),
    Rule(
        "altmap-frame",
        Severity.ERROR,
        "an altmap hands out frames from behind its reserve, as many as it has",
        "mm/sparse-vmemmap.c: altmap_alloc_block_buf(), all versions",
    ),
    Rule(
        "refcount-low",
        Severity.ERROR,
        "a frame's reference count is no less than the number of entries that map it,"
        " or it is freed while still mapped",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page(), 5.19+",
    ),
    Rule(
        "refcount-high",
        Severity.ERROR,
        "a frame's reference count is no more than the number of entries that map it,"
        " or it is never freed",
        "mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page(), 5.19+",
    ),
    Rule(
        "head-flag",
        Severity.ERROR,
        "the head of a compound page has PG_head and is no tail",
        "mm/page_alloc.c: prep_compound_page(), memmap_init_compound(), 5.17+",
    ),
    Rule(
        "compound-head",
        Severity.ERROR,
        "tail pages resolve to the head of their compound page",
        "include/linux/page-flags.h: compound_head(); pointer up to 7.0, mask in 7.1+",
    ),
    Rule(
        "compound-order",
        Severity.ERROR,
        "a compound page's order is the pagemap's vmemmap_shift",
        "mm/mm_init.c: memmap_init_compound(), prep_compound_head(), 5.17+",
    ),
    Rule(
        "pgmap-link",
        Severity.ERROR,
        "the head of a compound page points back to its pagemap",
        "mm/mm_init.c: __init_zone_device_page(), all versions",
    ),
)

CATALOGUE = {rule.id: rule for rule in _RULES}
