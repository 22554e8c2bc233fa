# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which ``struct page``s of a pagemap are looked into."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....vmemmap.layout import first_compound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....vmemmap.vmemmap import Vmemmap
    from ..subject import Subject

__all__ = ("Area", "Contents", "areas_of", "picked", "why_not")

#: compound pages, and vpages of base pages, of a range that are looked into for
#: a sample: spread evenly, the first and the last among them
_SAMPLE = 1024
_NONE = "contents of struct pages were not asked for (--contents none)"


class Contents(Enum):
    """How many ``struct page``s are looked into."""

    ALL = "all"
    SAMPLE = "sample"
    NONE = "none"


class Area(NamedTuple):
    """Page frames whose ``struct page``s are initialised alike."""

    #: ``[start, end)``
    start: int
    end: int
    #: log2 of the pages in its compound pages; 0: base pages
    order: int
    #: whether these are the frames that an altmap hands out
    altmap: bool = False
    #: ``struct page``s in a vpage
    per_page: int = 1

    @property
    def parts(self) -> int:
        """Compound pages, or vpages of base pages."""
        if self.order:
            return -(-(self.end - self.start) >> self.order)
        return -(-self.end // self.per_page) - self.start // self.per_page


def why_not(subject: Subject, vmemmap: Vmemmap, contents: Contents) -> str | None:
    """Tell why no ``struct page`` of a pagemap is looked into, ``None`` if some are."""
    geometry, order = vmemmap.geometry, subject.order
    if contents is Contents.NONE:
        return _NONE
    if not subject.shift_sound:
        return subject.no_compounds
    if order and geometry.compound_vpages(order) < 2:
        return "compound pages that share a page of the vmemmap"
    if geometry.page_size % geometry.struct_page_size or geometry.struct_page_size % 8:
        return "struct pages that lie across pages of the vmemmap"
    per_page = geometry.page_size // geometry.struct_page_size
    if order and any(area.start % per_page for area in areas_of(subject, vmemmap) if area.order):
        return "compound pages that start inside a page of the vmemmap"
    return None


def areas_of(subject: Subject, vmemmap: Vmemmap) -> list[Area]:
    """Get what there is to be looked into, in order of address."""
    geometry, altmap = vmemmap.geometry, subject.pagemap.altmap
    per_page = geometry.page_size // geometry.struct_page_size
    areas = []
    for one in subject.ranges:
        start, end = one.start // geometry.page_size, (one.end + 1) // geometry.page_size
        first = first_compound(subject.pagemap, start)
        if altmap is not None:
            # Those of the reserved frames before are never written to.
            held = max(altmap.base_pfn + altmap.reserve, start)
            held_end = min(altmap.base_pfn + altmap.reserve + altmap.free, first, end)
            if held < held_end:
                areas.append(Area(held, held_end, 0, True, per_page))
        if first < end:
            areas.append(Area(first, end, subject.order, False, per_page))
    return areas


def picked(area: Area, contents: Contents) -> NDArray[np.int64]:
    """Pick compound pages, or vpages of base pages, by their number."""
    if contents is Contents.ALL or area.parts <= _SAMPLE:
        return np.arange(area.parts, dtype=np.int64)
    return np.arange(_SAMPLE, dtype=np.int64) * (area.parts - 1) // (_SAMPLE - 1)
