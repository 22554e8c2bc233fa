# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The vmemmap of a target: its geometry, its page tables, the memory behind them.

Everything above asks here for leaves, for pages of the vmemmap and for
``struct page`` fields, and never reads memory itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .walk import Kind, translate, walk, walk_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arch import PageTable
    from .kernel.mem_section import Sections
    from .kernel.page import PageLayout
    from .layout import Geometry
    from .memory import PhysicalMemory
    from .walk import Batch, Leaves

__all__ = ("Pages", "Vmemmap")


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


@dataclass(frozen=True)
class Vmemmap:
    """The vmemmap of a target."""

    geometry: Geometry
    table: PageTable
    sections: Sections
    page: PageLayout
    #: System RAM
    ram: PhysicalMemory
    #: System RAM and the memory of devices
    memory: PhysicalMemory

    def leaves(self, start: int, end: int) -> Iterator[Leaves]:
        """Walk the page tables over vpages ``[start, end)``, in batches."""
        return walk(
            self.memory, self.table, self.geometry.address(start), self.geometry.address(end)
        )

    def batches(self, start: int, end: int) -> Iterator[Batch]:
        """Walk as :meth:`leaves` does, but leave the decoding to the caller."""
        return walk_batches(
            self.memory, self.table, self.geometry.address(start), self.geometry.address(end)
        )

    def frames_of(self, vpages: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """
        Find the frames behind vpages.

        :param vpages: shape ``(n,)``
        :return: pfn (uint64) and :class:`~vmemscope.walk.Kind` (uint8), shape ``(n,)``
        """
        size = np.uint64(self.geometry.page_size)
        addresses = np.uint64(self.geometry.vmemmap) + vpages.astype(np.uint64) * size
        return translate(self.memory, self.table, addresses)

    def read(self, vpages: NDArray[np.int64]) -> Pages:
        """Read vpages, shape ``(n,)``; each frame behind them is read once."""
        pfn, kind = self.frames_of(vpages)
        frames, which = np.unique(pfn, return_inverse=True)
        data, readable = self.memory.read_frames(frames)
        return Pages(data[which], pfn, readable[which] & (kind == Kind.MAPPED), kind == Kind.HOLE)

    def refcounts(self, pfns: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """
        Read ``_refcount`` of frames.

        :param pfns: page frame numbers in order, shape ``(n,)``
        :return: counts (int64), and whether each could be read (bool), shape ``(n,)``
        """
        # Counted in bytes from the start of the vmemmap. A struct page may lie
        # across two vpages, a counter in it does not.
        offset = pfns * np.uint64(self.geometry.struct_page_size) + np.uint64(self.page.refcount)
        vpage, into = np.divmod(offset, np.uint64(self.geometry.page_size))
        new = np.concatenate((vpage[:1] == vpage[:1], vpage[1:] != vpage[:-1]))
        which = np.cumsum(new) - 1
        pages = self.read(vpage[new].astype(np.int64))
        counters = pages.data.view(self.table.dtype[0] + "i4")
        refcounts = counters[which, into.astype(np.int64) // 4]
        return refcounts.astype(np.int64), pages.readable[which]
