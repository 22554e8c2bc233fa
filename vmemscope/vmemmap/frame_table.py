# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All frames that a pagemap maps, kept small and given a part at a time.

:class:`FrameTable` counts, over any number of batches, how many vpages map each
frame, and how many of them should be the only owner of their frame. It keeps
regular compound pages as what they are, 4 bytes a frame, and gives
:class:`~.frames.Frames` by :func:`windows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..columns import select
from ..limits import LIMITS
from ..spans import Spans
from .frames import Frames, merge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .runs import Runs

__all__ = ("FrameTable", "SoleOwners", "sole_owners", "windows")


class _Column(NamedTuple):
    """Frames, and the bounds that they lie in."""

    #: shape ``(n,)``, n at least 1 (uint32 where they fit, else uint64)
    pfn: NDArray[Any]
    low: int
    high: int

    @classmethod
    def of(cls, pfn: NDArray[np.uint64]) -> _Column:
        low, high = int(pfn.min()), int(pfn.max())
        return cls(pfn.astype(np.uint32) if high < 1 << 32 else pfn, low, high)

    def within(self, first: int, end: int) -> NDArray[np.int64] | slice | None:
        """Find the frames in ``[first, end)``: all, some or ``None``."""
        if self.low >= first and self.high < end:
            return slice(None)
        if self.low >= end or self.high < first:
            return None
        # Either bound may not fit the type of the array.
        inside = np.ones(len(self.pfn), dtype=np.bool_)
        if self.low < first:
            inside &= self.pfn >= first
        if self.high >= end:
            inside &= self.pfn < end
        which = np.flatnonzero(inside)
        return which if len(which) else None


class _Part(NamedTuple):
    """Frames that were counted one by one, with their bounds, which every window asks for."""

    frames: Frames
    column: _Column

    @classmethod
    def of(cls, frames: Frames) -> _Part:
        return cls(frames, _Column.of(frames.pfn))


class _Compounds:
    """
    Neighbouring compound pages whose tail pages share a frame each, frames only.

    :param vpage: first vpage of the first
    :param size: vpages in each
    :param own: frames that each has for itself: 2 for the head and for the tails, or 1 if the
        tails' is not theirs
    """

    def __init__(self, vpage: int, size: int, own: int) -> None:
        self.vpage = vpage
        self.size = size
        self.own = own
        #: frames of heads and tails in turn
        self.columns: list[_Column] = []
        self.count = 0

    @property
    def end(self) -> int:
        """First vpage after the last."""
        return self.vpage + self.count // self.own * self.size

    def add(self, frames: NDArray[np.uint64]) -> None:
        """Add those that come next, shape ``(n, own)``."""
        # The kernel allocates them in turn, so they come nearly in order.
        self.columns.append(_Column.of(frames.reshape(-1)))
        self.count += frames.size

    def between(self, first: int, end: int) -> Frames | None:
        """Return the frames in ``[first, end)`` in order of pfn, ``None`` if there are none."""
        pfns, places, before = [], [], 0
        for column in self.columns:
            which = column.within(first, end)
            if which is not None:
                pfns.append(column.pfn[which])
                places.append(np.arange(before, before + len(column.pfn))[which])
            before += len(column.pfn)
        if not pfns:
            return None
        pfn, place = _ordered(np.concatenate(pfns), np.concatenate(places))
        compound, tail = np.divmod(place, self.own)
        one = np.ones(len(place), dtype=np.int64)
        return Frames(
            pfn,
            1 + tail * (self.size - 2),
            one,
            self.vpage + compound * self.size + tail,
            np.zeros(len(place), dtype=np.bool_),
            one,
        )

    def owned(self, first: int, end: int) -> Iterator[_Owned]:
        """Yield the frames in ``[first, end)``, those of heads apart from those of tails."""
        for column in self.columns:
            which = column.within(first, end)
            if which is None:
                continue
            for role, entries in ((0, 1), (1, self.size - 1))[: self.own]:
                if isinstance(which, slice):
                    pfn = column.pfn[role :: self.own]
                else:
                    pfn = column.pfn[which[which % self.own == role]]
                if len(pfn):
                    low, high = max(column.low, first), min(column.high, end - 1)
                    yield _Owned(pfn, entries, low, high)


class _Owned(NamedTuple):
    """Frames of which each has one owner, and as many entries as the others."""

    #: shape ``(n,)``, n at least 1 (uint32 or uint64)
    pfn: NDArray[Any]
    entries: int
    #: bounds of the frames, not always the narrowest
    low: int
    high: int


def _ordered(
    pfn: NDArray[Any], place: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sort frames and their places by pfn."""
    if (pfn[1:] >= pfn[:-1]).all():
        return pfn.astype(np.uint64), place
    low = int(pfn.min())
    span = int(pfn.max()) - low + 1
    if span <= LIMITS.dense * len(pfn):
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
        self._compounds: list[_Compounds] = []
        self._parts: list[_Part] = []
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
        # A leaf is aligned to its size.
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

    def add_compounds(self, frames: NDArray[np.uint64], vpage: int, size: int) -> None:
        """
        Add neighbouring compound pages that are mapped as they should be.

        :param frames: of each one's head and of its tails, shape ``(n, 2)``, n at least 1; or of
            its head alone, shape ``(n, 1)``
        :param vpage: first vpage of the first
        :param size: vpages in each
        """
        last = self._compounds[-1] if self._compounds else None
        own = frames.shape[1]
        if last is None or (last.size, last.own, last.end) != (size, own, vpage):
            last = _Compounds(vpage, size, own)
            self._compounds.append(last)
        last.add(frames)

    def add_frames(self, frames: Frames) -> None:
        """Add frames that were counted elsewhere."""
        if not len(frames.pfn):
            return
        self._parts.append(_Part.of(frames))
        self._rows += len(frames.pfn)
        if self._rows > max(LIMITS.gathered, self._merged) and len(self._parts) > 1:
            merged = merge([part.frames for part in self._parts])
            self._parts = [_Part.of(merged)]
            # What is left is distinct; gather as much again before the next time.
            self._rows, self._merged = 0, len(merged.pfn)

    def finish(self) -> Frames:
        """Return all frames in order of pfn."""
        return self.between(0, 1 << 64)

    def between(self, first: int, end: int) -> Frames:
        """
        Return the frames in ``[first, end)`` in order of pfn.

        :param first: a bound that :func:`windows` gave, as is ``end``
        """
        found: list[Frames] = []
        for one in self._compounds:
            frames = one.between(first, end)
            if frames is not None:
                found.append(frames)
        for part in self._parts:
            index = part.column.within(first, end)
            if index is not None:
                found.append(select(part.frames, index))
        return merge(found)

    def owned(self, first: int, end: int) -> list[_Owned] | None:
        """
        Return the frames in ``[first, end)``, in no order, some maybe several times.

        :return: ``None`` if any of them is of a large leaf, or has no owner or several
        """
        found = [one for compounds in self._compounds for one in compounds.owned(first, end)]
        for frames, column in self._parts:
            index = column.within(first, end)
            if index is None:
                continue
            rows = select(frames, index)
            if rows.inner.any() or (rows.span != 1).any() or (rows.owners != 1).any():
                return None
            bounds = max(column.low, first), min(column.high, end - 1)
            if (rows.entries == rows.entries[0]).all():
                found.append(_Owned(rows.pfn, int(rows.entries[0]), *bounds))
                continue
            # Without counts, numpy.unique() would import numpy.ma.
            distinct, _ = np.unique(rows.entries, return_counts=True)
            for entries in distinct.tolist():
                found.append(_Owned(rows.pfn[rows.entries == entries], entries, *bounds))
        return found

    def touches(self, first: int, end: int) -> bool:
        """Return whether any frame is in ``[first, end)``."""
        return any(column.within(first, end) is not None for column in self.columns())

    def columns(self) -> Iterator[_Column]:
        """Yield the frames of all rows, a part at a time."""
        for one in self._compounds:
            yield from one.columns
        for part in self._parts:
            yield part.column

    def blocks(self, order: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Count rows by blocks of ``1 << order`` frames, each block once or several times."""
        number, rows = [], []
        for pfn, low, high in self.columns():
            low, high = low >> order, high >> order
            if high - low < LIMITS.narrow:
                count = np.bincount((pfn >> pfn.dtype.type(order)).astype(np.int64) - low)
                several = np.flatnonzero(count)
                number.append(several.astype(np.uint64) + np.uint64(low))
                rows.append(count[several])
            else:
                several, count = np.unique(pfn >> pfn.dtype.type(order), return_counts=True)
                number.append(several.astype(np.uint64))
                rows.append(count)
        if not number:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        return np.concatenate(number), np.concatenate(rows)

    @property
    def rows(self) -> int:
        """How many rows there are, some maybe of the same frame."""
        compounds = sum(one.count for one in self._compounds)
        return compounds + sum(len(one.frames.pfn) for one in self._parts)

    @property
    def order(self) -> int:
        """log2 of the frames in the largest leaf."""
        return self._order


def windows(tables: Sequence[FrameTable]) -> Iterator[tuple[int, int]]:
    """
    Divide the frames of tables into windows of a bounded number of rows each.

    What lies far apart is apart: frames of a device and those of RAM, mostly.

    :return: first frame, and first frame after, of each window, in order
    """
    if not any(table.rows for table in tables):
        return
    order = max([LIMITS.window_order, *(table.order for table in tables)])
    if sum(table.rows for table in tables) <= LIMITS.window:
        bounds = [column[1:] for table in tables for column in table.columns()]
        apart = Spans.of(
            [low >> order for low, _ in bounds], [(high >> order) + 1 for _, high in bounds]
        )
        yield from ((low << order, high << order) for low, high in apart.pairs())
        return
    counted = [table.blocks(order) for table in tables]
    number, rows = (np.concatenate(column) for column in zip(*counted, strict=True))
    number, which = np.unique(number, return_inverse=True)
    total = np.cumsum(np.bincount(which, weights=rows, minlength=len(number)))
    gaps = np.flatnonzero(np.append(np.diff(number) != 1, True)) + 1
    at = 0
    while at < len(number):
        before = total[at - 1] if at else 0
        stop = max(int(np.searchsorted(total, before + LIMITS.window, side="right")), at + 1)
        stop = min(stop, int(gaps[np.searchsorted(gaps, at, side="right")]))
        yield int(number[at]) << order, (int(number[stop - 1]) + 1) << order
        at = stop


class SoleOwners(NamedTuple):
    """A stretch of memory in which each frame has one owner at the most."""

    #: first frame
    first: int
    #: vpages that map each frame from there on (int32), shape ``(n,)``, 0 where none does
    entries: NDArray[np.int32]
    #: for each table its frames: how many have how many entries, (entries, frames)
    counts: list[list[tuple[int, int]]]


def sole_owners(
    tables: Sequence[FrameTable], first: int, end: int, align: int
) -> SoleOwners | None:
    """
    Return the entries of the frames in ``[first, end)`` if each has one owner.

    Most have one, and this costs an element for each frame of the memory that they
    lie in. Where several share one, or they lie too far apart, they must be sorted.

    :param first: a bound that :func:`windows` gave, as is ``end``
    :param align: frames that the stretch begins at a multiple of, and is one of
    :return: ``None`` if any frame has several owners, or none; or is part of a large leaf
    """
    by_table = []
    for table in tables:
        owned = table.owned(first, end)
        if owned is None:
            return None
        by_table.append(owned)
    found = [one for owned in by_table for one in owned]
    if not found or max(one.entries for one in found) >= 1 << 31:
        return None
    rows = sum(len(one.pfn) for one in found)
    low = min(one.low for one in found) // align * align
    high = max(one.high for one in found) // align * align + align
    if high - low > max(LIMITS.dense * rows, LIMITS.sparse):
        return None
    entries = np.zeros(high - low, dtype=np.int32)
    for one in found:
        # Quicker by half than with an index of another type.
        entries[one.pfn.astype(np.intp) - low] = one.entries
    # Fewer than there were, if several have the same.
    if np.count_nonzero(entries) != rows:
        return None
    return SoleOwners(
        low, entries, [[(one.entries, len(one.pfn)) for one in owned] for owned in by_table]
    )
