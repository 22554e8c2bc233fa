# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames by number: how many vpages map each, and how many of these should be its only owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, numbered, select
from ..spans import Spans, intersection, subtract

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = (
    "FrameTotals",
    "Frames",
    "expand",
    "in_order",
    "join_frames",
    "merge",
    "sharing",
)


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


def join_frames(parts: Sequence[Frames]) -> Frames:
    """Join frames that several tables have counted; each part is in order of pfn."""
    parts = [part for part in parts if len(part.pfn)]
    return parts[0] if len(parts) == 1 else merge(parts)


def expand(frames: Frames, which: NDArray[np.bool_]) -> Frames:
    """Return frames with a row for each frame of some rows, in no order."""
    rows = select(frames, which)
    owner, offset = numbered(rows.span)
    apart = select(rows, owner)._replace(
        pfn=rows.pfn[owner] + offset.astype(np.uint64),
        vpage=rows.vpage[owner] + offset,
        inner=rows.inner[owner] | (offset > 0),
        span=np.ones(len(owner), dtype=np.int64),
    )
    return join([select(frames, ~which), apart])


def merge(parts: Sequence[Frames]) -> Frames:
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
    """Sort frames by pfn."""
    if (frames.pfn[1:] >= frames.pfn[:-1]).all():
        return frames
    return select(frames, np.argsort(frames.pfn, kind="stable"))


class FrameTotals:
    """Sums over frames."""

    def __init__(self) -> None:
        #: frames; of these, those on the pagemap's own device, and those in RAM
        self.backing = self.on_device = self.in_ram = 0
        self._sharing: Counter[int] = Counter()

    def add(self, frames: Frames, device: Spans, ram: Spans) -> None:
        """
        Add frames that are not among those that were added before.

        :param device: page frames of the pagemap
        :param ram: page frames of System RAM
        """
        self.backing += frames.total
        if len(frames.pfn):
            pfn = frames.pfn.astype(np.int64)
            here = Spans.of(pfn, pfn + frames.span)
            in_ram = intersection(here, ram)
            self.in_ram += in_ram.total
            self.on_device += subtract(intersection(here, device), in_ram).total
        self._sharing.update(sharing(frames))

    def add_alike(self, entries: int, frames: int) -> None:
        """Add frames of RAM not added before, each mapped by ``entries`` vpages."""
        self.backing += frames
        self.in_ram += frames
        self._sharing[entries] += frames

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
