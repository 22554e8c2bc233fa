# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kernel types and variables that the audit of HugeTLB relies on."""

from __future__ import annotations

from typing import Final

from ...types import Need, NeedKind, Shape
from ..pagemaps.needs import members

__all__ = ("HUGETLB",)

_LISTS = "find HugeTLB folios"
_PAGES = "read struct pages of HugeTLB folios"

#: beside those of pagemaps, where there is HugeTLB
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
)  # fmt: skip
