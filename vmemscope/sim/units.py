# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sizes in bytes, and what memory is cut into: sections in pages, zones in pfns."""

from __future__ import annotations

__all__ = (
    "GIB",
    "MAX_DMA32_PFN",
    "MAX_DMA_PFN",
    "MIB",
    "PAGES_PER_SECTION",
    "PAGES_PER_SUBSECTION",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "SECTION_SIZE_BITS",
    "ZONE_LIMITS",
)

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
MIB = 1 << 20
GIB = 1 << 30

# arch/x86/include/asm/sparsemem.h, include/linux/mmzone.h
SECTION_SIZE_BITS = 27
PAGES_PER_SECTION = 1 << SECTION_SIZE_BITS - PAGE_SHIFT
PAGES_PER_SUBSECTION = 512

# arch/x86/include/asm/dma.h, arch/x86/mm/init.c: zone_sizes_init()
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
