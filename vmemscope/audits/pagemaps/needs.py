# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The names of kernel types and variables that the audit relies on.

They are checked before anything is read: a name that fails to resolve half-way would
be taken for that of a newer kernel, and silently change the answer.
"""

from __future__ import annotations

from typing import Final

from ...types import Need, NeedKind, Shape

__all__ = ("NEEDS", "members")

_INTEGER, _POINTER, _STRUCT, _ARRAY = Shape.INTEGER, Shape.POINTER, Shape.STRUCT, Shape.ARRAY


def members(
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

NEEDS: Final = (
    Need("pgmap_array", NeedKind.VARIABLE, _FIND),
    *members("struct xarray", _FIND, "xa_head", shape=_POINTER),
    *members("struct xa_node", _FIND, "shift", shape=_INTEGER),
    *members("struct xa_node", _FIND, "slots", shape=_ARRAY),
    Need("enum memory_type", NeedKind.TYPE, _FIND),
    Need("MEMORY_DEVICE_GENERIC", NeedKind.ENUMERATOR, _FIND),
    *members("struct dev_pagemap", _FIND, "type", "flags", "nr_range", shape=_INTEGER),
    *members("struct dev_pagemap", _FIND, "range", shape=_STRUCT),
    *members(
        "struct dev_pagemap.altmap", _FIND,
        "base_pfn", "end_pfn", "reserve", "free", "align", "alloc", shape=_INTEGER,
    ),
    # "mm/memremap: add ZONE_DEVICE support for compound pages" (in v5.17)
    *members("struct dev_pagemap", _FIND, "vmemmap_shift", shape=_INTEGER, optional=True),
    *members("struct range", _FIND, "start", "end", shape=_INTEGER),
    Need("mem_section", NeedKind.VARIABLE, _MAP),
    *members("struct mem_section", _MAP, "section_mem_map", shape=_INTEGER),
    *members("struct mem_section", _MAP, "usage", shape=_POINTER),
    *members("struct mem_section_usage", _MAP, "subsection_map", shape=_ARRAY),
    Need("iomem_resource", NeedKind.VARIABLE, _RAM),
    *members("struct resource", _RAM, "start", "end", "flags", shape=_INTEGER),
    *members("struct resource", _RAM, "name", "sibling", "child", shape=_POINTER),
    Need("struct page", NeedKind.TYPE, _PAGES),
    *members("struct page", _PAGES, "flags", "_refcount"),
    Need(
        "struct page.compound_info", NeedKind.MEMBER, _PAGES,
        alternatives=("struct page.compound_head",), shape=_INTEGER,
    ),
    Need(
        "struct folio.pgmap", NeedKind.MEMBER, _PAGES,
        alternatives=("struct page.pgmap",), shape=_POINTER,
    ),
    Need("PG_head", NeedKind.ENUMERATOR, _PAGES),
    Need("PG_reserved", NeedKind.ENUMERATOR, _PAGES),
    Need("enum pageflags", NeedKind.TYPE, _PAGES),
    # The latter without NUMA.
    Need("node_data", NeedKind.VARIABLE, _ZONES, alternatives=("contig_page_data",)),
    *members("struct pglist_data", _ZONES, "node_zones", shape=_ARRAY),
    *members(
        "struct zone", _ZONES,
        "zone_start_pfn", "spanned_pages", "present_pages", shape=_INTEGER,
    ),
    Need("enum zone_type", NeedKind.TYPE, _ZONES),
    Need("ZONE_DEVICE", NeedKind.ENUMERATOR, _ZONES),
    Need("nodemask_t", NeedKind.TYPE, _ZONES),
)  # fmt: skip
