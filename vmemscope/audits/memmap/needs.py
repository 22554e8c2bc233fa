# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of kernel types and variables that looking at the whole memory map takes."""

from __future__ import annotations

from typing import Final

from ...types import Need, NeedKind
from ..pagemaps.needs import NEEDS as PAGEMAPS

__all__ = ("NEEDS",)

NEEDS: Final = (
    *PAGEMAPS,
    # Since 6.11.
    Need("nr_memmap_pages", NeedKind.VARIABLE, "compare counters", optional=True),
    Need("nr_memmap_boot_pages", NeedKind.VARIABLE, "compare counters", optional=True),
)
