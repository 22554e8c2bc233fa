# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How kernels share the frames of tail pages: each way described as data.

A :class:`Scheme` says which frames a compound page has of its own, which it shares and with
whom, how they are protected, who holds references to them, and what is left of them when
nobody maps them any more. :mod:`.layout` and the rules evaluate every scheme in the same
way. A further generation of the kernel is another scheme here, how it is recognised
(:func:`~.dedup.dedup_of` for devices, :func:`hugetlb_scheme` for HugeTLB), and a simulation.
``docs/generations.md`` shows them side by side.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = (
    "DEVICE_PAIRS",
    "DEVICE_RADIX",
    "DEVICE_ZONE",
    "HUGETLB_HEAD",
    "HUGETLB_SECOND",
    "HUGETLB_SECTION",
    "HUGETLB_ZONE",
    "SCHEMES",
    "References",
    "Scheme",
    "SharedBy",
    "hugetlb_scheme",
)


class SharedBy(Enum):
    """With whom a compound page's tail pages share their frame."""

    #: with each other: the compound page has a second frame for them
    COMPOUND = "compound page"
    #: with each other, and with the last page that the compound page keeps for itself
    KEPT = "kept frame"
    #: with all compound pages of that order in the zone
    ZONE = "zone and order"


class References(Enum):
    """How many references a shared frame has."""

    #: one for each entry that maps it
    ENTRIES = "entries"
    #: one for each entry, and one of the zone that it belongs to
    ZONE_AND_ENTRIES = "zone and entries"
    #: that of its allocation, however many entries map it
    ALLOCATION = "allocation"


class Scheme(Struct, frozen=True):
    """One way to share the frames of tail pages."""

    id: str
    #: a line in words
    title: str
    #: pages of the vmemmap, from that of the head on, that keep frames of their own
    kept: int
    sharing: SharedBy
    references: References
    #: whether shared pages are read-only, where the architecture can do that
    protected: bool
    #: pages of the vmemmap whose ``struct page``s are initialised for each compound page
    initialised: int
    #: frames for each compound page in ``nr_memmap_pages``, ``None`` where that is not counted so
    counted: int | None = None
    #: whether only sections that are populated for compound pages of that order share, by
    #: ``compound_page_order`` in ``struct mem_section``
    by_section: bool = False
    #: whether the kernel leaves compound pages half shared, on purpose or when it runs out of
    #: memory, and says that they are shared
    halves: bool = False
    #: whether compound pages are laid out by their address, not from the range's start
    by_address: bool = False

    @property
    def per_zone(self) -> bool:
        """Whether shared frames belong to a zone, and are there once for each order."""
        return self.sharing is SharedBy.ZONE

    @property
    def outlives(self) -> bool:
        """Whether a shared frame stays when nobody maps it any more, until the next boot."""
        return self.per_zone

    @property
    def shared(self) -> int:
        """Frames that a compound page has for its tail pages, besides those that it keeps."""
        return int(self.sharing is SharedBy.COMPOUND)

    def own_frames(self, vpages: int) -> int:
        """
        Count the frames that a compound page has for itself alone.

        :param vpages: pages of the vmemmap that it has, from that of the head on
        """
        return min(vpages, self.kept + self.shared)

    def references_of(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """
        Return the references that shared frames must have.

        :param entries: how many map each, shape ``(n,)``
        """
        if self.references is References.ALLOCATION:
            return np.ones_like(entries)
        return entries + int(self.references is References.ZONE_AND_ENTRIES)


DEVICE_PAIRS = Scheme(
    id="device-pairs",
    title="device DAX, 5.19 to 7.3: a frame for the head, one for the tail pages",
    kept=1,
    sharing=SharedBy.COMPOUND,
    references=References.ENTRIES,
    protected=False,
    initialised=2,
    counted=2,
)
DEVICE_RADIX = Scheme(
    id="device-radix",
    title="device DAX on ppc64 (radix), 6.6 to 7.3: as device-pairs, by address",
    kept=1,
    sharing=SharedBy.COMPOUND,
    references=References.ENTRIES,
    protected=False,
    initialised=2,
    counted=2,
    by_address=True,
)
DEVICE_ZONE = Scheme(
    id="device-zone",
    title="device DAX of the coming kernel: a frame for the head, tail pages in the node's",
    kept=1,
    sharing=SharedBy.ZONE,
    references=References.ZONE_AND_ENTRIES,
    protected=False,
    initialised=1,
    counted=1,
    by_section=True,
)
HUGETLB_SECOND = Scheme(
    id="hugetlb-second",
    title="HugeTLB, 5.14 to 5.17: two frames, the rest maps the second",
    kept=2,
    sharing=SharedBy.KEPT,
    references=References.ALLOCATION,
    protected=True,
    initialised=2,
)
HUGETLB_HEAD = Scheme(
    id="hugetlb-head",
    title="HugeTLB, 5.18 to 7.0: one frame, the rest maps it, too",
    kept=1,
    sharing=SharedBy.KEPT,
    references=References.ALLOCATION,
    protected=True,
    initialised=1,
)
HUGETLB_ZONE = Scheme(
    id="hugetlb-zone",
    title="HugeTLB, 7.1 to 7.3: a frame for the head, tail pages in the zone's",
    kept=1,
    sharing=SharedBy.ZONE,
    references=References.ALLOCATION,
    protected=True,
    initialised=1,
)
#: Sections of RAM have an order, too, of folios from boot. It says how the section was populated,
#: and stays when a folio is restored or freed; so entries decide (``by_section`` is not set).
HUGETLB_SECTION = Scheme(
    id="hugetlb-section",
    title="HugeTLB of the coming kernel: as hugetlb-zone, from boot on by the section's order",
    kept=1,
    sharing=SharedBy.ZONE,
    references=References.ALLOCATION,
    protected=True,
    initialised=1,
    halves=True,
)

#: all of them
SCHEMES = (
    DEVICE_PAIRS,
    DEVICE_RADIX,
    DEVICE_ZONE,
    HUGETLB_SECOND,
    HUGETLB_HEAD,
    HUGETLB_ZONE,
    HUGETLB_SECTION,
)


def hugetlb_scheme(kept: int, shared_tails: bool, by_section: bool) -> Scheme:
    """
    Return how a kernel shares the tail pages of HugeTLB.

    :param kept: pages of the vmemmap that each optimized folio keeps for itself
    :param shared_tails: whether zones have frames of tail pages
    :param by_section: whether sections have orders
    """
    if shared_tails:
        return HUGETLB_SECTION if by_section else HUGETLB_ZONE
    return HUGETLB_HEAD if kept == 1 else HUGETLB_SECOND
