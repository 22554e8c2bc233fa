# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones of RAM on x86-64, in pfns.

Source: ``arch/x86/include/asm/dma.h``, ``arch/x86/mm/init.c: zone_sizes_init()``.
"""

from __future__ import annotations

from .units import MIB, PAGE_SIZE

__all__ = ("MAX_DMA32_PFN", "MAX_DMA_PFN", "ZONE_LIMITS")

#: below this is ZONE_DMA, which is used last
MAX_DMA_PFN = 16 * MIB // PAGE_SIZE
#: 4 GiB: the end of ZONE_DMA32
MAX_DMA32_PFN = 1 << 20

#: zones that RAM can be in: first pfn, pfn after the last
ZONE_LIMITS = {
    "ZONE_DMA": (0, MAX_DMA_PFN),
    "ZONE_DMA32": (MAX_DMA_PFN, MAX_DMA32_PFN),
    "ZONE_NORMAL": (MAX_DMA32_PFN, 1 << 52),
}
