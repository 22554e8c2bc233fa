# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is mapped along a device's part of the vmemmap, summed up by place.

The part is divided into a bounded number of cells, whatever its size, for a picture of it.
Runs are counted as they are walked; a batch costs about as much as there are cells, and
regular compound pages no more however many there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import Level
    from .layout import Geometry, Piece
    from .runs import Runs

__all__ = ("HOLE", "LEAVES", "OWN", "SHARED", "UNREADABLE", "Cells", "Stretch")

#: rows of :attr:`Cells.pages`: base pages whose frame nothing else maps in the vmemmap of the
#: device, and those whose frame something does; what is not mapped; what could not be read;
#: and from there on large leaves by size, see :attr:`Cells.leaf_sizes`
OWN, SHARED, HOLE, UNREADABLE, LEAVES = range(5)

#: cells at the most; and at the least, unless there are fewer vpages, where a cell has a compound
#: page rather than part of one
_MAX_CELLS, _FEW_CELLS = 192, 32
#: runs that are quicker counted one by one
_FEW_RUNS = 8


class Stretch(NamedTuple):
    """A run of vpages, and where it begins in the vmemmap of the device."""

    start: int
    end: int
    #: vpages of the device before it
    at: int


class Cells:
    """
    Vpages of a device by cell and by what is mapped there.

    Cells have the same size, all but the last. They go on over the gaps between ranges: a
    position counts the vpages of the device alone, in order of address.

    :param pieces: all that describes the device
    :param compound: vpages in a compound page, of which cells have whole ones if they can
    :param levels: levels of the page table
    """

    def __init__(
        self, pieces: Sequence[Piece], compound: int, levels: Sequence[Level], geometry: Geometry
    ) -> None:
        shift = geometry.page_size.bit_length() - 1
        large = sorted(level.shift for level in levels if level.shift > shift)
        #: bytes of a large leaf, in order, of each row from :data:`LEAVES` on
        self.leaf_sizes = tuple(1 << one for one in large)
        self._orders = np.array([one - shift for one in large], dtype=np.uint8)
        #: where the device's pieces are, in order of address
        self.places: list[Stretch] = []
        self.total = 0
        for piece in sorted(pieces, key=lambda one: one.start):
            self.places.append(Stretch(piece.start, piece.end, self.total))
            self.total += piece.end - piece.start
        self._at = {one[:2]: one.at for one in self.places}
        size = max(-(-self.total // _MAX_CELLS), 1)
        if 0 < compound <= max(2 * size, self.total // _FEW_CELLS):
            size = -(-size // compound) * compound
        #: vpages in each but the last
        self._size = size
        #: positions that cells begin at, and the end (int64), shape ``(cells + 1,)``
        self.bounds = np.minimum(np.arange(0, self.total + size, size), self.total)
        #: vpages (int64), shape ``(4 + leaf sizes, cells)``
        self.pages = np.zeros((LEAVES + len(large), len(self.bounds) - 1), dtype=np.int64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cells):
            return NotImplemented
        return (
            self.places == other.places
            and self.leaf_sizes == other.leaf_sizes
            and np.array_equal(self.pages, other.pages)
        )

    __hash__ = None  # type: ignore[assignment]

    def add(
        self,
        runs: Runs,
        piece: Piece,
        zone: int | None = None,
        several: NDArray[np.uint64] | None = None,
    ) -> None:
        """
        Count runs of a piece.

        :param runs: neighbours, in order
        :param zone: the frame that tail pages of all devices share
        :param several: frames that several vpages map, in order; without them, only vpages
            beside each other count as sharing one
        """
        if not len(runs.vpage):
            return
        start = runs.vpage + (self._at[piece.start, piece.end] - piece.start)
        row = self._rows(runs, zone, several)
        if len(row) <= _FEW_RUNS:
            runs_of_rows = zip(row.tolist(), start.tolist(), runs.length.tolist(), strict=True)
            for one, first, length in runs_of_rows:
                self._add(one, first, first + length)
            return
        bounds = np.clip(self.bounds, start[0], start[-1] + runs.length[-1])
        # The run that each bound is in, and how much of it comes before the bound.
        inside = np.searchsorted(start, bounds, side="right") - 1
        part = np.minimum(bounds - start[inside], runs.length[inside])
        for one in np.flatnonzero(np.bincount(row)).tolist():
            here = row == one
            length = runs.length * here
            before = (np.cumsum(length) - length)[inside]
            self.pages[one] += np.diff(before + part * here[inside])

    def _add(self, row: int, start: int, end: int) -> None:
        """Count vpages at positions ``[start, end)``, at least one, that are all the same."""
        first, last = start // self._size, (end - 1) // self._size
        pages = self.pages[row]
        if first == last:
            pages[first] += end - start
            return
        pages[first] += (first + 1) * self._size - start
        pages[first + 1 : last] += self._size
        pages[last] += end - last * self._size

    def _rows(
        self, runs: Runs, zone: int | None, several: NDArray[np.uint64] | None
    ) -> NDArray[np.int64]:
        """Return the row of :attr:`pages` that counts each run; parameters as :meth:`add`."""
        mapped = runs.kind == Kind.MAPPED
        large = runs.order > 0
        base = mapped & ~large
        shared = runs.length > 1
        next_to = base[1:] & base[:-1] & (runs.pfn[1:] == runs.pfn[:-1])
        shared[1:] |= next_to
        shared[:-1] |= next_to
        if zone is not None:
            shared |= runs.pfn == np.uint64(zone)
        if several is not None and len(several):
            place = np.minimum(np.searchsorted(several, runs.pfn), len(several) - 1)
            shared |= several[place] == runs.pfn
        row = np.where(shared, SHARED, OWN)
        if not base.all():
            row[large] = LEAVES + np.searchsorted(self._orders, runs.order[large])
            row[runs.kind == Kind.HOLE] = HOLE
            row[runs.kind == Kind.UNREADABLE] = UNREADABLE
        return row

    def add_compounds(self, vpage: int, count: int, size: int, piece: Piece, shared: bool) -> None:
        """
        Count neighbouring compound pages that have one frame for the head, one for all tails.

        :param vpage: first vpage of the first
        :param size: vpages in each
        :param shared: whether others than a compound page's own tails map the tails' frame
        """
        start = vpage - piece.start + self._at[piece.start, piece.end]
        # The cells that they are in, and how many vpages of them come before each bound.
        cells = slice(start // self._size, -(-(start + count * size) // self._size))
        position = self.bounds[cells.start : cells.stop + 1] - start
        position[0], position[-1] = 0, count * size
        heads = (position + (size - 1)) // size
        tails = SHARED if shared or size > 2 else OWN
        self.pages[OWN, cells] += heads[1:] - heads[:-1]
        position -= heads
        self.pages[tails, cells] += position[1:] - position[:-1]

    def clear(self) -> None:
        """Forget what was counted."""
        self.pages[:] = 0

    def unread(self) -> Cells:
        """Return the same cells with nothing read."""
        found: Cells = object.__new__(Cells)
        found.__dict__.update(self.__dict__)
        found.pages = np.zeros_like(self.pages)
        found.pages[UNREADABLE] = np.diff(self.bounds)
        return found

    def position(self, vpage: int) -> int | None:
        """Return the position of a vpage, ``None`` if it is no part of the device."""
        index = bisect_right(self.places, vpage, key=lambda one: one.start) - 1
        if index < 0 or vpage >= self.places[index].end:
            return None
        return vpage - self.places[index].start + self.places[index].at

    def vpages(self, position: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the vpages at positions ``[position, end)``, one run for each place."""
        first = max(bisect_right(self.places, position, key=lambda one: one.at) - 1, 0)
        for start, stop, at in self.places[first:]:
            if at >= end:
                return
            yield start + max(position - at, 0), min(start + end - at, stop)
