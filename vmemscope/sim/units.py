# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sizes in bytes, and what memory is cut into: pages, sections in pages, zones in pfns.

Sources: ``include/linux/mmzone.h``, and of each architecture ``asm/page.h``,
``asm/pgtable.h`` and ``asm/sparsemem.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

__all__ = ("GIB", "MIB", "PHYSICAL_MASK", "SUBSECTION_SHIFT", "Units")

MIB = 1 << 20
GIB = 1 << 30
#: physical addresses that there can be
PHYSICAL_MASK = (1 << 52) - 1

#: include/linux/mmzone.h: the granularity of memremap_pages()
SUBSECTION_SHIFT = 21


@dataclass(frozen=True)
class Units:
    """What a kernel counts memory in; by default x86-64's."""

    #: PAGE_SHIFT
    page_shift: int = 12
    #: SECTION_SIZE_BITS
    section_bits: int = 27
    #: PMD_SHIFT, and PUD_SHIFT (where that level is the top one, too)
    pmd_shift: int = 21
    pud_shift: int = 30
    #: ``vmemmap_populate()`` has leaves of a PMD
    large_leaves: bool = True
    #: of the kernel's words
    order: Literal["little", "big"] = "little"

    @cached_property
    def word(self) -> np.dtype[np.uint64]:
        """An ``unsigned long`` in the kernel's memory."""
        return np.dtype("<u8" if self.order == "little" else ">u8")

    @cached_property
    def mark(self) -> str:
        """The byte order as :mod:`struct` writes it."""
        return "<" if self.order == "little" else ">"

    @cached_property
    def page_size(self) -> int:
        return 1 << self.page_shift

    @cached_property
    def pmd_size(self) -> int:
        return 1 << self.pmd_shift

    @cached_property
    def pmd_pages(self) -> int:
        """Base pages that a PMD covers: entries of a table of the last level."""
        return 1 << self.pmd_shift - self.page_shift

    @cached_property
    def leaf_pages(self) -> int:
        """Base pages of the leaf that ``vmemmap_populate()`` uses where it can."""
        return self.pmd_pages if self.large_leaves else 1

    @cached_property
    def pages_per_section(self) -> int:
        return 1 << self.section_bits - self.page_shift

    @cached_property
    def pages_per_subsection(self) -> int:
        return 1 << SUBSECTION_SHIFT - self.page_shift

    @cached_property
    def subsections(self) -> int:
        """Subsections in a section."""
        return 1 << self.section_bits - SUBSECTION_SHIFT

    @cached_property
    def huge_orders(self) -> tuple[int, int]:
        """Orders of HugeTLB's two sizes, in the kernel's order: hstates[0] is the default."""
        return self.pmd_shift - self.page_shift, self.pud_shift - self.page_shift

    # x86-64's: arch/x86/include/asm/dma.h, arch/x86/mm/init.c: zone_sizes_init()

    @cached_property
    def max_dma_pfn(self) -> int:
        """Below this is ZONE_DMA, which is used last."""
        return 16 * MIB >> self.page_shift

    @cached_property
    def max_dma32_pfn(self) -> int:
        """4 GiB: the end of ZONE_DMA32."""
        return 4 * GIB >> self.page_shift

    @cached_property
    def zone_limits(self) -> dict[str, tuple[int, int]]:
        """Zones that RAM can be in: first pfn, pfn after the last."""
        return {
            "ZONE_DMA": (0, self.max_dma_pfn),
            "ZONE_DMA32": (self.max_dma_pfn, self.max_dma32_pfn),
            "ZONE_NORMAL": (self.max_dma32_pfn, 1 << 52),
        }

    def zone_of(self, pfn: int) -> str:
        """Name the zone of a frame of RAM."""
        if pfn < self.max_dma_pfn:
            return "ZONE_DMA"
        return "ZONE_DMA32" if pfn < self.max_dma32_pfn else "ZONE_NORMAL"
