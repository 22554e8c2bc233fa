# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One pass over the whole vmemmap: what is mapped, by whom, with which frames.

Leaves come in batches and become runs; a run costs the same whether it stands
for one page or for the 4,095 tail pages of a compound page, and neighbouring frames
are kept as spans. So memory grows with the fragmentation of what is mapped, and not
with its size.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field

from ...columns import numbered, select
from ...spans import Spans, union
from ...vmemmap.runs import runs_of
from ...vmemmap.struct_pages import read_struct_pages, self_hosted
from ...vmemmap.tables import Kind
from .areas import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ...vmemmap.runs import Runs
    from ...vmemmap.tables import Leaves
    from ...vmemmap.vmemmap import Vmemmap
    from .areas import Areas

__all__ = ("OwnerCounts", "WalkedAreas", "walk_areas")

#: frames of a large leaf of which one stands for all
_PART = 512
#: frames whose struct page is read at a time
_BATCH = 1 << 14


class OwnerCounts(Struct):
    """The vpages and frames of one owner."""

    mapped: int = 0
    unreadable: int = 0
    read_only: int = 0
    #: log2 of the base pages in a leaf -> pages that such leaves map
    by_order: Counter[int] = field(default_factory=Counter)
    #: frames behind it, each batch's joined; and of these, those in the memory block that
    #: they describe
    frames: list[Spans] = field(default_factory=list)
    itself: list[Spans] = field(default_factory=list)
    #: pages with a writable entry in sections that were there at boot: with a
    #: frame from then, and with one that was allocated since
    boot: int = 0
    replaced: int = 0
    #: pages with a writable entry in other sections
    late: int = 0
    #: frames of which it could not be read when they were allocated
    unread_frames: int = 0


class WalkedAreas:
    """The mappings of the whole vmemmap, by owner."""

    def __init__(self) -> None:
        self.by_owner: dict[int, OwnerCounts] = {}
        #: vpages that are mapped
        self.mapped = Spans.of([], [])
        #: vpages that are mapped by large leaves which describe something
        self.needed = Spans.of([], [])
        #: vpages whose page tables could not be read
        self.unread = Spans.of([], [])

    def counts_of(self, owner: int) -> OwnerCounts:
        """Return the counts of an owner."""
        return self.by_owner.setdefault(owner, OwnerCounts())


def walk_areas(
    vmemmap: Vmemmap,
    areas: Areas,
    described: Spans,
    end: int,
    reserved: int,
    devices: int,
    tails: NDArray[np.uint64] | None,
    step: Callable[[int], None],
) -> WalkedAreas:
    """
    Walk the vmemmap from its start.

    :param described: vpages that present sections need
    :param end: first vpage after what is walked
    :param reserved: flag of a ``struct page`` whose frame was allocated at boot (PG_reserved)
    :param devices: the first owner that is a pagemap
    :param tails: frames of tail pages that huge pages share, in order; ``None`` if unknown
    :param step: called with the pages of each batch that are mapped
    """
    found = WalkedAreas()
    mapped, needed, unread = [], [], []
    start = vmemmap.geometry.start
    for leaves in vmemmap.leaves(start, end):
        runs = runs_of(leaves, vmemmap.geometry, start, end)
        missing = select(runs, runs.kind == Kind.UNREADABLE)
        unread.append(Spans.of(missing.vpage, missing.vpage + missing.length))
        if (other := runs.kind != Kind.MAPPED).any():
            runs = select(runs, ~other)
        stop = runs.vpage + runs.length
        mapped.append(Spans.of(runs.vpage, stop))
        large = np.flatnonzero(runs.order)
        useful = large[described.touches(runs.vpage[large], stop[large])]
        needed.append(Spans.of(runs.vpage[useful], stop[useful]))
        _take(found, runs, missing, areas)
        for owner, here, early in _by_area(runs, areas):
            if not early and owner < devices and owner != NOTHING:
                found.counts_of(owner).itself.append(_self_hosted(here, vmemmap))
        _take_base(found, leaves, areas, vmemmap, reserved, devices, tails)
        step(int(runs.length.sum()))
    found.mapped, found.needed, found.unread = union(mapped), union(needed), union(unread)
    return found


def _take(found: WalkedAreas, runs: Runs, missing: Runs, areas: Areas) -> None:
    """Count a batch for the owners of the areas that it is in."""
    for owner, here, _ in _by_area(missing, areas):
        found.counts_of(owner).unreadable += int(here.length.sum())
    for owner, here, early in _by_area(runs, areas):
        counts = found.counts_of(owner)
        counts.mapped += int(here.length.sum())
        large = here.order > 0
        if large.any():
            pages = np.bincount(here.order, weights=here.length)
            for order in np.flatnonzero(pages).tolist():
                counts.by_order[order] += int(pages[order])
        else:
            counts.by_order[0] += int(here.length.sum())
        pfn = here.pfn.astype(np.int64)
        counts.frames.append(Spans.of(pfn, pfn + np.where(large, here.length, 1)))
        # Base pages are counted one by one: neighbours may have the same frame, and
        # only one of them be read-only.
        if early:
            counts.boot += int(here.length[large].sum())
        else:
            counts.late += int(here.length[large].sum())


def _self_hosted(runs: Runs, vmemmap: Vmemmap) -> Spans:
    """Find the frames that lie in the memory block that they describe; of leaves, by parts."""
    pfn = runs.pfn.astype(np.int64)
    length = np.where(runs.order > 0, runs.length, 1)
    which, nth = numbered(-(-length // _PART))
    start = pfn[which] + nth * _PART
    end = np.minimum(start + _PART, (pfn + length)[which])
    frames = start.astype(np.uint64)
    hosted = vmemmap.ram.contains(frames) & self_hosted(vmemmap, frames)
    return Spans.of(start[hosted], end[hosted])


def _by_area(runs: Runs, areas: Areas) -> Iterator[tuple[int, Runs, bool]]:
    """Cut runs to the areas that they are in; get owner, runs, and whether it is early."""
    if not len(runs.vpage):
        return
    stop = runs.vpage + runs.length
    for i in range(
        int(np.searchsorted(areas.end, runs.vpage[0], side="right")),
        int(np.searchsorted(areas.start, stop[-1], side="left")),
    ):
        start, end = int(areas.start[i]), int(areas.end[i])
        part = slice(
            int(np.searchsorted(stop, start, side="right")),
            int(np.searchsorted(runs.vpage, end, side="left")),
        )
        here = select(runs, part).clip(start, end)
        if len(here.vpage):
            yield int(areas.owner[i]), here, bool(areas.early[i])


def _take_base(
    found: WalkedAreas,
    leaves: Leaves,
    areas: Areas,
    vmemmap: Vmemmap,
    reserved: int,
    devices: int,
    tails: NDArray[np.uint64] | None,
) -> None:
    """Count the base pages of a batch without those that huge pages share."""
    base = (leaves.kind == Kind.MAPPED) & (leaves.shift == vmemmap.table.levels[-1].shift)
    if not base.any():
        return
    if not base.all():
        leaves = select(leaves, base)
    start = vmemmap.geometry.vpages_at(leaves.address)
    stop = start + leaves.pieces
    pfn, counted = leaves.pfn.astype(np.int64), leaves.writable.copy()
    by_place = tails is None and not vmemmap.geometry.arch.read_only
    if tails is not None:
        # Those from boot are writable at first, and nothing is read-only on some architectures.
        counted |= not vmemmap.geometry.arch.read_only
        counted &= ~np.isin(leaves.pfn, tails)
    for i in range(
        int(np.searchsorted(areas.end, start[0], side="right")),
        int(np.searchsorted(areas.start, stop[-1], side="left")),
    ):
        low, high = int(areas.start[i]), int(areas.end[i])
        here = slice(
            int(np.searchsorted(stop, low, side="right")), int(np.searchsorted(start, high))
        )
        pages = np.minimum(stop[here], high) - np.maximum(start[here], low)
        owner, own = int(areas.owner[i]), pages * counted[here]
        if by_place and owner < devices:
            # What HugeTLB shares is writable, too. The head's page is at a multiple of two or
            # more, and one of the run up to 7.0 (mm/hugetlb_vmemmap.c: vmemmap_remap_pte()).
            own = np.where(pages > 1, start[here] % 2 == 0, pages)
        counts, count = found.counts_of(owner), int(own.sum())
        counts.read_only += int(pages.sum()) - count
        if not areas.early[i]:
            counts.late += count
            continue
        frames, pages = pfn[here][own > 0], own[own > 0]
        for at in range(0, len(frames), _BATCH):
            some = slice(at, at + _BATCH)
            _take_early(counts, frames[some], pages[some], vmemmap, reserved)


def _take_early(
    counts: OwnerCounts,
    pfn: NDArray[np.int64],
    pages: NDArray[np.int64],
    vmemmap: Vmemmap,
    reserved: int,
) -> None:
    """
    Count frames from boot apart from those allocated later.

    HugeTLB's optimization replaces the frame of a huge page's head, and frees the
    others; those from boot have PG_reserved
    (``mm/hugetlb_vmemmap.c: free_vmemmap_page()``).

    :param pages: pages of the vmemmap that have each frame
    """
    in_ram = vmemmap.ram.contains(pfn.astype(np.uint64))
    read, pages = read_struct_pages(vmemmap, pfn[in_ram]), pages[in_ram]
    words = read.word(vmemmap.page.flags, vmemmap.word)
    at_boot = (words & np.uint64(reserved)) != 0
    counts.boot += int(pages[at_boot & read.readable].sum())
    counts.replaced += int(pages[~at_boot & read.readable].sum())
    counts.unread_frames += int(pages[~read.readable].sum())
