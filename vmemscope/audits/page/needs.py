# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kernel types and variables that looking at one page takes."""

from __future__ import annotations

from typing import Final

from ...types import Need, NeedKind
from ..memmap.needs import NEEDS as MEMORY_MAP

__all__ = ("NEEDS",)

NEEDS: Final = (
    *MEMORY_MAP,
    Need("struct page._mapcount", NeedKind.MEMBER, "tell what a page is used for"),
    # 6.11+; before, VMCOREINFO has the types that matter.
    Need("enum pagetype", NeedKind.TYPE, "tell what a page is used for", optional=True),
    # x86: other architectures' direct maps are told by the page tables alone.
    Need("page_offset_base", NeedKind.VARIABLE, "tell the direct map", optional=True),
)
