# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What of a pagemap can be trusted, and what the kernel should have built for it.

A ``struct dev_pagemap`` may be damaged, or half set up. What it says is used only where it
can be so: ranges that can exist and that ``pgmap_array`` has in full, a ``vmemmap_shift``
that fits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .layout import Dedup, dedup_of

if TYPE_CHECKING:
    from ..kernel.dev_pagemap import Pagemap, PhysicalRange
    from .layout import Geometry

__all__ = ("PagemapLayout", "layouts_of", "range_problem", "spanned_frames")

# include/linux/mmzone.h: SUBSECTION_SHIFT, the same on every architecture
SUBSECTION_SIZE = 1 << 21


@dataclass(frozen=True)
class PagemapLayout:
    """A pagemap, and what of it is trusted."""

    pagemap: Pagemap
    name: str | None
    #: trusted ranges
    ranges: tuple[PhysicalRange, ...]
    #: whether ``vmemmap_shift`` is trusted
    shift_sound: bool
    dedup: Dedup

    @property
    def order(self) -> int:
        """log2 of the base pages in a compound page, 0 where it is not trusted."""
        return (self.pagemap.vmemmap_shift or 0) if self.shift_sound else 0

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return self.name or f"the pagemap at {self.pagemap.address:#x}"

    @property
    def complete(self) -> bool:
        """Whether all of it is trusted."""
        return (
            len(self.ranges) == self.pagemap.nr_range
            and self.shift_sound
            and not self.pagemap.damage
        )


def layouts_of(
    pagemaps: Sequence[Pagemap],
    names: Mapping[int, str],
    followed: bool,
    max_physmem_bits: int,
    geometry: Geometry,
    osrelease: str,
) -> list[PagemapLayout]:
    """
    Return pagemaps with what of each is trusted, in order of their first page frame.

    :param names: names of devices by address of the pagemap
    :param followed: whether all of ``pgmap_array`` could be followed: otherwise it does not
        say which ranges are there in full
    :param max_physmem_bits: bits that a physical address has
    :param osrelease: the kernel's release, used only where nothing else says whether
        the kernel deduplicates
    """
    layouts = []
    for pagemap in sorted(pagemaps, key=lambda one: one.entries[0].first):
        ranges = [one for one in pagemap.ranges if range_problem(one, max_physmem_bits) is None]
        readable = not any(one.unreadable for one in pagemap.damage)
        if followed and readable and len(ranges) == pagemap.nr_range:
            spanned = spanned_frames(pagemap, ranges, geometry)
            ranges = [one for one, n in spanned.items() if n == one.size // geometry.page_size]
        shift = pagemap.vmemmap_shift
        sound = (
            not shift
            or (shift < 64 and not ranges)
            or (shift < 64 and geometry.page_size << shift <= max(one.size for one in ranges))
        )
        dedup = dedup_of(pagemap, geometry, osrelease) if sound else Dedup(False, None)
        layouts.append(
            PagemapLayout(pagemap, names.get(pagemap.address), tuple(ranges), sound, dedup)
        )
    return layouts


def range_problem(one: PhysicalRange, max_physmem_bits: int) -> str | None:
    """
    Return why a range can't exist, ``None`` if it can.

    ``mm/memory_hotplug.c: check_pfn_span()``: ranges consist of whole subsections.
    """
    if one.end < one.start:
        return "ends before it starts"
    if one.end >> max_physmem_bits:
        return f"lies outside of {max_physmem_bits} bits of physical address space"
    if one.start % SUBSECTION_SIZE or (one.end + 1) % SUBSECTION_SIZE:
        return "does not start and end on a subsection boundary"
    return None


def spanned_frames(
    pagemap: Pagemap, ranges: Sequence[PhysicalRange], geometry: Geometry
) -> dict[PhysicalRange, int]:
    """
    Count the page frames of each range that ``pgmap_array`` has.

    ``mm/memremap.c: pagemap_range()`` stores each range as entries of powers of two.
    """
    spanned = dict.fromkeys(ranges, 0)
    for entry in pagemap.entries:
        start = entry.first * geometry.page_size
        last = (entry.first + entry.span) * geometry.page_size - 1
        for one in ranges:
            if one.start <= start and last <= one.end:
                spanned[one] += entry.span
                break
    return spanned
