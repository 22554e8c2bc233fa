# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which pages of the vmemmap map given frames: one walk over all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...columns import select
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...vmemmap.vmemmap import Vmemmap

__all__ = ("Mappers", "find_mappers")


class Mappers(NamedTuple):
    """The pages of the vmemmap that map some frames."""

    #: pfn -> the first vpage of each run (int64), and how many it has (int64), shape ``(n,)``;
    #: only frames that any page maps
    of: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
    #: pages of the vmemmap whose page tables could not be read
    unread: int


def find_mappers(vmemmap: Vmemmap, end: int, pfns: Sequence[int]) -> Mappers:
    """
    Find the pages of the vmemmap that map frames.

    :param end: virtual address after the vmemmap
    :param pfns: the frames, at least one
    """
    geometry = vmemmap.geometry
    shift = geometry.page_size.bit_length() - 1
    wanted = np.array(sorted(pfns), dtype=np.uint64)
    vpages: dict[int, list[NDArray[np.int64]]] = {}
    pages: dict[int, list[NDArray[np.int64]]] = {}
    unread = 0
    for leaves in vmemmap.leaves(geometry.start, end):
        unread += int(leaves.pieces[leaves.kind == Kind.UNREADABLE].sum())
        # The first wanted frame from the leaf's first on: is it in the leaf?
        first = wanted[np.minimum(np.searchsorted(wanted, leaves.pfn), len(wanted) - 1)]
        within = leaves.shift - np.uint8(shift)
        near = (leaves.kind == Kind.MAPPED) & (first - leaves.pfn >> within == 0)
        if not near.any():
            continue
        some, within = select(leaves, near), within[near]
        for pfn in pfns:
            into = np.uint64(pfn) - some.pfn
            here = into >> within == 0
            if here.any():
                at = geometry.vpages_at(some.address[here]) + into[here].astype(np.int64)
                vpages.setdefault(pfn, []).append(at)
                pages.setdefault(pfn, []).append(some.pieces[here])
    found = {pfn: (np.concatenate(vpages[pfn]), np.concatenate(pages[pfn])) for pfn in vpages}
    return Mappers(found, unread)
