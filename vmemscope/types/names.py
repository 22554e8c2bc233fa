# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The names of kernel types and variables that audits rely on.

They are checked before anything is read: a name that fails to resolve half-way would
be taken for that of a newer kernel, and silently change the answer.
"""

from __future__ import annotations

from typing import Final

from .needs import Need, NeedKind, Shape

__all__ = ("DEVICES", "HUGETLB", "MEMORY_MAP", "PAGE")

_INTEGER, _POINTER, _STRUCT, _ARRAY = Shape.INTEGER, Shape.POINTER, Shape.STRUCT, Shape.ARRAY


def _members(
    struct: str, purpose: str, *names: str, shape: Shape | None = None, optional: bool = False
) -> tuple[Need, ...]:
    """Return needs of members that are used alike."""
    return tuple(
        Need(f"{struct}.{name}", NeedKind.MEMBER, purpose, optional, shape=shape) for name in names
    )


_FIND = "find pagemaps"
_MAP = "find the memory map"
_RAM = "distinguish RAM from devices"
_PAGES = "read struct pages"
_ZONES = "read zones"

_FOLIOS = "find HugeTLB folios"
_FOLIO_PAGES = "read struct pages of HugeTLB folios"

#: where there can be pagemaps (CONFIG_ZONE_DEVICE)
DEVICES: Final = (
    Need("pgmap_array", NeedKind.VARIABLE, _FIND),
    *_members("struct xarray", _FIND, "xa_head", shape=_POINTER),
    *_members("struct xa_node", _FIND, "shift", shape=_INTEGER),
    *_members("struct xa_node", _FIND, "slots", shape=_ARRAY),
    Need("enum memory_type", NeedKind.TYPE, _FIND),
    Need("MEMORY_DEVICE_GENERIC", NeedKind.ENUMERATOR, _FIND),
    *_members("struct dev_pagemap", _FIND, "type", "flags", "nr_range", shape=_INTEGER),
    *_members("struct dev_pagemap", _FIND, "range", shape=_STRUCT),
    *_members(
        "struct dev_pagemap.altmap", _FIND,
        "base_pfn", "end_pfn", "reserve", "free", "align", "alloc", shape=_INTEGER,
    ),
    # "mm/memremap: add ZONE_DEVICE support for compound pages" (in v5.17)
    *_members("struct dev_pagemap", _FIND, "vmemmap_shift", shape=_INTEGER, optional=True),
    *_members("struct range", _FIND, "start", "end", shape=_INTEGER),
    Need(
        "struct folio.pgmap", NeedKind.MEMBER, _PAGES,
        alternatives=("struct page.pgmap",), shape=_POINTER,
    ),
    Need("ZONE_DEVICE", NeedKind.ENUMERATOR, _ZONES),
)  # fmt: skip

#: of all audits
MEMORY_MAP: Final = (
    Need("mem_section", NeedKind.VARIABLE, _MAP),
    *_members("struct mem_section", _MAP, "section_mem_map", shape=_INTEGER),
    *_members("struct mem_section", _MAP, "usage", shape=_POINTER),
    *_members("struct mem_section_usage", _MAP, "subsection_map", shape=_ARRAY),
    Need("iomem_resource", NeedKind.VARIABLE, _RAM),
    *_members("struct resource", _RAM, "start", "end", "flags", shape=_INTEGER),
    *_members("struct resource", _RAM, "name", "sibling", "child", shape=_POINTER),
    Need("struct page", NeedKind.TYPE, _PAGES),
    *_members("struct page", _PAGES, "flags", "_refcount"),
    Need(
        "struct page.compound_info", NeedKind.MEMBER, _PAGES,
        alternatives=("struct page.compound_head",), shape=_INTEGER,
    ),
    Need("PG_head", NeedKind.ENUMERATOR, _PAGES),
    Need("PG_reserved", NeedKind.ENUMERATOR, _PAGES),
    Need("enum pageflags", NeedKind.TYPE, _PAGES),
    # The latter without NUMA.
    Need("node_data", NeedKind.VARIABLE, _ZONES, alternatives=("contig_page_data",)),
    *_members("struct pglist_data", _ZONES, "node_zones", shape=_ARRAY),
    *_members(
        "struct zone", _ZONES,
        "zone_start_pfn", "spanned_pages", "present_pages", shape=_INTEGER,
    ),
    Need("enum zone_type", NeedKind.TYPE, _ZONES),
    Need("nodemask_t", NeedKind.TYPE, _ZONES),
)  # fmt: skip

#: where there is HugeTLB
HUGETLB: Final = (
    Need("hugetlb_max_hstate", NeedKind.VARIABLE, _FOLIOS),
    *_members(
        "struct hstate", _FOLIOS,
        "order", "nr_huge_pages", "free_huge_pages", "resv_huge_pages", "surplus_huge_pages",
        shape=Shape.INTEGER,
    ),
    *_members("struct hstate", _FOLIOS, "hugepage_activelist", shape=Shape.STRUCT),
    *_members(
        "struct hstate", _FOLIOS,
        "hugepage_freelists", "nr_huge_pages_node", "name", shape=Shape.ARRAY,
    ),
    *_members("struct page", _FOLIO_PAGES, "lru", "mapping", "private", "_mapcount"),
)  # fmt: skip

#: of one page
PAGE: Final = (Need("struct page._mapcount", NeedKind.MEMBER, "say what a page is used for"),)
