# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the vmemmap describes: cut into areas, each of one owner.

An owner is a pagemap, by its ranges, or a zone of a node. Zones have
their spans (``zone_start_pfn``, ``spanned_pages``): exact to the page frame and
known without a read of the memory map. RAM in sections that are not online is in no zone,
even between parts of one, and its struct pages are not initialised. Where zones' spans give
none or several (nodes that interleave, the hole that fills a section's end), the node and zone
in the first ``struct page`` there decide, or in the last: ``page_zone()`` uses the same.
ZONE_DEVICE spans everything between the first device and the last, RAM too, so
only a pagemap's ranges count for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...columns import join, numbered, select
from ...vmemmap.shared_pages import cut_to_keepers
from ...vmemmap.struct_pages import read_struct_pages

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...kernel.page_flags import FlagLayout
    from ...kernel.pglist_data import Zone
    from ...spans import Spans
    from ...vmemmap.layout import Geometry
    from ...vmemmap.vmemmap import Vmemmap

__all__ = ("NOTHING", "OFFLINE", "UNKNOWN", "Areas", "Owners", "cut")

#: the owner of pages in no known zone, of vpages that describe nothing, and of RAM that
#: is not online
UNKNOWN, NOTHING, OFFLINE = -1, -2, -3

#: sections whose first struct page is read at a time
_BATCH = 1024


class Owners(NamedTuple):
    """Whose an area can be: numbers count through zones, then pagemaps."""

    #: zones of System RAM
    zones: Sequence[Zone]
    #: page frames of each pagemap
    pagemaps: Sequence[Spans]


class Areas(NamedTuple):
    """All of the vmemmap in order, part by part without a gap; all arrays have shape ``(n,)``."""

    #: first vpage, and first vpage after (int64)
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    #: first page frame described, and how many are (int64)
    frame: NDArray[np.int64]
    described: NDArray[np.int64]
    #: whose it is, in :class:`Owners`, or one of the negative numbers above (int64)
    owner: NDArray[np.int64]
    #: whether its sections were there at boot (bool)
    early: NDArray[np.bool_]


def cut(
    stop: int,
    present: Spans,
    early: Spans,
    offline: Spans,
    owners: Owners,
    vmemmap: Vmemmap,
    flags: FlagLayout,
    unread: Counter[str],
) -> Areas:
    """
    Cut the vmemmap into areas.

    :param stop: first vpage after the vmemmap
    :param present: page frames that are described
    :param early: page frames in sections that were there at boot
    :param offline: page frames in sections that are not online
    :param flags: layout of ``page->flags``
    :param unread: gets what could not be read
    """
    points = np.unique(
        np.concatenate(
            [
                *present,
                *early,
                *offline,
                *(np.array([zone.start, zone.end]) for zone in owners.zones),
                *(bound for spans in owners.pagemaps for bound in spans),
            ]
        ).astype(np.int64)
    )
    left, right = points[:-1], points[1:]
    kept = present.contains(left)
    left, right = left[kept], right[kept]
    owner = np.full(len(left), UNKNOWN, dtype=np.int64)
    claims = np.zeros(len(left), dtype=np.int64)
    for number, zone in enumerate(owners.zones):
        inside = (left >= zone.start) & (left < zone.end)
        owner[inside] = number
        # What lies between zones of another node is spanned by this one alone, and not its.
        around = any(zone.start < other.start < zone.end for other in owners.zones)
        claims[inside] += 2 if around else 1
    inside = offline.contains(left)
    owner[inside] = np.where(vmemmap.ram.contains(left[inside].astype(np.uint64)), OFFLINE, UNKNOWN)
    claims[inside] = 1
    for number, spans in enumerate(owners.pagemaps, len(owners.zones)):
        inside = spans.contains(left)
        owner[inside] = number
        claims[inside] = 1
    open_ = claims != 1
    if open_.any():
        start, end, found = _by_struct_page(
            left[open_], right[open_], owners, vmemmap, flags, unread
        )
        left = np.concatenate((left[~open_], start))
        right = np.concatenate((right[~open_], end))
        owner = np.concatenate((owner[~open_], found))
    order = np.argsort(left, kind="stable")
    areas = _joined(
        left[order], right[order], owner[order], early, len(owners.zones), vmemmap.geometry
    )
    return _filled(areas, stop)


def _by_struct_page(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    owners: Owners,
    vmemmap: Vmemmap,
    flags: FlagLayout,
    unread: Counter[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut at section boundaries, and ask struct pages of each piece for their zone."""
    size = vmemmap.sections.pages
    which, nth = numbered((right - 1) // size - left // size + 1)
    start = np.where(nth == 0, left[which], (left[which] // size + nth) * size)
    end = np.minimum(right[which], (left[which] // size + nth + 1) * size)
    owner = np.full(len(start), UNKNOWN, dtype=np.int64)
    lost = np.zeros(len(start), dtype=np.bool_)
    known = {(zone.nid, zone.index): number for number, zone in enumerate(owners.zones)}
    # Seen on 6.1 to 7.2: in the hole that fills the last section, all pages but the
    # last have a zone that there is not.
    for pages in (start, end - 1):
        for at in range(0, len(start), _BATCH):
            asked = np.flatnonzero(owner[at : at + _BATCH] == UNKNOWN) + at
            read = read_struct_pages(vmemmap, pages[asked])
            lost[asked] |= ~read.readable
            words = read.word(vmemmap.page.flags, vmemmap.word).tolist()
            for i, word, readable in zip(asked, words, read.readable.tolist(), strict=True):
                place = flags.zone_of(word) if readable else None
                if place is not None:
                    owner[i] = known.get(place, UNKNOWN)
    unread["struct pages that say which zone memory is in"] += int(
        np.count_nonzero(lost & (owner == UNKNOWN))
    )
    return start, end, owner


def _joined(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    owner: NDArray[np.int64],
    early: Spans,
    devices: int,
    geometry: Geometry,
) -> Areas:
    """
    Join neighbours alike, and go over from page frames to vpages.

    :param devices: the first owner that is a pagemap
    """
    at_boot = early.contains(left)
    apart = (right[:-1] != left[1:]) | (owner[:-1] != owner[1:]) | (at_boot[:-1] != at_boot[1:])
    first = np.flatnonzero(np.concatenate((np.ones(min(len(left), 1), np.bool_), apart)))
    last = np.append(first[1:] - 1, len(left) - 1)[: len(first)]
    size, page_size = geometry.struct_page_size, geometry.page_size
    start, end = left[first] * size // page_size, -(-right[last] * size // page_size)
    # A vpage that describes the end of one area and the start of another counts with one.
    start, end = cut_to_keepers(start, end, owner[first] >= devices)
    return Areas(start, end, left[first], right[last] - left[first], owner[first], at_boot[first])


def _filled(areas: Areas, stop: int) -> Areas:
    """Return areas with the gaps between, which describe nothing, as areas of their own."""
    start = np.append(0, areas.end)
    end = np.append(areas.start, stop)
    gap = end > start
    start, end = start[gap], end[gap]
    nothing = np.zeros(len(start), dtype=np.int64)
    between = Areas(
        start,
        end,
        nothing,
        nothing,
        np.full(len(start), NOTHING, dtype=np.int64),
        np.zeros(len(start), dtype=np.bool_),
    )
    joined = join([areas, between])
    return select(joined, np.argsort(joined.start, kind="stable"))
