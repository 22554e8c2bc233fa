# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kernel types and variables that looking at HugeTLB takes."""

from __future__ import annotations

from typing import Final

from ...types import Need, NeedKind, Shape
from ..pagemaps.needs import NEEDS as PAGEMAPS
from ..pagemaps.needs import members

__all__ = ("HUGETLB", "NEEDS")

_LISTS = "find HugeTLB folios"
_PAGES = "look into struct pages of HugeTLB folios"
_HVO = "tell whether HugeTLB's vmemmap is optimized"
_ZONES = "tell zones"

NEEDS: Final = (
    *PAGEMAPS,
    # Not there in a kernel without HugeTLB.
    Need("hstates", NeedKind.VARIABLE, _LISTS, optional=True),
)

#: where there is HugeTLB
HUGETLB: Final = (
    Need("hugetlb_max_hstate", NeedKind.VARIABLE, _LISTS),
    *members(
        "struct hstate", _LISTS,
        "order", "nr_huge_pages", "free_huge_pages", "resv_huge_pages", "surplus_huge_pages",
        shape=Shape.INTEGER,
    ),
    *members("struct hstate", _LISTS, "hugepage_activelist", shape=Shape.STRUCT),
    *members(
        "struct hstate", _LISTS,
        "hugepage_freelists", "nr_huge_pages_node", "name", shape=Shape.ARRAY,
    ),
    *members("struct page", _PAGES, "lru", "mapping", "private", "_mapcount"),
    # "hugetlb: convert page_huge_active() HPageMigratable flag" and what follows
    # (in v5.12, 5.14); older kernels have none.
    Need("HPG_vmemmap_optimized", NeedKind.ENUMERATOR, _HVO, optional=True),
    Need("vmemmap_optimize_enabled", NeedKind.VARIABLE, _HVO, optional=True),
    Need("hugetlb_optimize_vmemmap_key", NeedKind.VARIABLE, _HVO, optional=True),
    Need("struct zone.vmemmap_tails", NeedKind.MEMBER, _HVO, optional=True),
    Need("node_data", NeedKind.VARIABLE, _ZONES, alternatives=("contig_page_data",)),
    Need("struct pglist_data.node_zones", NeedKind.MEMBER, _ZONES),
    Need("struct zone.zone_start_pfn", NeedKind.MEMBER, _ZONES),
    Need("struct zone.spanned_pages", NeedKind.MEMBER, _ZONES),
    Need("struct zone.present_pages", NeedKind.MEMBER, _ZONES),
    Need("enum zone_type", NeedKind.TYPE, _ZONES),
    Need("nodemask_t", NeedKind.TYPE, _ZONES),
    Need("enum pageflags", NeedKind.TYPE, "take page flags apart"),
    Need("PG_reserved", NeedKind.ENUMERATOR, "take page flags apart"),
)  # fmt: skip
