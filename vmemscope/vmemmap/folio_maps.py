# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One walk over all of the vmemmap: how folios are mapped, and what else is read-only.

In: folios and where their vmemmap is. Out: :class:`FolioMaps`, a row for each
folio, and the read-only runs that are in none of them. Batches of leaves are
handled as arrays; what is kept does not grow with the vmemmap, only with the
number of folios (and with what is wrong).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, numbered, select
from .tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..spans import Spans
    from .tables import Leaves
    from .vmemmap import Vmemmap

__all__ = ("FolioEntries", "FolioMaps", "FolioWalk", "ReadOnly", "entries_of", "walk_folios")

#: read-only runs outside of folios that are kept at the most
_MAX_STRAY = 1 << 20


class FolioMaps(NamedTuple):
    """How the vmemmap of each folio is mapped, counted in vpages; arrays of shape ``(n,)``."""

    #: first vpage of the folio, and first after it (int64)
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    #: frame behind the first vpage (uint64), 0 where none, and its :class:`Kind` (uint8)
    head_pfn: NDArray[np.uint64]
    head_kind: NDArray[np.uint8]
    #: frame behind the last vpage that keeps its own (uint64), 0 where none: the
    #: first, but for kernels 5.14 to 5.17
    kept_pfn: NDArray[np.uint64]
    #: vpages that keep their own frames and are read-only (int64)
    head_read_only: NDArray[np.int64]
    #: the rest of the vpages, by what they are (int64)
    read_only: NDArray[np.int64]
    writable: NDArray[np.int64]
    #: of the rest, those that can really be written through, where that tells nothing apart
    #: (int64)
    open: NDArray[np.int64]
    #: all vpages that are mapped nowhere, or whose page table is missing (int64)
    hole: NDArray[np.int64]
    unreadable: NDArray[np.int64]
    #: vpages that can be executed (int64)
    executable: NDArray[np.int64]
    #: lowest and highest frame behind the read-only vpages (uint64)
    low: NDArray[np.uint64]
    high: NDArray[np.uint64]
    #: vpages of others that map the frame behind the first vpage (int64), and one of
    #: them, -1 if there is none (int64)
    foreign: NDArray[np.int64]
    foreign_at: NDArray[np.int64]

    @property
    def mapped(self) -> NDArray[np.int64]:
        """Vpages that are mapped (int64)."""
        return self.end - self.first - self.hole - self.unreadable


class ReadOnly(NamedTuple):
    """Runs of read-only vpages, in order; arrays of shape ``(n,)``."""

    #: first vpage (int64), and how many (int64)
    vpage: NDArray[np.int64]
    length: NDArray[np.int64]
    #: frame behind the first (uint64)
    pfn: NDArray[np.uint64]


class FolioWalk(NamedTuple):
    """What the walk found."""

    maps: FolioMaps
    #: read-only, but in no folio's vmemmap
    stray: ReadOnly
    #: runs of these that were not kept, since there are too many
    dropped: int
    #: vpages: mapped, read-only, and not readable for want of a page table
    mapped: int
    read_only: int
    unreadable: int


class FolioEntries(NamedTuple):
    """The entries of one folio's vmemmap, a row for each vpage; arrays of shape ``(n,)``."""

    #: (int64)
    vpage: NDArray[np.int64]
    #: frame (uint64), 0 where none
    pfn: NDArray[np.uint64]
    #: :class:`Kind` (uint8)
    kind: NDArray[np.uint8]
    #: (bool)
    writable: NDArray[np.bool_]
    executable: NDArray[np.bool_]


class _Pieces(NamedTuple):
    """Leaves, holes and what is not readable, as ranges of vpages; arrays of shape ``(n,)``."""

    vpage: NDArray[np.int64]
    pages: NDArray[np.int64]
    pfn: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    writable: NDArray[np.bool_]
    executable: NDArray[np.bool_]
    #: whether it can be written through, where that does not tell what is shared
    open: NDArray[np.bool_]


def walk_folios(
    vmemmap: Vmemmap,
    first: NDArray[np.int64],
    end: NDArray[np.int64],
    kept: NDArray[np.int64],
    shared: NDArray[np.uint64],
    limit: int,
    devices: Spans,
    step: Callable[[int], None],
) -> FolioWalk:
    """
    Walk the vmemmap from its start.

    :param first: first vpage of each folio, in order; folios must not overlap
    :param end: first vpage after each
    :param kept: how many vpages of each keep their own frames
    :param shared: the frame that its zone's folios share, 0 if that is not known or there is none
    :param limit: first vpage after what is walked
    :param devices: vpages that describe devices, which may share frames as well
    :param step: called with the pages of each batch that are mapped
    """
    found = _FolioWalk(vmemmap, first, end, kept, shared, devices)
    start = vmemmap.geometry.start
    for leaves in vmemmap.leaves(start, limit):
        found.take(_pieces(leaves, vmemmap, start, limit), step)
    return found.finish()


def entries_of(vmemmap: Vmemmap, first: int, end: int) -> FolioEntries:
    """Walk the vpages ``[first, end)`` once more, for their entries."""
    parts = []
    for leaves in vmemmap.leaves(first, end):
        pieces = _pieces(leaves, vmemmap, first, end)
        which, nth = numbered(pieces.pages)
        mapped = pieces.kind[which] == Kind.MAPPED
        parts.append(
            FolioEntries(
                pieces.vpage[which] + nth,
                np.where(mapped, pieces.pfn[which] + nth.astype(np.uint64), np.uint64(0)),
                pieces.kind[which],
                pieces.writable[which],
                pieces.executable[which],
            )
        )
    return join(parts)


def _pieces(leaves: Leaves, vmemmap: Vmemmap, start: int, end: int) -> _Pieces:
    """Turn leaves into ranges of vpages, cut to ``[start, end)``."""
    leaves = leaves.apart()
    can_write = leaves.writable
    if not vmemmap.geometry.arch.read_only:
        # All is writable. Base pages count as read-only, if any of their folio share a frame.
        leaves = leaves._replace(writable=leaves.shift > vmemmap.table.levels[-1].shift)
    page_shift = vmemmap.table.levels[-1].shift
    vpage = vmemmap.geometry.vpages_at(leaves.address)
    last = vpage + (np.int64(1) << (leaves.shift.astype(np.int64) - page_shift))
    first = np.maximum(vpage, start)
    last = np.minimum(last, end)
    mapped = leaves.kind == Kind.MAPPED
    pieces = _Pieces(
        first,
        last - first,
        leaves.pfn + np.where(mapped, first - vpage, 0).astype(np.uint64),
        leaves.kind,
        mapped & leaves.writable,
        mapped & ~leaves.no_execute,
        mapped & can_write,
    )
    return select(pieces, last > first)


class _FolioWalk:
    """Counts the mappings of folios, batch by batch."""

    def __init__(
        self,
        vmemmap: Vmemmap,
        first: NDArray[np.int64],
        end: NDArray[np.int64],
        kept: NDArray[np.int64],
        shared: NDArray[np.uint64],
        devices: Spans,
    ) -> None:
        #: first vpage of each folio whose frame it may share
        self.tails = first + kept
        #: whether optimized pages are read-only (and the head's is not)
        self.protects = vmemmap.geometry.arch.read_only
        #: if not, the frame that tells what each folio shares, and all of these
        self.shared = shared
        self.zones = np.unique(shared[shared > 0])
        #: and how many vpages of each have that, or the frame of a neighbour
        self.shares = np.zeros(len(first), dtype=np.int64)
        self.devices = devices
        count = len(first)
        head_pfn, head_kind = vmemmap.frames_of(first)
        kept_pfn, _ = vmemmap.frames_of(self.tails - 1)
        self.maps = FolioMaps._make(
            (
                *(first, end, head_pfn, head_kind, kept_pfn),
                *np.zeros((7, count), dtype=np.int64),
                np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64),
                np.zeros(count, dtype=np.uint64),
                np.zeros(count, dtype=np.int64),
                np.full(count, -1, dtype=np.int64),
            )
        )
        # Frames of heads in order, each with the first folio that has it.
        known = np.flatnonzero(head_kind == Kind.MAPPED)
        self.frames, index = np.unique(head_pfn[known], return_index=True)
        self.owner = known[index]
        self.stray: list[ReadOnly] = []
        self.strays = self.dropped = 0
        self.mapped = self.read_only = self.unreadable = 0

    def take(self, pieces: _Pieces, step: Callable[[int], None]) -> None:
        """Add a batch."""
        mapped = pieces.kind == Kind.MAPPED
        walked = int(pieces.pages[mapped].sum())
        self.mapped += walked
        self.unreadable += int(pieces.pages[pieces.kind == Kind.UNREADABLE].sum())
        read_only = mapped & ~pieces.writable
        shared = read_only
        if not self.protects:
            shared = _shares(pieces) | (read_only & np.isin(pieces.pfn, self.zones))
        self.read_only += int(pieces.pages[shared].sum())
        if len(self.maps.first):
            self._take_folios(pieces)
            self._take_users(select(pieces, mapped))
        if not self.protects:
            read_only = self._shared_tails(pieces)
        if read_only.any():
            self._take_stray(select(pieces, read_only))
        step(walked)

    def _take_folios(self, pieces: _Pieces) -> None:
        """Count what the pieces are to the folios that they lie in."""
        stop = pieces.vpage + pieces.pages
        # The folios that a piece touches: large leaves describe many, or a part of one.
        low = np.searchsorted(self.maps.end, pieces.vpage, side="right")
        high = np.searchsorted(self.maps.first, stop, side="left")
        which, nth = numbered(np.maximum(high - low, 0))
        folio = low[which] + nth
        start, stop = pieces.vpage[which], stop[which]
        first, tails, end = self.maps.first[folio], self.tails[folio], self.maps.end[folio]
        in_head = np.maximum(np.minimum(stop, tails) - np.maximum(start, first), 0)
        in_tails = np.maximum(np.minimum(stop, end) - np.maximum(start, tails), 0)
        protected = in_head * self.protects
        if not self.protects:
            shares = _shares(pieces)[which]
            shares |= (pieces.pfn[which] == self.shared[folio]) & (self.shared[folio] > 0)
            np.add.at(self.shares, folio, shares & (in_tails > 0))
        kind = pieces.kind[which]
        mapped, writable = kind == Kind.MAPPED, pieces.writable[which]
        read_only = mapped & ~writable
        for counts, pages in (
            (self.maps.head_read_only, protected * read_only),
            (self.maps.read_only, in_tails * read_only),
            (self.maps.writable, in_tails * writable),
            (self.maps.open, in_tails * pieces.open[which]),
            (self.maps.hole, (in_head + in_tails) * (kind == Kind.HOLE)),
            (self.maps.unreadable, (in_head + in_tails) * (kind == Kind.UNREADABLE)),
            (self.maps.executable, (in_head + in_tails) * pieces.executable[which]),
        ):
            np.add.at(counts, folio, pages)
        shared = read_only & (in_tails > 0)
        at = np.maximum(start, tails)[shared]
        lowest = pieces.pfn[which][shared] + (at - start[shared]).astype(np.uint64)
        large = (pieces.pages[which] > 1)[shared]
        highest = lowest + np.where(large, in_tails[shared] - 1, 0).astype(np.uint64)
        np.minimum.at(self.maps.low, folio[shared], lowest)
        np.maximum.at(self.maps.high, folio[shared], highest)

    def _unshare(self, folios: NDArray[np.int64]) -> None:
        """Count base pages of folios that share none of them as what they are."""
        maps = self.maps
        maps.writable[folios] += maps.read_only[folios]
        maps.read_only[folios] = 0
        maps.low[folios] = np.iinfo(np.uint64).max
        maps.high[folios] = 0

    def _take_users(self, pieces: _Pieces) -> None:
        """Count entries that map the frame of a folio's head and are not the folio's."""
        low = np.searchsorted(self.frames, pieces.pfn)
        high = np.searchsorted(self.frames, pieces.pfn + pieces.pages.astype(np.uint64))
        which, nth = numbered(high - low)
        frame = low[which] + nth
        folio = self.owner[frame]
        vpage = pieces.vpage[which] + (self.frames[frame] - pieces.pfn[which]).astype(np.int64)
        foreign = (vpage < self.maps.first[folio]) | (vpage >= self.maps.end[folio])
        np.add.at(self.maps.foreign, folio[foreign], 1)
        self.maps.foreign_at[folio[foreign]] = vpage[foreign]

    def _take_stray(self, pieces: _Pieces) -> None:
        """Keep read-only pages that are in no folio."""
        if len(self.maps.first):
            # Those that are partly in a folio are large leaves, and wrong by that.
            low = np.searchsorted(self.maps.end, pieces.vpage, side="right")
            inside = (low < len(self.maps.first)) & (
                self.maps.first[np.minimum(low, len(self.maps.first) - 1)] <= pieces.vpage
            )
            pieces = select(pieces, ~inside)
        if not len(pieces.vpage):
            return
        runs = _joined(ReadOnly(pieces.vpage, pieces.pages, pieces.pfn))
        self.strays += len(runs.vpage)
        if self.strays <= _MAX_STRAY:
            self.stray.append(runs)
        else:
            self.dropped += len(runs.vpage)

    def _shared_tails(self, pieces: _Pieces) -> NDArray[np.bool_]:
        """Return which rows share a frame, but for those of devices and of heads (bool)."""
        shared = _shares(pieces)
        shared &= ~self.devices.touches(pieces.vpage, pieces.vpage + 1)
        # Up to 7.0 the head's page has that frame, too: the first of them, at a multiple of two.
        again = (pieces.pfn[1:] == pieces.pfn[:-1]) & shared[:-1]
        heads = pieces.vpage % 2 == 0
        heads[1:] &= ~again
        shared &= ~heads
        return shared

    def finish(self) -> FolioWalk:
        """Return what was counted."""
        if not self.protects:
            self._unshare(np.flatnonzero(self.shares == 0))
        none = np.empty(0, dtype=np.int64)
        stray = _joined(join([ReadOnly(none, none, none.astype(np.uint64)), *self.stray]))
        return FolioWalk(
            self.maps, stray, self.dropped, self.mapped, self.read_only, self.unreadable
        )


def _shares(pieces: _Pieces) -> NDArray[np.bool_]:
    """Return which rows are base pages with the frame of the row before or after (bool)."""
    base = (pieces.kind == Kind.MAPPED) & ~pieces.writable
    same = base[1:] & base[:-1] & (pieces.pfn[1:] == pieces.pfn[:-1])
    same &= pieces.vpage[1:] == pieces.vpage[:-1] + 1
    found = np.zeros(len(base), dtype=np.bool_)
    found[1:] |= same
    found[:-1] |= same
    return found


def _joined(runs: ReadOnly) -> ReadOnly:
    """Join runs that touch."""
    if len(runs.vpage) < 2:
        return runs
    apart = runs.vpage[1:] != runs.vpage[:-1] + runs.length[:-1]
    first = np.flatnonzero(np.concatenate(([True], apart)))
    return ReadOnly(runs.vpage[first], np.add.reduceat(runs.length, first), runs.pfn[first])
