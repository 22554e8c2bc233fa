# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kernel types and variables that looking at the whole memory map takes."""

from __future__ import annotations

from typing import Final

from ..needs import NEEDS as PAGEMAPS
from ..types import Need, NeedKind

__all__ = ("NEEDS",)

_ZONES = "tell zones"

NEEDS: Final = (
    *PAGEMAPS,
    # The latter without NUMA.
    Need("node_data", NeedKind.VARIABLE, _ZONES, alternatives=("contig_page_data",)),
    Need("nr_node_ids", NeedKind.VARIABLE, _ZONES, optional=True),
    Need("struct pglist_data.node_zones", NeedKind.MEMBER, _ZONES),
    *(
        Need(f"struct zone.{member}", NeedKind.MEMBER, _ZONES)
        for member in ("zone_start_pfn", "spanned_pages", "present_pages")
    ),
    Need("enum zone_type", NeedKind.TYPE, _ZONES),
    Need("ZONE_DEVICE", NeedKind.ENUMERATOR, _ZONES),
    Need("nodemask_t", NeedKind.TYPE, _ZONES),
    Need("enum pageflags", NeedKind.TYPE, "take page flags apart"),
    Need("PG_reserved", NeedKind.ENUMERATOR, "take page flags apart"),
    # Since 6.11.
    Need("nr_memmap_pages", NeedKind.VARIABLE, "compare counters", optional=True),
    Need("nr_memmap_boot_pages", NeedKind.VARIABLE, "compare counters", optional=True),
)
