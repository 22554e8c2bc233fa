# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One virtual address's way through the page tables, entry by entry.

:func:`~vmemscope.vmemmap.tables.translate` tells where an address ends up; this tells how it
gets there, for people to follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .tables import Kind

if TYPE_CHECKING:
    from ..arch import PageTable
    from .memory import PhysicalMemory

__all__ = ("Step", "Trace", "trace")


@dataclass(frozen=True)
class Step:
    """An entry on the way."""

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


@dataclass(frozen=True)
class Trace:
    """The way of one address."""

    address: int
    kind: Kind
    #: frame that the address is in, ``None`` where nothing is mapped
    pfn: int | None
    #: entries from the top down
    steps: tuple[Step, ...]


def trace(memory: PhysicalMemory, table: PageTable, address: int) -> Trace:
    """
    Follow an address.

    :param memory: where the tables are
    :param table: their format and root
    :param address: virtual, in bytes
    """
    page_shift = table.levels[-1].shift
    pfn = table.root >> page_shift
    steps: list[Step] = []
    for level in table.levels:
        index = address >> level.shift & level.entries - 1
        data, readable = memory.read_frames(np.array([pfn], dtype=np.uint64))
        last = level is table.levels[-1]
        entry = int(data.view(table.dtype)[0, index]) if readable[0] else None
        at = (pfn << page_shift) + index * np.dtype(table.dtype).itemsize
        if entry is None:
            kind, target = "unreadable", None
        elif entry & table.present != table.present:
            kind, target = "hole", None
        elif last or entry & table.leaf:
            kind, target = "leaf", (entry & table.address & ~(level.size - 1)) >> page_shift
        else:
            kind, target = "table", (entry & table.address) >> page_shift
        flags = () if entry is None else _flags(table, entry, kind, last)
        steps.append(
            Step(level.name, pfn << page_shift, index, at, entry, flags, kind, target, level.size)
        )
        if target is None or kind == "leaf":
            break
        pfn = target
    end = steps[-1]
    if end.pfn is None:
        found = Kind.UNREADABLE if end.kind == "unreadable" else Kind.HOLE
        return Trace(address, found, None, tuple(steps))
    within = (address & end.size - 1) >> page_shift
    return Trace(address, Kind.MAPPED, end.pfn + within, tuple(steps))


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
