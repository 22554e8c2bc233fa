# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From page-table entries to the frames behind them.

:func:`runs_of` turns leaves into :class:`Runs`, neighbouring vpages that the
same frame backs: a compound page of 4,096 vpages costs two. :class:`FrameTable`
counts, over any number of batches, how many vpages map each frame, and how
many of them should be the only owner of their frame. It keeps compound pages as
what they are, and gives :class:`Frames` by :func:`windows`: memory is bounded by
4 bytes a frame, whatever there is to say of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .columns import join, select
from .walk import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .layout import Geometry
    from .walk import Leaves

__all__ = (
    "FrameTable",
    "FrameTotals",
    "Frames",
    "Runs",
    "expand",
    "in_order",
    "join_frames",
    "runs_of",
    "sharing",
    "windows",
)


class Runs(NamedTuple):
    """Runs of vpages, in order; all arrays have shape ``(n,)``."""

    #: first vpage (int64)
    vpage: NDArray[np.int64]
    #: number of vpages (int64)
    length: NDArray[np.int64]
    #: frame behind the first vpage (uint64)
    pfn: NDArray[np.uint64]
    #: log2 of the base pages in the leaf (uint8): 0 where one frame backs all
    #: vpages; else a large leaf, whose frames follow one another
    order: NDArray[np.uint8]
    #: :class:`~vmemscope.walk.Kind` (uint8)
    kind: NDArray[np.uint8]

    def clip(self, start: int, end: int) -> Runs:
        """Cut the runs to the vpages ``[start, end)``."""
        first = np.maximum(self.vpage, start)
        last = np.minimum(self.vpage + self.length, end)
        moved = (first - self.vpage).astype(np.uint64) * (self.order > 0)
        clipped = Runs(first, last - first, self.pfn + moved, self.order, self.kind)
        return select(clipped, last > first)


def runs_of(leaves: Leaves, geometry: Geometry, start: int, end: int) -> Runs:
    """
    Join the base pages among leaves into runs, and cut all to ``[start, end)`` vpages.

    A large leaf is a run of its own.
    """
    page_shift = geometry.page_size.bit_length() - 1
    vpage = ((leaves.address - np.uint64(geometry.vmemmap)) >> np.uint64(page_shift)).astype(
        np.int64
    )
    # An upper-level hole may start before the vmemmap: its vpage wraps, so undo that.
    wraps = leaves.address < np.uint64(geometry.vmemmap)
    if wraps.any():
        below = (np.uint64(geometry.vmemmap) - leaves.address[wraps]) >> np.uint64(page_shift)
        vpage[wraps] = -below.astype(np.int64)
    pages = np.int64(1) << (leaves.shift.astype(np.int64) - page_shift)
    large = (leaves.kind == Kind.MAPPED) & (pages > 1)
    if len(vpage) > 1:
        joins = (
            (leaves.kind[1:] == leaves.kind[:-1])
            & (leaves.pfn[1:] == leaves.pfn[:-1])
            & ~large[1:]
            & ~large[:-1]
        )
        first = np.flatnonzero(np.concatenate(([True], ~joins)))
    else:
        first = np.arange(len(vpage))
    length = np.add.reduceat(pages, first) if len(first) else pages
    return Runs(
        vpage[first],
        length,
        leaves.pfn[first],
        np.where(large, leaves.shift - page_shift, 0).astype(np.uint8)[first],
        leaves.kind[first],
    ).clip(start, end)


class Frames(NamedTuple):
    """Frames in order of pfn; all arrays have shape ``(n,)``."""

    #: the frame, or the first of those that the row stands for (uint64)
    pfn: NDArray[np.uint64]
    #: vpages that map the frame, or each of the frames (int64)
    entries: NDArray[np.int64]
    #: how many of them should be its only owner: head pages, the shared tail
    #: pages of one compound page (as one), plain pages (int64)
    owners: NDArray[np.int64]
    #: the first vpage that maps it (int64)
    vpage: NDArray[np.int64]
    #: whether it is part of a large leaf, but not the first frame (bool)
    inner: NDArray[np.bool_]
    #: frames that the row stands for (int64): more than one where a large leaf
    #: maps neighbours that nothing else maps; all but the first are inner ones
    span: NDArray[np.int64]

    @property
    def total(self) -> int:
        """How many frames there are."""
        return int(self.span.sum())


#: rows that a table gathers before it adds up those of the same frame
_GATHERED = 1 << 21
#: rows that are looked at together
_WINDOW = 1 << 20
#: log2 of the frames that a window is a multiple of: no leaf may lie across two
_WINDOW_ORDER = 18
#: frames of memory for each one in use, up to which they are not sorted
_DENSE = 4
#: blocks of that size that are counted one by one, rather than sorted
_NARROW = 1 << 12


class _Sound:
    """
    Neighbouring compound pages that are mapped as they should be, frames only.

    :param vpage: first vpage of the first
    :param size: vpages in each
    """

    def __init__(self, vpage: int, size: int) -> None:
        self.vpage = vpage
        self.size = size
        #: frames of heads and tails in turn (uint32 where they fit, else uint64)
        self.pfns: list[NDArray[Any]] = []
        self.count = 0

    @property
    def end(self) -> int:
        """First vpage after the last."""
        return self.vpage + self.count // 2 * self.size

    def add(self, heads: NDArray[np.uint64], tails: NDArray[np.uint64]) -> None:
        """Add those that come next."""
        # The kernel allocates them in turn, so they come nearly in order.
        pfn = np.stack((heads, tails), axis=1).ravel()
        self.pfns.append(pfn.astype(np.uint32) if int(pfn.max()) < 1 << 32 else pfn)
        self.count += len(pfn)

    def between(self, first: int, end: int) -> Frames | None:
        """Get the frames in ``[first, end)`` in order of pfn, ``None`` if there are none."""
        pfns, places, before = [], [], 0
        for pfn in self.pfns:
            which = _within(pfn, first, end)
            if which is not None:
                pfns.append(pfn[which])
                places.append(np.arange(before, before + len(pfn))[which])
            before += len(pfn)
        if not pfns:
            return None
        pfn, place = _ordered(np.concatenate(pfns), np.concatenate(places))
        tail = place & 1
        one = np.ones(len(place), dtype=np.int64)
        return Frames(
            pfn,
            1 + tail * (self.size - 2),
            one,
            self.vpage + (place >> 1) * self.size + tail,
            np.zeros(len(place), dtype=np.bool_),
            one,
        )


def _ordered(
    pfn: NDArray[Any], place: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Put frames in order, each with its place."""
    if (pfn[1:] >= pfn[:-1]).all():
        return pfn.astype(np.uint64), place
    low = int(pfn.min())
    span = int(pfn.max()) - low + 1
    if span <= _DENSE * len(pfn):
        # One element a frame of memory costs less than sorting those in use.
        dense = np.zeros(span, dtype=np.int64)
        dense[pfn - pfn.dtype.type(low)] = place + 1
        used = np.flatnonzero(dense)
        # Fewer than there were, if several have the same.
        if len(used) == len(pfn):
            return used.astype(np.uint64) + np.uint64(low), dense[used] - 1
    # A stable sort makes use of what is in order already, and much is.
    order = np.argsort(pfn, kind="stable")
    return pfn[order].astype(np.uint64), place[order]


class FrameTable:
    """Count how many vpages map each frame."""

    def __init__(self) -> None:
        self._sound: list[_Sound] = []
        self._parts: list[Frames] = []
        self._rows = 0
        self._merged = 0
        #: of the largest leaf
        self._order = 0

    def add(self, runs: Runs, owners: NDArray[np.int64]) -> None:
        """
        Add mapped runs.

        :param owners: shape ``(n,)``, for each run whether (1) or not (0) it
            should be the only owner of its frame; in a large leaf, of each of them
        """
        large = runs.order > 0
        one = np.ones(len(runs.pfn), dtype=np.int64)
        # A leaf is aligned to its size, so its first frame is told by its number.
        within = (np.uint64(1) << runs.order.astype(np.uint64)) - np.uint64(1)
        self.add_frames(
            Frames(
                runs.pfn,
                np.where(large, one, runs.length),
                owners,
                runs.vpage,
                (runs.pfn & within) != 0,
                np.where(large, runs.length, one),
            )
        )
        self._order = max(self._order, int(runs.order.max(initial=0)))

    def add_compounds(
        self, heads: NDArray[np.uint64], tails: NDArray[np.uint64], vpage: int, size: int
    ) -> None:
        """
        Add neighbouring compound pages that are mapped as they should be.

        :param heads: frame of each one's head, shape ``(n,)``
        :param tails: frame of each one's tails, shape ``(n,)``
        :param vpage: first vpage of the first
        :param size: vpages in each
        """
        if not len(heads):
            return
        last = self._sound[-1] if self._sound else None
        if last is None or last.size != size or last.end != vpage:
            last = _Sound(vpage, size)
            self._sound.append(last)
        last.add(heads, tails)

    def add_frames(self, frames: Frames) -> None:
        """Add frames that were counted elsewhere."""
        if not len(frames.pfn):
            return
        self._parts.append(frames)
        self._rows += len(frames.pfn)
        if self._rows > max(_GATHERED, self._merged) and len(self._parts) > 1:
            self._parts = [_merge(self._parts)]
            # What is left is distinct; gather as much again before the next time.
            self._rows, self._merged = 0, len(self._parts[0].pfn)

    def finish(self) -> Frames:
        """Get all frames in order of pfn."""
        return self.between(0, 1 << 64)

    def between(self, first: int, end: int) -> Frames:
        """
        Get the frames in ``[first, end)`` in order of pfn.

        :param first: a bound that :func:`windows` gave, as is ``end``
        """
        found: list[Frames] = []
        for sound in self._sound:
            frames = sound.between(first, end)
            if frames is not None:
                found.append(frames)
        for part in self._parts:
            index = _within(part.pfn, first, end)
            if index is not None:
                found.append(select(part, index))
        return _merge(found)

    def blocks(self, order: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Count rows by blocks of ``1 << order`` frames, each block once or several times."""
        number, rows = [], []
        pfns = [pfn for one in self._sound for pfn in one.pfns]
        for pfn in (*pfns, *(one.pfn for one in self._parts)):
            low, high = int(pfn.min()) >> order, int(pfn.max()) >> order
            if low == high:
                number.append(np.array([low], dtype=np.uint64))
                rows.append(np.array([len(pfn)], dtype=np.int64))
            else:
                several, count = np.unique(
                    pfn.astype(np.uint64) >> np.uint64(order), return_counts=True
                )
                number.append(several)
                rows.append(count.astype(np.int64))
        if not number:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        return np.concatenate(number), np.concatenate(rows)

    @property
    def rows(self) -> int:
        """How many rows there are, some maybe of the same frame."""
        sound = sum(one.count for one in self._sound)
        return sound + sum(len(one.pfn) for one in self._parts)

    @property
    def order(self) -> int:
        """log2 of the frames in the largest leaf."""
        return self._order


def _within(pfn: NDArray[Any], first: int, end: int) -> NDArray[np.int64] | slice | None:
    """Find the frames in ``[first, end)``: all, some or ``None``."""
    low, high = int(pfn.min()), int(pfn.max())
    if low >= first and high < end:
        return slice(None)
    if low >= end or high < first:
        return None
    # Either bound may not fit the type of the array.
    inside = np.ones(len(pfn), dtype=np.bool_)
    if low < first:
        inside &= pfn >= first
    if high >= end:
        inside &= pfn < end
    return np.flatnonzero(inside)


def windows(tables: Sequence[FrameTable]) -> Iterator[tuple[int, int]]:
    """
    Divide the frames of tables into windows of a bounded number of rows each.

    :return: first frame, and first frame after, of each window, in order
    """
    if sum(table.rows for table in tables) <= _WINDOW:
        yield 0, 1 << 64
        return
    order = max([_WINDOW_ORDER, *(table.order for table in tables)])
    counted = [table.blocks(order) for table in tables]
    if not counted:
        return
    number, rows = (np.concatenate(column) for column in zip(*counted, strict=True))
    number, which = np.unique(number, return_inverse=True)
    total = np.cumsum(np.bincount(which, weights=rows, minlength=len(number)))
    at = 0
    while at < len(number):
        before = total[at - 1] if at else 0
        stop = max(int(np.searchsorted(total, before + _WINDOW, side="right")), at + 1)
        yield int(number[at]) << order, (int(number[stop - 1]) + 1) << order
        at = stop


def join_frames(parts: Sequence[Frames]) -> Frames:
    """Join frames that several tables have counted; each part is in order of pfn."""
    parts = [part for part in parts if len(part.pfn)]
    return parts[0] if len(parts) == 1 else _merge(parts)


def expand(frames: Frames, which: NDArray[np.bool_]) -> Frames:
    """Give each frame of some rows a row of its own, in no order."""
    rows = select(frames, which)
    total = rows.total
    owner = np.repeat(np.arange(len(rows.pfn)), rows.span)
    offset = np.arange(total) - (np.cumsum(rows.span) - rows.span)[owner]
    apart = select(rows, owner)._replace(
        pfn=rows.pfn[owner] + offset.astype(np.uint64),
        vpage=rows.vpage[owner] + offset,
        inner=rows.inner[owner] | (offset > 0),
        span=np.ones(total, dtype=np.int64),
    )
    return join([select(frames, ~which), apart])


def _merge(parts: Sequence[Frames]) -> Frames:
    """Join parts, adding up what they say of the same frame."""
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return Frames(none.astype(np.uint64), none, none, none, none.astype(np.bool_), none)
    joined = in_order(parts[0] if len(parts) == 1 else join(parts))
    large = joined.span > 1
    if large.any():
        # Where anything else maps a frame of a large leaf, frame by frame.
        reach = np.maximum.accumulate(joined.pfn + joined.span.astype(np.uint64))
        overlaps = joined.pfn[1:] < reach[:-1]
        ends = joined.pfn[:-1] + joined.span[:-1].astype(np.uint64)
        large[1:] &= overlaps | np.append(joined.pfn[2:] < ends[1:], False)
        large[:1] &= (joined.pfn[1:] < ends)[:1].any()
        if large.any():
            joined = in_order(expand(joined, large))
    same = joined.pfn[1:] == joined.pfn[:-1]
    if not same.any():
        return joined
    first = np.flatnonzero(np.concatenate(([True], ~same)))
    return Frames(
        joined.pfn[first],
        np.add.reduceat(joined.entries, first),
        np.add.reduceat(joined.owners, first),
        np.minimum.reduceat(joined.vpage, first),
        np.logical_and.reduceat(joined.inner, first),
        joined.span[first],
    )


def in_order(frames: Frames) -> Frames:
    """Put frames in order of pfn."""
    if (frames.pfn[1:] >= frames.pfn[:-1]).all():
        return frames
    return select(frames, np.argsort(frames.pfn, kind="stable"))


class FrameTotals:
    """Sums over frames."""

    def __init__(self) -> None:
        #: frames
        self.backing = 0
        self._sharing: Counter[int] = Counter()

    def add(self, frames: Frames) -> None:
        """Add frames that are not among those that were added before."""
        self.backing += frames.total
        self._sharing.update(sharing(frames))

    @property
    def sharing(self) -> dict[int, int]:
        """Frames by the number of vpages that map them."""
        return dict(sorted(self._sharing.items()))


def sharing(frames: Frames) -> dict[int, int]:
    """Count frames by the number of vpages that map them: {entries per frame: frames}."""
    if not len(frames.pfn):
        return {}
    if int(frames.entries.max()) < 1 << 16:
        # Sums of whole numbers are exact in a float up to 2**53.
        large = (frames.span > 1).any()
        counts = np.bincount(frames.entries, weights=frames.span if large else None)
        entries = np.flatnonzero(counts)
        counts = counts[entries]
    else:
        entries, which = np.unique(frames.entries, return_inverse=True)
        counts = np.bincount(which, weights=frames.span)
    return dict(zip(entries.tolist(), counts.astype(np.int64).tolist(), strict=True))
