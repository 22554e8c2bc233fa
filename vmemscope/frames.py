# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From page-table entries to the frames behind them.

:func:`runs_of` turns leaves into :class:`Runs`, neighbouring vpages that the
same frame backs: a compound page of 4,096 vpages costs two. :class:`FrameTable`
counts, over any number of batches, how many vpages map each frame, and how
many of them should be the only owner of their frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .columns import join, select
from .walk import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .layout import Geometry
    from .walk import Leaves

__all__ = ("FrameTable", "Frames", "Runs", "join_frames", "runs_of", "sharing")


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

    pfn: NDArray[np.uint64]
    #: vpages that map the frame (int64)
    entries: NDArray[np.int64]
    #: how many of them should be its only owner: head pages, the shared tail
    #: pages of one compound page (as one), plain pages (int64)
    owners: NDArray[np.int64]
    #: the first vpage that maps it (int64)
    vpage: NDArray[np.int64]
    #: whether it is part of a large leaf, but not the first frame (bool)
    inner: NDArray[np.bool_]


#: rows that a table gathers before it adds up those of the same frame
_GATHERED = 1 << 21


class FrameTable:
    """Count how many vpages map each frame."""

    def __init__(self) -> None:
        self._parts: list[Frames] = []
        self._rows = 0

    def add(self, runs: Runs, owners: NDArray[np.int64]) -> None:
        """
        Add mapped runs; large leaves are counted frame by frame.

        :param owners: shape ``(n,)``, for each run whether (1) or not (0) it
            should be the only owner of its frame; in a large leaf, of each of them
        """
        large = runs.order > 0
        base = select(runs, ~large)
        self.add_frames(
            Frames(
                base.pfn,
                base.length,
                owners[~large],
                base.vpage,
                np.zeros(len(base.pfn), dtype=np.bool_),
            )
        )
        if large.any():
            self.add_frames(_expand(select(runs, large), owners[large]))

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
        count = len(heads)
        first = vpage + np.arange(count, dtype=np.int64) * size
        for pfn, entries, at in ((heads, 1, first), (tails, size - 1, first + 1)):
            self.add_frames(
                Frames(
                    pfn,
                    np.full(count, entries, dtype=np.int64),
                    np.ones(count, dtype=np.int64),
                    at,
                    np.zeros(count, dtype=np.bool_),
                )
            )

    def add_frames(self, frames: Frames) -> None:
        """Add frames that were counted elsewhere."""
        if not len(frames.pfn):
            return
        self._parts.append(frames)
        self._rows += len(frames.pfn)
        if self._rows > _GATHERED and len(self._parts) > 1:
            self._parts = [_merge(self._parts)]
            # What is left is distinct; gather as much again before the next time.
            self._rows = 0

    def finish(self) -> Frames:
        """Get all frames in order of pfn; the table can be added to no more."""
        merged = _merge(self._parts)
        self._parts = [merged]
        return merged


def join_frames(parts: Sequence[Frames]) -> Frames:
    """Join frames that several tables have counted; each part is in order of pfn."""
    parts = [part for part in parts if len(part.pfn)]
    return parts[0] if len(parts) == 1 else _merge(parts)


def _expand(runs: Runs, owners: NDArray[np.int64]) -> Frames:
    """Give each frame of large leaves an element of its own."""
    total = int(runs.length.sum())
    offset = np.arange(total) - np.repeat(np.cumsum(runs.length) - runs.length, runs.length)
    pfn = np.repeat(runs.pfn, runs.length) + offset.astype(np.uint64)
    # A leaf is aligned to its size, so its first frame is told by its number.
    within = (np.uint64(1) << np.repeat(runs.order, runs.length).astype(np.uint64)) - np.uint64(1)
    return Frames(
        pfn,
        np.ones(total, dtype=np.int64),
        np.repeat(owners, runs.length),
        np.repeat(runs.vpage, runs.length) + offset,
        (pfn & within) != 0,
    )


def _merge(parts: Sequence[Frames]) -> Frames:
    """Join parts, adding up what they say of the same frame."""
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return Frames(none.astype(np.uint64), none, none, none, none.astype(np.bool_))
    joined = join(parts)
    if (joined.pfn[1:] <= joined.pfn[:-1]).any():
        joined = select(joined, np.argsort(joined.pfn))
    first = np.flatnonzero(np.concatenate(([True], joined.pfn[1:] != joined.pfn[:-1])))
    if len(first) == len(joined.pfn):
        return joined
    return Frames(
        joined.pfn[first],
        np.add.reduceat(joined.entries, first),
        np.add.reduceat(joined.owners, first),
        np.minimum.reduceat(joined.vpage, first),
        np.logical_and.reduceat(joined.inner, first),
    )


def sharing(frames: Frames) -> dict[int, int]:
    """Count frames by the number of vpages that map them: {entries per frame: frames}."""
    entries, counts = np.unique(frames.entries, return_counts=True)
    return dict(zip(entries.tolist(), counts.tolist(), strict=True))
