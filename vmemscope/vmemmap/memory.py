# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Physical memory of a target, many frames at a time.

A target may lack any frame: filtered out of a dump, cut off, on a device.
:meth:`PhysicalMemory.read_frames` therefore returns what it could read and
says of each frame whether it could. It reads only where the kernel has System
RAM or a pagemap: on a running guest, a read anywhere else may reach a device's
registers, and those can change when read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, repeat
from typing import TYPE_CHECKING

import numpy as np

from ..limits import LIMITS
from ..spans import Spans
from ..target.reads import READ_ERRORS

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

__all__ = ("PhysicalMemory",)

#: most bytes asked for in one read
_SPAN = 4 << 20
#: bytes of a frame that are looked at first
_BEGIN = 64
#: size of blocks that the allocator should keep (mallopt(3), M_MMAP_THRESHOLD)
_KEPT = 31 << 20


class PhysicalMemory:
    """
    Read frames of a program's physical memory.

    :param prog: the program
    :param page_size: bytes in a frame
    :param ranges: ``(start, end)`` physical addresses in bytes, end inclusive,
        that may be read
    :param withheld: says which of some frames the target has zeros for, whatever is in them;
        ``None`` if it has none
    """

    def __init__(
        self,
        prog: Program,
        page_size: int,
        ranges: Iterable[tuple[int, int]],
        withheld: Callable[[NDArray[np.uint64]], NDArray[np.bool_]] | None = None,
    ) -> None:
        self._prog = prog
        self._withheld = withheld
        self.page_size = page_size
        merged: list[list[int]] = []
        for start, end in sorted((start, end) for start, end in ranges if start <= end):
            if merged and start <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._merged = merged
        self._frames_a_read = max(1, _SPAN // page_size)
        self._starts = np.array([start for start, _ in merged], dtype=np.uint64)
        self._ends = np.array([end for _, end in merged], dtype=np.uint64)
        # glibc gives a large block back to the kernel when it is freed, and takes pages
        # anew, each a fault, for the next; from freeing a larger one it learns to keep
        # them. This one is never touched.
        np.empty(_KEPT, dtype=np.uint8)
        #: bytes read and reads made, for budgets
        self.bytes_read = 0
        self.reads = 0

    @property
    def frames(self) -> Spans:
        """All frames that lie in memory as a whole."""
        size = self.page_size
        pairs = zip(self._starts.tolist(), self._ends.tolist(), strict=True)
        bounds = [(-(-start // size), (end + 1) // size) for start, end in pairs]
        return Spans.of([first for first, _ in bounds], [last for _, last in bounds])

    def contains(self, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """
        Return which frames lie in memory.

        :param pfns: page frame numbers, any shape
        :return: same shape; false also where a frame is only partly memory
        """
        if not len(self._starts):
            return np.zeros(pfns.shape, dtype=np.bool_)
        pfns = pfns.astype(np.uint64, copy=False)
        if pfns.size and self._in_one_range(int(pfns.min()), int(pfns.max())):
            return np.ones(pfns.shape, dtype=np.bool_)
        # A pfn whose address does not fit 64 bits is in no memory.
        shift = np.uint64(self.page_size.bit_length() - 1)
        fits = pfns < np.uint64(1 << (64 - int(shift)))
        address = pfns << shift
        index = np.searchsorted(self._starts, address, side="right").astype(np.int64) - 1
        last = address + np.uint64(self.page_size - 1)
        inside: NDArray[np.bool_] = (
            fits & (index >= 0) & (last <= self._ends[np.maximum(index, 0)]) & (last >= address)
        )
        return inside

    def contains_runs(
        self, pfns: NDArray[np.uint64], count: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """
        Return which runs of neighbouring frames lie in memory as a whole.

        :param pfns: first frame of each, shape ``(n,)``
        :param count: frames in each, 1 or more, shape ``(n,)``
        """
        inside = self.contains(pfns)
        long = np.flatnonzero(inside & (count > 1))
        for i, first, length in zip(
            long.tolist(), pfns[long].tolist(), count[long].tolist(), strict=True
        ):
            inside[i] = self._in_one_range(first, first + length - 1)
        return inside

    def _in_one_range(self, first: int, last: int) -> bool:
        """Return whether all frames from one to another lie in memory without a break."""
        at = bisect_right(self._merged, [first * self.page_size, 1 << 64]) - 1
        return at >= 0 and (last + 1) * self.page_size - 1 <= self._merged[at][1]

    def read_frames(self, pfns: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """
        Read whole frames. Those that are neighbours in memory are read together.

        :param pfns: page frame numbers in any order, shape ``(n,)``
        :return: bytes, shape ``(n, page_size)``, zero where unreadable, not to be
            written to; and shape ``(n,)``, whether each frame could be read
        """
        for data, readable in self.read_batches(pfns, len(pfns)):
            return data, readable
        return np.zeros((0, self.page_size), dtype=np.uint8), np.zeros(0, dtype=np.bool_)

    def read_batches(
        self, pfns: NDArray[np.uint64], count: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """
        Read as :meth:`read_frames` does, ``count`` frames at a time.

        What is to be read how is worked out for all of them at once: a batch costs
        little more than its reads.
        """
        if not len(pfns):
            return
        if len(pfns) == 1:
            # Tables of upper levels mostly: less work than a plan for them.
            yield self.read_run(int(pfns[0]), 1)
            return
        order = None
        if not (pfns[1:] >= pfns[:-1]).all():
            order = np.lexsort((pfns, np.arange(len(pfns)) // count))
            pfns = pfns[order]
        reads = self._plan(pfns, count) if self.contains(pfns).all() else None
        for start in range(0, len(pfns), count):
            part = pfns[start : start + count]
            data = None if reads is None else self._read_whole(part, *next(reads))
            if data is None:
                data, readable = self._read_apart(part)
            else:
                readable = self._not_withheld(part, data)
            if order is not None:
                back = order[start : start + count] - start
                if not (back[1:] > back[:-1]).all():
                    place = np.empty_like(back)
                    place[back] = np.arange(len(back))
                    data, readable = data[place], readable[place]
            yield data, readable

    def read_run(self, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """
        Read frames that are neighbours in memory, as :meth:`read_frames` does.

        :param first: page frame number of the first
        :param count: how many, 1 or more, that are worth a read of their own
        """
        if self._in_one_range(first, first + count - 1):
            self.reads += 1
            try:
                raw = self._prog.read(first * self.page_size, count * self.page_size, True)
            except READ_ERRORS:
                pass
            else:
                self.bytes_read += len(raw)
                data = np.frombuffer(raw, np.uint8).reshape(count, self.page_size)
                pfns = np.arange(first, first + count, dtype=np.uint64)
                return data, self._not_withheld(pfns, data)
        return self._read_apart(np.arange(first, first + count, dtype=np.uint64))

    def _plan(
        self, pfns: NDArray[np.uint64], count: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """
        Plan the reads of frames that all lie in memory.

        :param count: frames that are read together at the most
        :return: for each ``count`` of them: the places in ``pfns``, counted from the
            first of the batch, of the first and the last frame of each read
        """
        steps = np.diff(pfns.astype(np.int64))
        cut = (steps < 1) | (steps > LIMITS.gap + 1)
        if not self._in_one_range(int(pfns[0]), int(pfns[-1])):
            for i in np.flatnonzero((steps > 1) & ~cut).tolist():
                cut[i] = not self._in_one_range(int(pfns[i]), int(pfns[i + 1]))
        for most in (count, self._frames_a_read):
            cut[most - 1 :: most] = True
        first = np.concatenate(([0], np.flatnonzero(cut) + 1))
        last = np.append(first[1:] - 1, len(pfns) - 1)
        bounds = np.searchsorted(first, np.arange(0, len(pfns) + count, count)).tolist()
        for i, (start, end) in enumerate(pairwise(bounds)):
            yield first[start:end] - i * count, last[start:end] - i * count

    def _read_whole(
        self, pfns: NDArray[np.uint64], first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """
        Read frames, all of them memory.

        :param first: place of the first frame of each read, shape ``(n,)``
        :param last: and of its last
        :return: bytes, shape ``(n, page_size)``; ``None`` if any read failed
        """
        size = self.page_size
        starts = pfns[first]
        frames = (pfns[last] - starts).astype(np.int64) + 1
        addresses, sizes = (starts * np.uint64(size)).tolist(), (frames * size).tolist()
        self.reads += len(addresses)
        try:
            # Without a step of the interpreter between two: there are thousands.
            parts = list(map(self._prog.read, addresses, sizes, repeat(True)))
        except READ_ERRORS:
            return None
        total = int(frames.sum())
        self.bytes_read += total * size
        if total > len(pfns):
            parts = _without_gaps(parts, pfns, first, size)
        data = np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)
        return data.reshape(-1, size)

    def _read_apart(self, pfns: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read frames in order of pfn, of which some are no memory, or can't be read."""
        allowed = self.contains(pfns)
        data = np.zeros((len(pfns), self.page_size), dtype=np.uint8)
        readable = np.zeros(len(pfns), dtype=np.bool_)
        breaks = np.flatnonzero(
            (np.diff(pfns.astype(np.int64)) != 1) | ~allowed[1:] | ~allowed[:-1]
        )
        starts = np.concatenate(([0], breaks + 1))
        ends = np.concatenate((breaks + 1, [len(pfns)]))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if not allowed[start]:
                continue
            for first in range(start, end, self._frames_a_read):
                last = min(first + self._frames_a_read, end)
                self._read_span(int(pfns[first]), first, last, data, readable)
        readable[readable] = self._not_withheld(pfns[readable], data[readable])
        return data, readable

    def _not_withheld(self, pfns: NDArray[np.uint64], data: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which frames hold what was read, shape ``(n,)``."""
        known = np.ones(len(pfns), dtype=np.bool_)
        if self._withheld is not None:
            # Hardly a frame begins with zeros that is worth reading.
            maybe = np.flatnonzero(~data[:, :_BEGIN].any(axis=1))
            zeros = maybe[~data[maybe].any(axis=1)]
            if len(zeros):
                known[zeros] = ~self._withheld(pfns[zeros])
        return known

    def _read_span(
        self,
        pfn: int,
        first: int,
        last: int,
        data: NDArray[np.uint8],
        readable: NDArray[np.bool_],
    ) -> None:
        """Read frames ``first`` to ``last`` (exclusive) of the result; halve what fails."""
        size = (last - first) * self.page_size
        self.reads += 1
        try:
            raw = self._prog.read(pfn * self.page_size, size, True)
        except READ_ERRORS:
            if last - first > 1:
                middle = (first + last) // 2
                self._read_span(pfn, first, middle, data, readable)
                self._read_span(pfn + middle - first, middle, last, data, readable)
            return
        self.bytes_read += size
        data[first:last] = np.frombuffer(raw, np.uint8).reshape(last - first, self.page_size)
        readable[first:last] = True


def _without_gaps(
    parts: list[bytes], pfns: NDArray[np.uint64], first: NDArray[np.int64], size: int
) -> list[memoryview]:
    """
    Leave out of reads what was only read along.

    :param first: place of the first frame of each read in ``pfns``
    """
    apart = np.ones(len(pfns), dtype=np.bool_)
    apart[1:] = pfns[1:] != pfns[:-1] + np.uint64(1)
    apart[first] = True
    starts = np.flatnonzero(apart)
    of = np.searchsorted(first, starts, side="right") - 1
    skipped = (pfns[starts] - pfns[first[of]]).astype(np.int64) * size
    lengths = np.diff(starts, append=len(pfns)) * size
    views = [memoryview(part) for part in parts]
    return [
        views[read][begin : begin + length]
        for read, begin, length in zip(of.tolist(), skipped.tolist(), lengths.tolist(), strict=True)
    ]
