# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sizes in bytes, and in pages what memory is cut into."""

from __future__ import annotations

__all__ = (
    "GIB",
    "MIB",
    "PAGES_PER_SECTION",
    "PAGES_PER_SUBSECTION",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "SECTION_SIZE_BITS",
)

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
MIB = 1 << 20
GIB = 1 << 30

# arch/x86/include/asm/sparsemem.h, include/linux/mmzone.h
SECTION_SIZE_BITS = 27
PAGES_PER_SECTION = 1 << SECTION_SIZE_BITS - PAGE_SHIFT
PAGES_PER_SUBSECTION = 512
