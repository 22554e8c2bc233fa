# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who owns which page frame of RAM: memblock during boot, then the page allocator.

Ranges are in pfns. Neither is the kernel's algorithm; what counts is that
frames are handed out once, on the right node, and that their struct pages say so.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from ..errors import UsageError
from .memmap import MemMap

__all__ = ("Memblock", "PageAllocator")

_NO_ROOM = "the scenario's RAM is too small for its devices"
_MORE_RAM = "give it more with the ram key"
_BY_START = attrgetter("start")


@dataclass
class _Run:
    start: int
    end: int
    nid: int

    def __deepcopy__(self, memo: dict[int, object]) -> _Run:
        # As dataclasses are copied by default, but there are thousands.
        return _Run(self.start, self.end, self.nid)


class _Frames:
    """Free frames as a list of disjoint runs in order."""

    def __init__(self, runs: Iterable[tuple[int, int, int]]) -> None:
        self.runs = [_Run(*run) for run in sorted(runs)]

    def take(self, start: int, end: int) -> None:
        """Remove ``[start, end)`` from what is free."""
        runs = []
        for run in self.runs:
            if run.end <= start or end <= run.start:
                runs.append(run)
                continue
            if run.start < start:
                runs.append(_Run(run.start, start, run.nid))
            if end < run.end:
                runs.append(_Run(end, run.end, run.nid))
        self.runs = runs


class Memblock(_Frames):
    """
    Boot memory: allocated from the top down.

    :param runs: RAM as (first pfn, pfn after the last, node)
    """

    def __init__(self, runs: Iterable[tuple[int, int, int]]) -> None:
        self.ram = sorted(runs)
        super().__init__(self.ram)

    def reserve(self, start: int, end: int) -> None:
        self.take(start, end)

    def alloc(self, count: int, align: int = 1, nid: int | None = None) -> int:
        """Allocate adjacent frames, on the node if it has room; return the first."""
        for run in sorted(self.runs, key=lambda run: (run.nid == nid, run.start), reverse=True):
            pfn = (run.end - count) // align * align
            if pfn >= run.start:
                self.take(pfn, pfn + count)
                return pfn
        raise UsageError(_NO_ROOM, _MORE_RAM)


class PageAllocator(_Frames):
    """
    The page allocator: allocated from the bottom up, ZONE_DMA last.

    :param memmap: where it keeps the frames' struct pages true
    """

    def __init__(self, runs: Iterable[tuple[int, int, int]], memmap: MemMap) -> None:
        super().__init__(runs)
        self.memmap = memmap
        self.units = memmap.units
        # No block crosses the end of ZONE_DMA or ZONE_DMA32.
        for boundary in (self.units.max_dma_pfn, self.units.max_dma32_pfn):
            for run in list(self.runs):
                if run.start < boundary < run.end:
                    self.runs.append(_Run(boundary, run.end, run.nid))
                    run.end = boundary
        self.runs.sort(key=lambda run: run.start)

    def add(self, start: int, end: int, nid: int) -> None:
        """Take over the frames of a block that was brought online."""
        self.runs.append(_Run(start, end, nid))
        self.runs.sort(key=lambda run: run.start)

    def alloc_page(self, nid: int = 0) -> int:
        """Allocate one frame, reference count 1."""
        for run in self._candidates(nid):
            pfn = run.start
            run.start += 1
            if run.start == run.end:
                self.runs.remove(run)
            self.memmap.prep_new_page(pfn)
            return pfn
        raise UsageError(_NO_ROOM, _MORE_RAM)

    def alloc_pages(self, order: int, nid: int = 0) -> int:
        """
        Allocate a naturally aligned block that is not a compound page: only
        its first frame gets a reference count (``mm/page_alloc.c: prep_new_page()``).
        """
        count = 1 << order
        for run in self._candidates(nid):
            pfn = -(-run.start // count) * count
            if pfn + count <= run.end:
                self.take(pfn, pfn + count)
                self.memmap.prep_new_page(pfn)
                return pfn
        raise UsageError(_NO_ROOM, _MORE_RAM)

    def free_page(self, pfn: int) -> None:
        """Give a frame back whose reference count dropped to 0."""
        insort(self.runs, _Run(pfn, pfn + 1, self.memmap.nid(pfn)), key=_BY_START)

    def _candidates(self, nid: int) -> Iterator[_Run]:
        """Yield what is free in the order in which it is taken."""
        limit = self.units.max_dma_pfn
        for is_dma in (False, True):
            for is_near in (True, False):
                yield from (
                    run
                    for run in self.runs
                    if (run.end <= limit) == is_dma and (run.nid == nid) == is_near
                )

    def free_blocks(self, max_order: int) -> Iterator[tuple[int, int]]:
        """Yield what is free as buddy blocks: first pfn, order."""
        for run in self.runs:
            pfn = run.start
            while pfn < run.end:
                order = min(max_order, (pfn & -pfn).bit_length() - 1 if pfn else max_order)
                while pfn + (1 << order) > run.end:
                    order -= 1
                yield pfn, order
                pfn += 1 << order
