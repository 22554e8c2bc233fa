# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages of the vmemmap that describe memory of several owners.

With base pages of 64 KiB a page of the vmemmap has the ``struct page``s of 64 MiB, with 16 KiB
those of 4 MiB; a device can begin and end at any 2 MiB. The kernel maps such a page for whichever
part it adds first. For the others it finds the entry there and uses it: there is one frame, with
one reference (``mm/sparse-vmemmap.c: vmemmap_pte_populate()``,
``arch/powerpc/mm/book3s64/radix_pgtable.c: radix__vmemmap_pte_populate()``).

Which part was the first, no structure says, except that RAM from boot was there before all
devices. So each such page counts once, by :func:`cut_to_keepers`: with RAM if it describes any,
else with the first device by address. Its frame may be of RAM, or of the altmap of any device
that it describes.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..kernel.mem_section_usage import read_subsections
from ..spans import Spans, intersection, subtract, union
from .layout import RAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from drgn import Program
    from numpy.typing import NDArray

    from ..kernel.mem_section import Sections
    from .layout import Geometry
    from .pagemaps import PagemapLayout

__all__ = (
    "SharedPage",
    "by_pagemap",
    "cut_to_keepers",
    "find_ram_leaves",
    "find_shared_pages",
    "in_altmaps",
)

#: devices that are named at the most, in a page that has room for so many subsections
_MAX_NAMES = 32


class SharedPage(NamedTuple):
    """A page of the vmemmap with ``struct page``s of several owners."""

    vpage: int
    #: whether it describes memory of no device
    ram: bool
    #: the pagemaps that it describes, by address
    pagemaps: tuple[PagemapLayout, ...]

    @property
    def keeper(self) -> PagemapLayout | None:
        """The pagemap that it counts with, ``None`` if that is RAM."""
        return None if self.ram else self.pagemaps[0]

    def kept_by(self, layout: PagemapLayout) -> bool:
        """Return whether it counts with a pagemap."""
        return self.keeper is not None and self.keeper.pagemap.address == layout.pagemap.address

    def others(self, layout: PagemapLayout) -> tuple[str, ...]:
        """Return what it describes besides a pagemap, what it counts with first."""
        address = layout.pagemap.address
        names = (one.label for one in self.pagemaps if one.pagemap.address != address)
        return (*((RAM,) if self.ram else ()), *islice(names, _MAX_NAMES))


def cut_to_keepers(
    start: NDArray[np.int64], end: NDArray[np.int64], device: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """
    Leave each vpage that several parts have to one of them: RAM, else the first.

    :param start: first vpage of each part, shape ``(n,)``; parts overlap at their ends only, and
        are in order
    :param end: first vpage after each
    :param device: which are parts of devices
    :return: start and end of what is left of each, equal where nothing is
    """
    if len(start) < 2:
        return start, end
    number = np.arange(len(start))
    ends = np.flatnonzero(end - start > 1)
    part = np.concatenate((number, ends))
    vpage = np.concatenate((start, end[ends] - 1))
    order = np.lexsort((part, device[part], vpage))
    part, vpage = part[order], vpage[order]
    lost = np.zeros(len(part), dtype=np.bool_)
    lost[1:] = vpage[1:] == vpage[:-1]
    part, vpage = part[lost], vpage[lost]
    start, end = start.copy(), end.copy()
    last = vpage > start[part]
    end[part[last]] -= 1
    start[part[~last]] += 1
    return start, np.maximum(end, start)


def find_shared_pages(
    prog: Program, layouts: Sequence[PagemapLayout], sections: Sections, geometry: Geometry
) -> dict[int, SharedPage]:
    """
    Find the pages of the vmemmap that describe a device and something else, by vpage.

    Only a page in which a device begins or ends can be one.
    """
    if geometry.whole_subsections:
        return {}
    parts: dict[int, list[tuple[int, PagemapLayout]]] = {}
    for vpage, first, layout in _ends(layouts, geometry):
        parts.setdefault(vpage, []).append((first, layout))
    edges = np.array(sorted(parts), dtype=np.int64)
    ram = _describe_ram(prog, edges, 1, layouts, sections, geometry)
    found = {}
    for vpage, has_ram in zip(edges.tolist(), ram.tolist(), strict=True):
        ordered = sorted(parts[vpage], key=lambda one: one[0])
        pagemaps = {layout.pagemap.address: layout for _, layout in ordered}
        if has_ram or len(pagemaps) > 1:
            found[vpage] = SharedPage(vpage, has_ram, tuple(pagemaps.values()))
    return found


def find_ram_leaves(
    prog: Program, layouts: Sequence[PagemapLayout], sections: Sections, geometry: Geometry
) -> NDArray[np.int64]:
    """
    Find large leaves with a part of a device that describe memory of no device, too.

    RAM may have been there first, and boot has counts of its own for its frames.

    :return: their numbers: vpages by the pages in a leaf (int64), in order, shape ``(n,)``
    """
    pages = geometry.leaf // geometry.page_size
    found = {vpage // pages for vpage, _, _ in _ends(layouts, geometry)}
    if not geometry.shares_leaves(sections.pages) or not found:
        return np.empty(0, dtype=np.int64)
    leaves = np.array(sorted(found), dtype=np.int64)
    return leaves[_describe_ram(prog, leaves, pages, layouts, sections, geometry)]


def _ends(
    layouts: Iterable[PagemapLayout], geometry: Geometry
) -> Iterator[tuple[int, int, PagemapLayout]]:
    """Yield the vpages of both ends of each range, with its first page frame and its pagemap."""
    for layout in layouts:
        for first, end in layout.pfns:
            yield geometry.vpage(first), first, layout
            yield geometry.vpage_after(end) - 1, first, layout


def _describe_ram(
    prog: Program,
    number: NDArray[np.int64],
    pages: int,
    layouts: Sequence[PagemapLayout],
    sections: Sections,
    geometry: Geometry,
) -> NDArray[np.bool_]:
    """
    Return which parts of the vmemmap describe memory of no device (bool), shape ``(n,)``.

    :param number: of the parts, in order
    :param pages: vpages in each
    """
    size, page_size = geometry.struct_page_size, geometry.page_size
    start = number * pages * page_size // size
    stop = -(-(number + 1) * pages * page_size // size)
    ram = _described(prog, Spans.of(start, stop), sections, page_size)
    return subtract(ram, union(layout.frames for layout in layouts)).touches(start, stop)


def _described(prog: Program, frames: Spans, sections: Sections, page_size: int) -> Spans:
    """Return those of some page frames that have ``struct page``s (not all known, maybe)."""
    first = sections.number * sections.pages
    which = np.flatnonzero(frames.touches(first, first + sections.pages))
    found = read_subsections(prog, sections, page_size, which)
    early = first[which[sections.early[which]]]
    whole = Spans.of(early, early + sections.pages)
    return intersection(frames, union((found.valid, found.unknown, whole)))


def by_pagemap(found: Mapping[int, SharedPage]) -> dict[int, dict[int, SharedPage]]:
    """Return the pages that describe each pagemap, by its address and by vpage, in order."""
    pages: dict[int, dict[int, SharedPage]] = {}
    for vpage, shared in sorted(found.items()):
        for layout in shared.pagemaps:
            pages.setdefault(layout.pagemap.address, {})[vpage] = shared
    return pages


def in_altmaps(pfn: NDArray[np.uint64], layouts: Iterable[PagemapLayout]) -> NDArray[np.bool_]:
    """Return which frames are of the altmap of some pagemap (bool), shape ``(n,)``."""
    found = np.zeros(len(pfn), dtype=np.bool_)
    for layout in layouts:
        if (altmap := layout.pagemap.altmap) is not None:
            # Damaged, they are any number.
            low, high = (min(bound, 1 << 63) for bound in altmap.bounds)
            found |= (pfn >= np.uint64(low)) & (pfn < np.uint64(high))
    return found
