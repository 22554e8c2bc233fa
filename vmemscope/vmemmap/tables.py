# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Walk a kernel's page tables over a range of virtual addresses.

In: physical memory, the format of the tables, a range. Out: batches of
:class:`Leaves`, arrays with an element per leaf entry, hole or unreadable
table, in order of address, which together cover the range without gap or
overlap. Whole tables are read at a time and decoded by numpy; the levels above
the last are expanded first (one entry there stands for a whole table below),
the last level is streamed, so that memory stays bounded however large the
range is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, select

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import Level, PageTable
    from .memory import PhysicalMemory

__all__ = ("Batch", "Kind", "Leaves", "translate", "walk", "walk_batches")

#: tables of the last level that one batch holds: 1 MiB of tables on x86-64
_BATCH = 256

_ALL_BITS = (1 << 64) - 1


class Kind(IntEnum):
    """What a piece of the address range turned out to be."""

    MAPPED = 0
    #: no present entry at some level
    HOLE = 1
    #: the table that would tell could not be read
    UNREADABLE = 2


class Leaves(NamedTuple):
    """Pieces of an address range, in order of address; all arrays have shape ``(n,)``."""

    #: virtual address that the piece starts at (uint64); a large leaf may
    #: start before the range that was asked for
    address: NDArray[np.uint64]
    #: log2 of its size in bytes (uint8); a large leaf may end after the range
    shift: NDArray[np.uint8]
    #: frame that is mapped at ``address`` (uint64); 0 where nothing is
    pfn: NDArray[np.uint64]
    #: the entry as it stands in the table (uint64)
    entry: NDArray[np.uint64]
    #: :class:`Kind` (uint8)
    kind: NDArray[np.uint8]


class _Tables(NamedTuple):
    """Tables of one level that are still to be read."""

    #: virtual address that the first entry of each stands for
    address: NDArray[np.uint64]
    pfn: NDArray[np.uint64]


class Batch:
    """
    Some tables of the last level, one after the other, and what lies between
    them at upper levels.
    """

    def __init__(self, table: PageTable, found: _Read, between: Leaves, start: int, end: int):
        self._table = table
        self._found = found
        self._between = between
        self._start = start
        self._end = end

    def entries(self) -> tuple[int, NDArray[np.uint64]] | None:
        """
        Get the entries as they stand in the tables, if they cover the batch without a break.

        :return: virtual address of the first, and entries (uint64), shape
            ``(n,)``; ``None`` if a table between is missing or can't be read
        """
        address, level = self._found.address, self._table.levels[-1]
        if len(self._between.address) or not len(address) or not self._found.readable.all():
            return None
        span = _table_span(level)
        if len(address) > 1 and not (np.diff(address) == np.uint64(span)).all():
            return None
        entry = self._found.entry.reshape(-1)[self._inside()]
        return max(int(address[0]), self._start), entry

    def _inside(self) -> slice:
        """Tell which entries of the tables, one after the other, are in the range."""
        address, level = self._found.address, self._table.levels[-1]
        skip = max(self._start - int(address[0]), 0) >> level.shift
        over = max(int(address[-1]) + _table_span(level) - self._end, 0) >> level.shift
        return slice(skip, self._found.entry.size - over)

    def leaves(self) -> Leaves:
        """Get the leaves, holes and unreadable tables of the batch in order of address."""
        leaves, _ = _decode(
            self._table, self._table.levels[-1], self._found, self._start, self._end
        )
        return _sorted([self._between, leaves])

    def runs(self) -> tuple[Leaves, NDArray[np.int64]]:
        """
        Get :meth:`leaves`, with neighbouring base pages of equal entries as one row.

        Only the first of each is decoded, so a compound page costs two rows.

        :return: leaves; and how many pieces each row stands for, shape ``(n,)``
        """
        tables, last = self._found, self._table.levels[-1]
        if not len(tables.address) or not tables.readable.all():
            leaves = self.leaves()
            return leaves, np.ones(len(leaves.address), dtype=np.int64)
        span, shift = np.uint64(_table_span(last)), np.uint64(last.shift)
        entry = tables.entry.reshape(-1)
        starts = np.concatenate(([True], entry[1:] != entry[:-1]))
        apart = np.diff(tables.address) != span
        starts[last.entries :: last.entries] |= apart
        inside = self._inside()
        starts[inside.start] = True
        first = np.flatnonzero(starts[inside]) + inside.start
        count = np.diff(first, append=inside.stop)
        entry = entry[first]
        present = (entry & np.uint64(self._table.present)) == np.uint64(self._table.present)
        number, within = first // last.entries, (first % last.entries).astype(np.uint64)
        rows = Leaves(
            address=tables.address[number] + (within << shift),
            shift=np.full(len(first), last.shift, dtype=np.uint8),
            pfn=np.where(present, (entry & np.uint64(self._table.address)) >> shift, np.uint64(0)),
            entry=entry,
            kind=np.where(present, np.uint8(Kind.MAPPED), np.uint8(Kind.HOLE)),
        )
        if not len(self._between.address):
            return rows, count
        joined = join([self._between, rows])
        count = np.concatenate((np.ones(len(self._between.address), dtype=np.int64), count))
        order = np.argsort(joined.address, kind="stable")
        return select(joined, order), count[order]

    def part(self, start: int, end: int) -> Leaves:
        """Get those leaves that base pages ``[start, end)`` have, of a batch with entries()."""
        span = np.uint64(_table_span(self._table.levels[-1]))
        address = self._found.address
        tables = (address < np.uint64(end)) & (address + (span - np.uint64(1)) >= np.uint64(start))
        leaves, _ = _decode(
            self._table, self._table.levels[-1], select(self._found, tables), start, end
        )
        return leaves


class _Read(NamedTuple):
    """Tables of one level as read."""

    address: NDArray[np.uint64]
    #: shape ``(n, entries in a table)``
    entry: NDArray[np.uint64]
    readable: NDArray[np.bool_]


def walk(memory: PhysicalMemory, table: PageTable, start: int, end: int) -> Iterator[Leaves]:
    """
    Walk the tables over ``[start, end)``.

    :param memory: where the tables are
    :param table: their format and root
    :param start: first virtual address in bytes, page-aligned
    :param end: first virtual address after the range
    :return: batches in order of address
    """
    for batch in walk_batches(memory, table, start, end):
        yield batch.leaves()


def walk_batches(memory: PhysicalMemory, table: PageTable, start: int, end: int) -> Iterator[Batch]:
    """Walk as :func:`walk` does, but leave it to the caller to decode what was read."""
    if start >= end:
        return
    top = table.levels[0]
    first = np.array([start & ~(_table_span(top) - 1)], dtype=np.uint64)
    page_shift = table.levels[-1].shift
    tables = _Tables(first, np.array([table.root >> page_shift], dtype=np.uint64))
    found: list[Leaves] = []
    for level in table.levels[:-1]:
        for read in _read(memory, table, level, tables, max(len(tables.pfn), 1)):
            leaves, tables = _decode(table, level, read, start, end)
            found.append(leaves)
    upper = _sorted(found)
    last = table.levels[-1]
    if not len(tables.pfn):
        nothing = _Read(tables.address, np.empty((0, last.entries), np.uint64), np.empty(0, bool))
        yield Batch(table, nothing, upper, start, end)
    # A batch is a run of tables and what lies between them at upper levels.
    position = 0
    for batch, read in enumerate(_read(memory, table, last, tables, _BATCH), start=1):
        stop = len(upper.address)
        if batch * _BATCH < len(tables.pfn):
            stop = int(np.searchsorted(upper.address, tables.address[batch * _BATCH]))
        between = select(upper, slice(position, stop))
        position = stop
        yield Batch(table, read, between, start, end)


def _table_span(level: Level) -> int:
    return 1 << (level.shift + level.bits)


def _read(
    memory: PhysicalMemory, table: PageTable, level: Level, tables: _Tables, count: int
) -> Iterator[_Read]:
    """Read tables of one level, so many at a time."""
    batches = memory.read_batches(tables.pfn, count)
    for batch, (data, readable) in enumerate(batches):
        entry = data.view(table.dtype)[:, : level.entries].astype(np.uint64, copy=False)
        yield _Read(tables.address[batch * count : (batch + 1) * count], entry, readable)


def _decode(
    table: PageTable, level: Level, read: _Read, start: int, end: int
) -> tuple[Leaves, _Tables]:
    """Decode tables of one level; return their leaves and holes, and the tables below."""
    entry, readable = read.entry, read.readable
    index = np.arange(level.entries, dtype=np.uint64) << np.uint64(level.shift)
    address = read.address[:, None] + index[None, :]
    # Compared with the last byte: the end of the address space does not fit.
    last = address + np.uint64(level.size - 1)
    inside = (last >= np.uint64(start)) & (address <= np.uint64(end - 1))

    present = (entry & np.uint64(table.present)) == np.uint64(table.present)
    is_last = level is table.levels[-1]
    leaf = present if is_last else present & ((entry & np.uint64(table.leaf)) != 0)
    ends_here = inside & readable[:, None] & (leaf | ~present)
    below = inside & readable[:, None] & present & ~leaf
    unread = inside & ~readable[:, None]

    pieces = ends_here | unread
    piece_leaf = leaf[pieces] & ~unread[pieces]
    # A leaf is aligned to its size: this drops the PAT bit of large leaves.
    frame = np.uint64(table.address & ~(level.size - 1))
    page_shift = np.uint64(table.levels[-1].shift)
    pieces_entry = entry[pieces]
    leaves = Leaves(
        address=address[pieces],
        shift=np.full(len(pieces_entry), level.shift, dtype=np.uint8),
        pfn=np.where(piece_leaf, (pieces_entry & frame) >> page_shift, np.uint64(0)),
        entry=pieces_entry,
        kind=np.select(
            [unread[pieces], piece_leaf],
            [np.uint8(Kind.UNREADABLE), np.uint8(Kind.MAPPED)],
            np.uint8(Kind.HOLE),
        ).astype(np.uint8, copy=False),
    )
    if is_last:
        none = np.empty(0, dtype=np.uint64)
        return leaves, _Tables(none, none)
    return leaves, _Tables(address[below], (entry[below] & np.uint64(table.address)) >> page_shift)


def _sorted(parts: list[Leaves]) -> Leaves:
    """Join pieces of several levels in order of address."""
    joined = join(parts)
    return select(joined, np.argsort(joined.address, kind="stable"))


def translate(
    memory: PhysicalMemory, table: PageTable, addresses: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """
    Translate virtual addresses, each table on the way read once.

    :param addresses: virtual addresses in bytes, shape ``(n,)``
    :return: frames (uint64, 0 where none) and :class:`Kind` (uint8), shape ``(n,)``
    """
    if not len(addresses):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint8)
    *upper, last = table.levels
    # Neighbours are in the same table of the last level: above it, the first of each
    # run stands for the rest; and of levels that all have one entry of, that entry.
    run = addresses >> np.uint64(upper[-1].shift)
    first = np.concatenate(([True], run[1:] != run[:-1]))
    low, high = int(addresses.min()), int(addresses.max())
    found = _Found(
        np.array([table.root >> last.shift], dtype=np.uint64),
        np.zeros(1, dtype=np.uint8),
        np.full(1, Kind.MAPPED, dtype=np.uint8),
    )
    runs = addresses[first]
    for level in upper:
        if len(found.pfn) != len(runs) and low >> level.shift != high >> level.shift:
            found = found.expand(np.zeros(len(runs), dtype=np.int64))
        found.descend(memory, table, level, runs[: len(found.pfn)])
    if len(found.pfn) != len(runs):
        found = found.expand(np.zeros(len(runs), dtype=np.int64))
    found = found.expand(np.cumsum(first) - 1)
    found.descend(memory, table, last, addresses)
    # From the first frame of a leaf to the one at the address.
    size = np.uint64(1) << found.shift.astype(np.uint64)
    within = (addresses & (size - np.uint64(1))) >> np.uint64(last.shift)
    mapped = found.kind == Kind.MAPPED
    return np.where(mapped, found.pfn + within, np.uint64(0)), found.kind


@dataclass
class _Found:
    """Where the translation of addresses has come to; all arrays have shape ``(n,)``."""

    #: the table to go on in, or the first frame of a leaf (uint64)
    pfn: NDArray[np.uint64]
    #: log2 of the bytes in the leaf (uint8), 0 where it has not been reached
    shift: NDArray[np.uint8]
    kind: NDArray[np.uint8]

    def expand(self, which: NDArray[np.int64]) -> _Found:
        """Repeat what was found as often as is asked for."""
        return _Found(self.pfn[which], self.shift[which], self.kind[which])

    def descend(
        self,
        memory: PhysicalMemory,
        table: PageTable,
        level: Level,
        addresses: NDArray[np.uint64],
    ) -> None:
        """Look up the entries of one level for all that have come to it."""
        walking = np.flatnonzero((self.shift == 0) & (self.kind == Kind.MAPPED))
        if not len(walking):
            return
        tables, which = _distinct(self.pfn[walking])
        data, readable = memory.read_frames(tables)
        index = (addresses[walking] >> np.uint64(level.shift)) & np.uint64(level.entries - 1)
        entry = data.view(table.dtype)[which, index].astype(np.uint64, copy=False)
        present = (entry & np.uint64(table.present)) == np.uint64(table.present)
        kind = np.where(present, np.uint8(Kind.MAPPED), np.uint8(Kind.HOLE))
        kind[~readable[which]] = Kind.UNREADABLE
        leaf = present & ((entry & np.uint64(table.leaf)) != 0)
        if level is table.levels[-1]:
            leaf = present
        # A leaf is aligned to its size: this drops the PAT bit of large leaves.
        frame = np.where(leaf, np.uint64(~(level.size - 1) & _ALL_BITS), np.uint64(_ALL_BITS))
        frame &= np.uint64(table.address)
        self.kind[walking] = kind
        self.shift[walking] = np.where(leaf, np.uint8(level.shift), np.uint8(0))
        self.pfn[walking] = (entry & frame) >> np.uint64(table.levels[-1].shift)


def _distinct(pfn: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Get distinct frames in order, and the place of each frame among them."""
    # Neighbouring addresses are in the same table: only the first of each run is sorted.
    first = np.concatenate(([True], pfn[1:] != pfn[:-1]))
    distinct, which = np.unique(pfn[first], return_inverse=True)
    return distinct, which[np.cumsum(first) - 1]
