# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What of a pagemap can be trusted, and what the kernel should have built for it.

A ``struct dev_pagemap`` may be damaged, or half set up. What it says is used only where it
can be so: ranges that can exist and that ``pgmap_array`` has in full, a ``vmemmap_shift``
that fits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from ..kernel import SUBSECTION_SIZE
from ..spans import Spans
from .dedup import Dedup, Evidence, dedup_of, usual_scheme
from .layout import each_vpage_once, pieces_of, unknown_piece

if TYPE_CHECKING:
    from ..kernel import Damage
    from ..kernel.dev_pagemap import Pagemap, PhysicalRange
    from ..kernel.mem_section import Sections
    from ..kernel.xarray import Entry
    from .layout import Geometry, Piece
    from .schemes import Scheme

__all__ = ("ArrayEntries", "PagemapLayout", "layouts_of", "range_problem", "shift_fits")


class PagemapLayout(Struct, frozen=True):
    """A pagemap, and what of it is trusted."""

    pagemap: Pagemap
    name: str | None
    #: ranges that can exist
    valid: tuple[PhysicalRange, ...]
    entries: ArrayEntries
    #: trusted ranges: those that can exist and that ``pgmap_array`` has in full
    ranges: tuple[PhysicalRange, ...]
    #: whether ``vmemmap_shift`` is trusted
    shift_sound: bool
    dedup: Dedup

    @property
    def order(self) -> int:
        """log2 of the base pages in a compound page, 0 where it is not trusted."""
        return (self.pagemap.vmemmap_shift or 0) if self.shift_sound else 0

    @property
    def pfns(self) -> list[tuple[int, int]]:
        """The trusted ranges as page frames ``[first, end)``."""
        return _pfns(self.ranges, self.entries.page_size)

    @property
    def frames(self) -> Spans:
        """The page frames of the trusted ranges."""
        return Spans.of([first for first, _ in self.pfns], [end for _, end in self.pfns])

    def pieces(self, geometry: Geometry, sections: Sections, scheme: Scheme | None) -> list[Piece]:
        """
        Return the pieces of the vmemmap that describe it, in the order of its ranges.

        Each vpage is in one piece, whatever ranges and parts of ranges it describes.

        :param scheme: how the pagemap's tail pages should share frames, ``None`` if not at all
        """
        found: list[Piece] = []
        for first, end in self.pfns:
            if self.shift_sound:
                found += pieces_of(first, end, self.pagemap, geometry, sections, scheme)
            else:
                found.append(unknown_piece(first, end, geometry))
        return each_vpage_once(found)

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


def _pfns(ranges: Sequence[PhysicalRange], page_size: int) -> list[tuple[int, int]]:
    """Return ranges as page frames ``[first, end)``."""
    return [(one.start // page_size, (one.end + 1) // page_size) for one in ranges]


def layouts_of(
    pagemaps: Sequence[Pagemap],
    names: Mapping[int, str],
    damage: Sequence[Damage],
    physmem_bits: int,
    geometry: Geometry,
    osrelease: str,
    sections: Sections,
    shares_devices: bool,
    early: bool,
) -> list[PagemapLayout]:
    """
    Return pagemaps with what of each is trusted, in order of their first page frame.

    :param names: names of devices by address of the pagemap
    :param damage: what of ``pgmap_array`` could not be followed
    :param physmem_bits: bits of a physical address
    :param osrelease: the kernel's release, used only where nothing else says whether
        the kernel deduplicates
    :param sections: those that say for which compound pages they are populated
    :param shares_devices: whether devices share tail pages by zone and order
    :param early: whether zones have the array of kernels in which they do not
    """
    layouts = []
    for pagemap in sorted(pagemaps, key=lambda one: _first(one, geometry.page_size)):
        valid = tuple(one for one in pagemap.ranges if range_problem(one, physmem_bits) is None)
        entries = ArrayEntries.of(pagemap, valid, damage, geometry.page_size)
        ranges = tuple(entries.usable)
        sound = shift_fits(pagemap.vmemmap_shift, ranges, geometry.page_size)
        evidence = Evidence(sections, _pfns(ranges, geometry.page_size), shares_devices, early)
        dedup = Dedup(False, None, usual_scheme(geometry, evidence))
        if sound:
            dedup = dedup_of(pagemap, geometry, osrelease, evidence)
        name = names.get(pagemap.address)
        layouts.append(PagemapLayout(pagemap, name, valid, entries, ranges, sound, dedup))
    return layouts


def _first(pagemap: Pagemap, page_size: int) -> int:
    """Return the first page frame: by ``pgmap_array``, or by the pagemap if that was lost."""
    if pagemap.entries:
        return pagemap.entries[0].first
    return min((one.start // page_size for one in pagemap.ranges), default=0)


def range_problem(one: PhysicalRange, physmem_bits: int) -> str | None:
    """
    Return why a range can't exist, ``None`` if it can.

    ``mm/memory_hotplug.c: check_pfn_span()``: ranges consist of whole subsections.

    :param physmem_bits: bits of a physical address
    """
    if one.end < one.start:
        return "ends before it starts"
    if one.end >> physmem_bits:
        return f"lies outside of {physmem_bits} bits of physical address space"
    if one.start % SUBSECTION_SIZE or (one.end + 1) % SUBSECTION_SIZE:
        return "does not start and end on a subsection boundary"
    return None


def shift_fits(shift: int | None, ranges: Sequence[PhysicalRange], page_size: int) -> bool:
    """
    Return whether a compound page fits the largest range, as far as there is one.

    :param shift: log2 of the pages in a compound page
    :param page_size: bytes
    """
    if not shift:
        return True
    return shift < 64 and (not ranges or page_size << shift <= max(one.size for one in ranges))


class ArrayEntries(Struct, frozen=True):
    """The entries of ``pgmap_array`` for one pagemap, by the range that they lie in."""

    pagemap: Pagemap
    #: valid ranges of the pagemap
    ranges: Sequence[PhysicalRange]
    #: bytes
    page_size: int
    #: why they can't be compared, ``None`` if they can
    reason: str | None
    #: entries that lie in none of the ranges
    strays: Sequence[Entry]
    #: range -> frames that entries have of it
    frames: dict[PhysicalRange, int]

    @classmethod
    def of(
        cls,
        pagemap: Pagemap,
        ranges: Sequence[PhysicalRange],
        damage: Sequence[Damage],
        page_size: int,
    ) -> ArrayEntries:
        """
        Compare a pagemap's entries with its ranges.

        :param damage: what of ``pgmap_array`` could not be followed: its entries then say nothing
        """
        reason = None
        if damage:
            reason = "pgmap_array could not be followed"
        elif any(one.unreadable for one in pagemap.damage):
            # It has entries and, as far as is known, no ranges: that says nothing.
            reason = "the pagemap could not be read"
        elif len(ranges) != pagemap.nr_range:
            reason = "not all of its ranges are valid"
        strays = []
        frames = dict.fromkeys(ranges, 0)
        for entry in pagemap.entries if reason is None else ():
            start = entry.first * page_size
            end = start + entry.span * page_size
            for one in ranges:
                if one.start <= start and end <= one.end + 1:
                    frames[one] += entry.span
                    break
            else:
                strays.append(entry)
        return cls(pagemap, ranges, page_size, reason, strays, frames)

    def missing(self, one: PhysicalRange) -> bool:
        """Return whether entries have other frames of a range than all, each once."""
        return self.frames[one] != one.size // self.page_size

    @property
    def usable(self) -> list[PhysicalRange]:
        """The ranges that are there in full, as far as can be said."""
        if self.reason is not None:
            return list(self.ranges)
        return [one for one in self.frames if not self.missing(one)]
