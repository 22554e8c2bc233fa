# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A kernel's page tables: the only place where their entries are decoded.

:func:`decode` says what entries mean. :func:`walk` goes over a range of virtual
addresses, :func:`translate` finds the frames of single addresses, :func:`trace`
shows one address's way entry by entry.

In: physical memory, the format of the tables. A walk gives batches of
:class:`Leaves`, which together cover the range without gap or overlap, in order of
address. Whole tables are read at a time and decoded by numpy; the levels above the
last are expanded first (one entry there stands for a whole table below), the last
level is streamed, so that memory stays bounded however large the range is.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec import Struct

from ..columns import join, numbered, select
from ..limits import LIMITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import AddressBits, Bits, Level, PageTable
    from .memory import PhysicalMemory

__all__ = ("Entries", "Kind", "Leaves", "Step", "Trace", "decode", "trace", "translate", "walk")


class Kind(IntEnum):
    """Whether a piece of an address range is mapped."""

    MAPPED = 0
    #: no present entry at some level
    HOLE = 1
    #: the table with the entry could not be read
    UNREADABLE = 2


class Entries(NamedTuple):
    """Entries of one level, decoded; all arrays have the shape of the entries."""

    #: whether the entry maps memory or points to a table (bool)
    present: NDArray[np.bool_]
    #: whether it maps memory (bool)
    leaf: NDArray[np.bool_]
    #: physical address in bytes of the memory or of the table (uint64); void if not present
    address: NDArray[np.uint64]
    #: whether memory can be written to through it (bool)
    writable: NDArray[np.bool_]
    #: whether code can't be executed through it (bool)
    no_execute: NDArray[np.bool_]


def decode(level: Level, entry: NDArray[np.uint64]) -> Entries:
    """
    Decode entries of one level of a page table.

    A leaf maps ``level.size`` bytes, and its address is a multiple of that.

    :param entry: as they stand in the table, any shape
    """
    form = level.format
    present = _has(entry, form.present)
    address = _address(entry, form.frame, level.size)
    if form.table is None:
        leaf = present
    else:
        leaf = present & ~_has(entry, form.table)
        address = np.where(leaf, address, _address(entry, form.pointer, 1))
    return Entries(present, leaf, address, _has(entry, form.writable), _has(entry, form.no_execute))


def _has(entry: NDArray[np.uint64], bits: Bits) -> NDArray[np.bool_]:
    """Find the entries that have a property."""
    found: NDArray[np.bool_] = (entry & np.uint64(bits.mask)) == np.uint64(bits.value)
    return found


def _address(
    entry: NDArray[np.uint64], pieces: tuple[AddressBits, ...], align: int
) -> NDArray[np.uint64]:
    """Join the bits of addresses, and round down to a multiple of ``align``."""
    found: NDArray[np.uint64] | None = None
    for mask, left in pieces:
        low = align >> left if left >= 0 else align << -left
        piece = entry & np.uint64(mask & -max(low, 1))
        if left:
            piece = piece << np.uint64(left) if left > 0 else piece >> np.uint64(-left)
        found = piece if found is None else found | piece
    assert found is not None
    return found


class Leaves(NamedTuple):
    """Pieces of an address range, in order of address; all arrays have shape ``(n,)``."""

    #: virtual address that the piece starts at (uint64); a large leaf may
    #: start before the range that was asked for
    address: NDArray[np.uint64]
    #: log2 of its size in bytes (uint8); a large leaf may end after the range
    shift: NDArray[np.uint8]
    #: neighbouring pieces of equal entries that the row stands for (int64); more than 1
    #: in the last level only: all map the same frame, or nothing
    pieces: NDArray[np.int64]
    #: frame that is mapped at ``address`` (uint64); 0 where nothing is
    pfn: NDArray[np.uint64]
    #: :class:`Kind` (uint8)
    kind: NDArray[np.uint8]
    #: as :class:`Entries` has them (bool); void where nothing is mapped
    writable: NDArray[np.bool_]
    no_execute: NDArray[np.bool_]

    def apart(self, which: NDArray[np.bool_] | None = None) -> Leaves:
        """Return a row for each piece that some rows stand for, or all."""
        rows = self if which is None else select(self, which)
        if (rows.pieces == 1).all():
            return rows
        owner, nth = numbered(rows.pieces)
        found = select(rows, owner)
        return found._replace(
            address=found.address + (nth.astype(np.uint64) << found.shift),
            pieces=np.ones(len(owner), dtype=np.int64),
        )


class _Tables(NamedTuple):
    """Tables of one level; all arrays have shape ``(n,)``."""

    #: virtual address that the first entry of each stands for (uint64)
    address: NDArray[np.uint64]
    #: physical address of each in bytes (uint64)
    place: NDArray[np.uint64]


def walk(memory: PhysicalMemory, table: PageTable, start: int, end: int) -> Iterator[Leaves]:
    """
    Walk the tables over ``[start, end)``.

    :param memory: where the tables are
    :param table: their format and root
    :param start: first virtual address in bytes, page-aligned
    :param end: first virtual address after the range
    :return: batches in order of address
    """
    if start >= end:
        return
    *upper, last = table.levels
    first = np.array([start & -table.levels[0].span], dtype=np.uint64)
    tables = _Tables(first, np.array([table.root], dtype=np.uint64))
    found: list[Leaves] = []
    for level in upper:
        entry, readable = next(_read(memory, table, level, tables.place, len(tables.place)))
        leaves, tables = _pieces(table, level, tables.address, entry, readable, start, end)
        found.append(leaves)
        if not len(tables.place):
            break
    above = _in_order(join(found))
    if not len(tables.place):
        yield above
        return
    # A batch is a run of tables and what lies between them at upper levels.
    position, size = 0, LIMITS.tables
    for at, (entry, readable) in zip(
        range(0, len(tables.place), size),
        _read(memory, table, last, tables.place, size),
        strict=True,
    ):
        stop = len(above.address)
        if at + size < len(tables.place):
            stop = int(np.searchsorted(above.address, tables.address[at + size]))
        leaves, _ = _pieces(
            table, last, tables.address[at : at + size], entry, readable, start, end
        )
        if position < stop:
            leaves = _in_order(join([select(above, slice(position, stop)), leaves]))
        position = stop
        yield leaves


def _read(
    memory: PhysicalMemory, table: PageTable, level: Level, places: NDArray[np.uint64], count: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_]]]:
    """
    Read tables of one level.

    :param places: their physical addresses in bytes, shape ``(n,)``
    :param count: tables that are read at a time
    :return: entries, shape ``(count, entries)``, and whether each table could be read
    """
    page, item = memory.page_size, np.dtype(table.dtype).itemsize
    size = level.entries * item
    pages = max(size // page, 1)
    pfns = places >> np.uint64(page.bit_length() - 1)
    if pages > 1:
        pfns = (pfns[:, None] + np.arange(pages, dtype=np.uint64)).ravel()
    for batch, (data, readable) in enumerate(memory.read_batches(pfns, count * pages)):
        entry = data.view(table.dtype).reshape(-1, pages * page // item)
        if pages > 1:
            readable = np.logical_and.reduce(readable.reshape(-1, pages), axis=1)
        if size < page:
            # A table is aligned to its size.
            number = (places[batch * count : (batch + 1) * count] & np.uint64(page - 1)) // size
            entry = entry.reshape(len(number), -1, level.entries)[
                np.arange(len(number)), number.astype(np.intp)
            ]
        yield entry.astype(np.uint64, copy=False), readable


def _pieces(
    table: PageTable,
    level: Level,
    address: NDArray[np.uint64],
    entry: NDArray[np.uint64],
    readable: NDArray[np.bool_],
    start: int,
    end: int,
) -> tuple[Leaves, _Tables]:
    """
    Decode tables of one level, in order of address.

    :param address: virtual address that the first entry of each stands for, shape ``(n,)``
    :param entry: shape ``(n, entries)``
    :return: their leaves, holes, and entries that could not be read; and the tables below
    """
    entry = entry.reshape(-1)
    # Entries that are in the range: only those of the first and the last table may not be.
    skip = max(start - int(address[0]), 0) >> level.shift
    stop = len(entry) - (max(int(address[-1]) + level.span - end, 0) >> level.shift)
    if level.format.table is None:
        starts = np.empty(len(entry), dtype=np.bool_)
        np.not_equal(entry[1:], entry[:-1], out=starts[1:])
        starts[skip] = True
        tables = starts[level.entries :: level.entries]
        tables |= np.diff(address) != np.uint64(level.span)
        tables |= readable[1:] != readable[:-1]
        index = np.flatnonzero(starts[skip:stop])
        index += skip
        count = np.empty(len(index), dtype=np.int64)
        np.subtract(index[1:], index[:-1], out=count[:-1])
        count[-1] = stop - index[-1]
    else:
        index = np.arange(skip, stop)
        count = np.ones(len(index), dtype=np.int64)
    found = decode(level, entry[index])
    number = index >> level.bits
    leaf, none = found.leaf, ~found.present
    # MAPPED is 0.
    kind = none * np.uint8(Kind.HOLE)
    if not readable.all():
        unread = ~readable[number]
        kind[unread] = Kind.UNREADABLE
        leaf, none = leaf & ~unread, none | unread
    frame = found.address >> np.uint64(table.levels[-1].shift)
    into = index.astype(np.uint64) << np.uint64(level.shift)
    if int(address[-1]) - int(address[0]) == (len(address) - 1) * level.span:
        # The tables are neighbours.
        into += address[0]
    else:
        into += (address - np.arange(len(address), dtype=np.uint64) * np.uint64(level.span))[number]
    leaves = Leaves(
        address=into,
        shift=np.full(len(index), level.shift, dtype=np.uint8),
        pieces=count,
        pfn=frame if leaf.all() else np.where(leaf, frame, np.uint64(0)),
        kind=kind,
        writable=found.writable,
        no_execute=found.no_execute,
    )
    if level.format.table is None:
        return leaves, _Tables(address[:0], address[:0])
    ends = leaf | none
    below = _Tables(leaves.address[~ends], found.address[~ends])
    return select(leaves, ends), below


def _in_order(leaves: Leaves) -> Leaves:
    """Sort pieces of several levels by address."""
    return select(leaves, np.argsort(leaves.address, kind="stable"))


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
        np.array([table.root], dtype=np.uint64),
        np.zeros(1, dtype=np.uint8),
        np.full(1, Kind.MAPPED, dtype=np.uint8),
    )
    runs = addresses[first]
    for level in upper:
        if len(found.place) != len(runs) and low >> level.shift != high >> level.shift:
            found = found.expand(np.zeros(len(runs), dtype=np.int64))
        found.descend(memory, table, level, runs[: len(found.place)])
    if len(found.place) != len(runs):
        found = found.expand(np.zeros(len(runs), dtype=np.int64))
    found = found.expand(np.cumsum(first) - 1)
    found.descend(memory, table, last, addresses)
    # From the first byte of a leaf to the one at the address.
    size = np.uint64(1) << found.shift.astype(np.uint64)
    place = found.place + (addresses & (size - np.uint64(1)))
    mapped = found.kind == Kind.MAPPED
    return np.where(mapped, place >> np.uint64(last.shift), np.uint64(0)), found.kind


class _Found(Struct):
    """Where the translation of addresses has come to; all arrays have shape ``(n,)``."""

    #: physical address in bytes of the table to go on in, or of the leaf (uint64)
    place: NDArray[np.uint64]
    #: log2 of the bytes in the leaf (uint8), 0 where it has not been reached
    shift: NDArray[np.uint8]
    kind: NDArray[np.uint8]

    def expand(self, which: NDArray[np.int64]) -> _Found:
        """Repeat what was found as often as is asked for."""
        return _Found(self.place[which], self.shift[which], self.kind[which])

    def descend(
        self,
        memory: PhysicalMemory,
        table: PageTable,
        level: Level,
        addresses: NDArray[np.uint64],
    ) -> None:
        """Follow the entries of one level for all that have come to it."""
        walking = np.flatnonzero((self.shift == 0) & (self.kind == Kind.MAPPED))
        if not len(walking):
            return
        tables, which = _distinct(self.place[walking])
        entry, readable = next(_read(memory, table, level, tables, len(tables)))
        index = (addresses[walking] >> np.uint64(level.shift)) & np.uint64(level.entries - 1)
        found = decode(level, entry[which, index])
        kind = np.where(found.present, np.uint8(Kind.MAPPED), np.uint8(Kind.HOLE))
        kind[~readable[which]] = Kind.UNREADABLE
        self.kind[walking] = kind
        self.shift[walking] = np.where(found.leaf, np.uint8(level.shift), np.uint8(0))
        self.place[walking] = found.address


def _distinct(places: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return distinct addresses in order, and the place of each address among them."""
    # Neighbouring addresses are in the same table: only the first of each run is sorted.
    first = np.concatenate(([True], places[1:] != places[:-1]))
    distinct, which = np.unique(places[first], return_inverse=True)
    return distinct, which[np.cumsum(first) - 1]


class Step(Struct, frozen=True):
    """An entry on the path from the root to an address."""

    #: as the kernel calls the level: pgd, p4d, pud, pmd, pte
    level: str
    #: physical address of the table, in bytes
    table: int
    #: number of the entry in it
    index: int
    #: physical address of the entry, in bytes
    entry_address: int
    #: the entry as it stands in the table, ``None`` where it could not be read
    entry: int | None
    #: flags that are set in it
    flags: tuple[str, ...]
    #: what it is: table, leaf, hole or unreadable
    kind: str
    #: frame that it points to: that of the next table, or the first of the leaf
    pfn: int | None
    #: bytes that the entry stands for
    size: int


class Trace(Struct, frozen=True):
    """The path from the root to one address."""

    address: int
    kind: Kind
    #: frame that the address is in, ``None`` where nothing is mapped
    pfn: int | None
    #: entries from the top down
    steps: tuple[Step, ...]


def trace(memory: PhysicalMemory, table: PageTable, address: int) -> Trace:
    """
    Follow one address, entry by entry, for people to read.

    :param memory: where the tables are
    :param table: their format and root
    :param address: virtual, in bytes
    """
    page_shift, item = table.levels[-1].shift, np.dtype(table.dtype).itemsize
    place = table.root
    steps: list[Step] = []
    for level in table.levels:
        index = address >> level.shift & level.entries - 1
        tables, readable = next(_read(memory, table, level, np.array([place], dtype=np.uint64), 1))
        entry = tables[:, index]
        (present,), (leaf,), (target,), _, _ = (column.tolist() for column in decode(level, entry))
        kind = "leaf" if leaf else "table" if present else "hole"
        found: int | None = int(entry[0])
        if not readable[0]:
            kind, found = "unreadable", None
        flags = () if found is None else _flags(table, found, kind, level.format.table is None)
        ends = kind in ("hole", "unreadable")
        pfn = None if ends else target >> page_shift
        at = place + index * item
        steps.append(Step(level.name, place, index, at, found, flags, kind, pfn, level.size))
        if ends:
            return Trace(address, Kind[kind.upper()], None, tuple(steps))
        if leaf:
            break
        place = target
    within = (address & level.size - 1) + target >> page_shift
    return Trace(address, Kind.MAPPED, within, tuple(steps))


def _flags(table: PageTable, entry: int, kind: str, last: bool) -> tuple[str, ...]:
    """Name the flags of an entry; what is not present has none."""
    if kind == "hole":
        return ()
    return tuple(
        flag.name
        for flag in table.flags
        if entry & flag.mask
        and (flag.table if kind == "table" else flag.base if last else flag.large)
    )
