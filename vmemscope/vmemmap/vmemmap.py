# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The vmemmap of a target: its geometry, its page tables, the memory behind them.

Everything above asks here for leaves, for pages of the vmemmap and for
``struct page`` fields, and never reads memory itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct

from ..limits import LIMITS
from .tables import Kind, translate, walk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import PageTable
    from ..kernel.mem_section import Sections
    from ..kernel.page import PageLayout
    from .layout import Geometry
    from .memory import PhysicalMemory
    from .tables import Leaves

__all__ = ("Pages", "Vmemmap", "member_of")


class Pages(NamedTuple):
    """Pages of the vmemmap as read; all arrays have the length of what was asked for."""

    #: shape ``(n, page size)`` (uint8), zeros where unreadable
    data: NDArray[np.uint8]
    #: frame behind each (uint64), 0 where nothing is mapped
    pfn: NDArray[np.uint64]
    #: whether each could be read (bool)
    readable: NDArray[np.bool_]
    #: whether it could not because nothing is mapped there (bool)
    hole: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        data: NDArray[np.uint8],
        readable: NDArray[np.bool_],
        pfn: NDArray[np.uint64],
        kind: NDArray[np.uint8],
    ) -> Pages:
        """Return frames as read, with what the page tables say of them."""
        return cls(data, pfn, readable & (kind == Kind.MAPPED), kind == Kind.HOLE)


def member_of(data: NDArray[np.uint8], size: int, offset: int, dtype: str) -> NDArray[Any]:
    """
    Return a member of all ``struct page``s of some pages, in the target's byte order.

    :param data: pages that consist of whole ``struct page``s
    :param size: of a ``struct page``, in bytes
    :param offset: of the member, in bytes
    :param dtype: of the member, which is aligned to its size
    """
    items = data.reshape(-1).view(dtype)
    return items.reshape(-1, size // items.itemsize)[:, offset // items.itemsize]


class Vmemmap(Struct, frozen=True):
    """The vmemmap of a target."""

    geometry: Geometry
    table: PageTable
    sections: Sections
    page: PageLayout
    #: System RAM
    ram: PhysicalMemory
    #: System RAM and the memory of devices
    memory: PhysicalMemory
    #: where page tables are read: that memory, or all of a dump
    page_tables: PhysicalMemory

    def leaves(self, start: int, end: int) -> Iterator[Leaves]:
        """Walk the page tables over vpages ``[start, end)``, in batches."""
        address = self.geometry.address(start)
        # Not the address of the last one, which can be 0 at the end of the address space.
        stop = address + (end - start) * self.geometry.page_size
        return walk(self.page_tables, self.table, address, stop)

    def frames_of(self, vpages: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """
        Find the frames behind vpages.

        :param vpages: shape ``(n,)``
        :return: pfn (uint64) and :class:`~vmemscope.vmemmap.tables.Kind` (uint8), shape ``(n,)``
        """
        return translate(self.page_tables, self.table, self.geometry.addresses(vpages))

    def read(self, vpages: NDArray[np.int64]) -> Pages:
        """Read vpages, shape ``(n,)``; each frame behind them is read once."""
        return self._read(*self.frames_of(vpages))

    def _read(self, pfn: NDArray[np.uint64], kind: NDArray[np.uint8]) -> Pages:
        if (pfn[1:] > pfn[:-1]).all():
            data, readable = self.memory.read_frames(pfn)
        else:
            frames, which = np.unique(pfn, return_inverse=True)
            data, readable = self.memory.read_frames(frames)
            data, readable = data[which], readable[which]
        return Pages.of(data, readable, pfn, kind)

    def pages_of(
        self, first: int, used: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], Pages]]:
        """
        Read the vpages that hold the ``struct page``s of frames, some at a time.

        :param first: the frame that the first ``struct page`` of a vpage belongs to
        :param used: whether any frame of that vpage, and of each that follows, is
            asked for, shape ``(n,)``
        :return: which of them (int64), shape ``(k,)``, and what was read of these
        """
        chosen = np.flatnonzero(used)
        start = self.geometry.vpage(first)
        where, kind = self.frames_of(chosen + start)
        for some, read in enumerate(self.memory.read_batches(where, LIMITS.read)):
            part = slice(some * LIMITS.read, (some + 1) * LIMITS.read)
            yield chosen[part], Pages.of(*read, where[part], kind[part])

    def page_members(
        self, pfns: NDArray[np.uint64], *members: tuple[int, str]
    ) -> tuple[list[NDArray[Any]], NDArray[np.bool_]]:
        """
        Read members of the ``struct page``s of frames.

        :param pfns: page frame numbers in order, shape ``(n,)``
        :param members: of each the offset in bytes and the type as numpy has it,
            in the target's byte order; aligned to its size
        :return: members, each shape ``(n,)``, zero where unreadable; and whether
            all could be read (bool), shape ``(n,)``
        """
        found: list[NDArray[Any]] = [np.zeros(len(pfns), dtype=kind) for _, kind in members]
        readable = np.ones(len(pfns), dtype=np.bool_)
        start = pfns * np.uint64(self.geometry.struct_page_size)
        together = list(zip(members, found, strict=True))
        if self.geometry.page_size % self.geometry.struct_page_size:
            # A struct page may lie across two vpages, a member of it does not.
            for one in together:
                self._read_members(start + np.uint64(one[0][0]), one[0][0], [one], readable)
        else:
            self._read_members(start, 0, together, readable)
        return found, readable

    def _read_members(
        self,
        start: NDArray[np.uint64],
        origin: int,
        members: list[tuple[tuple[int, str], NDArray[Any]]],
        readable: NDArray[np.bool_],
    ) -> None:
        """
        Read members that lie in one vpage for each frame.

        :param start: where, in bytes from the start of the vmemmap, in order
        :param origin: offset of that place in a ``struct page``
        """
        shift = self.geometry.page_size.bit_length() - 1
        vpage = start >> np.uint64(shift)
        new = np.flatnonzero(np.concatenate((vpage[:1] == vpage[:1], vpage[1:] != vpage[:-1])))
        ends = np.append(new[1:], len(start))
        for batch in range(0, len(new), LIMITS.translated):
            vpages = vpage[new[batch : batch + LIMITS.translated]].astype(np.int64)
            where, kind = self.frames_of(vpages)
            for some in range(0, len(vpages), LIMITS.read):
                chosen = slice(some, some + LIMITS.read)
                here = vpages[chosen]
                pages = self._read(where[chosen], kind[chosen])
                part = slice(int(new[batch + some]), int(ends[batch + some + len(here) - 1]))
                into = (start[part] - np.uint64(int(here[0]) << shift)).astype(np.int64)
                row = into >> shift
                if int(here[-1] - here[0]) >= len(here):
                    gaps, row = row, np.searchsorted(here - here[0], row)
                    into -= (gaps - row) << shift
                size = self.geometry.struct_page_size
                place = None if self.geometry.page_size % size else into // size
                for (offset, dtype), values in members:
                    if place is None:
                        items = pages.data.reshape(-1).view(dtype)
                        values[part] = items[(into + (offset - origin)) // items.itemsize]
                        continue
                    # A column of neighbours fits the processor's cache, they do not.
                    values[part] = member_of(pages.data, size, offset, dtype).copy()[place]
                if not pages.readable.all():
                    readable[part] &= pages.readable[row]

    def refcounts(self, pfns: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """
        Read ``_refcount`` of frames.

        :param pfns: page frame numbers in order, shape ``(n,)``
        :return: counts (int64), and whether each could be read (bool), shape ``(n,)``
        """
        (counts,), readable = self.page_members(pfns, self.refcount)
        return counts.astype(np.int64), readable

    @property
    def refcount(self) -> tuple[int, str]:
        """Where ``_refcount`` is in a ``struct page``, for :meth:`page_members`."""
        return self.page.refcount, self.word[0] + "i4"

    @property
    def word(self) -> str:
        """Numpy dtype of an ``unsigned long`` in the target's memory, with its byte order."""
        return self.geometry.arch.word
