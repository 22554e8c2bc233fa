# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The names of kernel types and variables that the audit relies on.

Checked before anything is read: a name that only fails to resolve half-way
would look like an older kernel, and give a different answer without a word.
"""

from __future__ import annotations

from typing import Final

from .types import Need, NeedKind

__all__ = ("NEEDS",)


def _members(struct: str, purpose: str, *members: str) -> tuple[Need, ...]:
    return tuple(Need(f"{struct}.{member}", NeedKind.MEMBER, purpose) for member in members)


_FIND = "find pagemaps"
_MAP = "find the memory map"
_RAM = "tell memory from devices"
_PAGES = "look into struct pages"
_ZONES = "tell zones"
_NAME = "name devices"

NEEDS: Final = (
    Need("pgmap_array", NeedKind.VARIABLE, _FIND),
    *_members("struct xarray", _FIND, "xa_head"),
    *_members("struct xa_node", _FIND, "shift", "slots"),
    Need("enum memory_type", NeedKind.TYPE, _FIND),
    Need("MEMORY_DEVICE_GENERIC", NeedKind.ENUMERATOR, _FIND),
    *_members("struct dev_pagemap", _FIND, "type", "flags", "nr_range", "range"),
    *_members(
        "struct dev_pagemap.altmap", _FIND,
        "base_pfn", "end_pfn", "reserve", "free", "align", "alloc",
    ),
    # "mm/memremap: add ZONE_DEVICE support for compound pages" (in v5.17)
    Need("struct dev_pagemap.vmemmap_shift", NeedKind.MEMBER, _FIND, optional=True),
    *_members("struct range", _FIND, "start", "end"),
    Need("mem_section", NeedKind.VARIABLE, _MAP),
    *_members("struct mem_section", _MAP, "section_mem_map", "usage"),
    *_members("struct mem_section_usage", _MAP, "subsection_map"),
    Need("iomem_resource", NeedKind.VARIABLE, _RAM),
    *_members("struct resource", _RAM, "start", "end", "name", "flags", "sibling", "child"),
    Need("struct page", NeedKind.TYPE, _PAGES),
    *_members("struct page", _PAGES, "flags", "_refcount"),
    Need(
        "struct page.compound_info", NeedKind.MEMBER, _PAGES,
        alternatives=("struct page.compound_head",),
    ),
    Need(
        "struct folio.pgmap", NeedKind.MEMBER, _PAGES,
        alternatives=("struct page.pgmap",),
    ),
    Need("PG_head", NeedKind.ENUMERATOR, _PAGES),
    Need("PG_reserved", NeedKind.ENUMERATOR, _PAGES),
    Need("enum pageflags", NeedKind.TYPE, _PAGES),
    # The latter without NUMA.
    Need("node_data", NeedKind.VARIABLE, _ZONES, alternatives=("contig_page_data",)),
    Need("nr_node_ids", NeedKind.VARIABLE, _ZONES, optional=True),
    *_members("struct pglist_data", _ZONES, "node_zones"),
    *_members("struct zone", _ZONES, "zone_start_pfn", "spanned_pages", "present_pages"),
    Need("enum zone_type", NeedKind.TYPE, _ZONES),
    Need("ZONE_DEVICE", NeedKind.ENUMERATOR, _ZONES),
    Need("nodemask_t", NeedKind.TYPE, _ZONES),
    # CONFIG_DAX, and as a module its types are not in vmlinux: resources tell names too.
    Need("dax_bus_type", NeedKind.VARIABLE, _NAME, optional=True),
    *(
        need._replace(optional=True)
        for need in (
            *_members("struct dev_dax", _NAME, "pgmap", "dev"),
            *_members("struct gendisk", _NAME, "disk_name"),
        )
    ),
)  # fmt: skip
