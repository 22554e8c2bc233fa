# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Frames of the vmemmap, read many at a time and in order of their numbers.

:class:`Reading` gives their ``struct page``s in full; :func:`read_first_pages` keeps of each frame
only enough to decide whether it needs a full check. That is a short cut: without it, the
contents of 400 GiB in 2 MiB (--contents all) take seven times the time (python -m
bench.layout --guest 400G:2M).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....limits import LIMITS
from ....rules.page_rows import Rows
from ....vmemmap.tables import Kind
from .shortcuts import alike

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ....vmemmap.vmemmap import Vmemmap

__all__ = ("FirstPages", "Reading", "VpageRows", "read_first_pages", "rows_of")

#: neighbouring frames that are worth a read of their own; and frames that may be between
_LONG = 32
_GAP = 4


class VpageRows(NamedTuple):
    """Pages of the vmemmap to be read; as :class:`~vmemscope.rules.page_rows.Rows`."""

    vpage: NDArray[np.int64]
    head: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    shared: NDArray[np.bool_]
    #: frame, and :class:`~vmemscope.vmemmap.tables.Kind`
    pfn: NDArray[np.uint64]
    kind: NDArray[np.uint8]


def rows_of(batch: VpageRows, words: NDArray[np.uint64]) -> Rows:
    """Return rows with the words that were read of each."""
    return Rows(
        batch.head, batch.first, batch.last, batch.start, batch.end, batch.shared, batch.pfn, words
    )


class Reading:
    """
    Reads the frames of rows, in order of their numbers, some at a time.

    What lies close together is read as one, with what is between: it can then be
    used where it was read to, while single frames must be copied side by side.
    """

    def __init__(self, rows: VpageRows, vmemmap: Vmemmap) -> None:
        self._vmemmap = vmemmap
        order = np.flatnonzero(rows.kind == Kind.MAPPED)
        pfn = rows.pfn[order]
        if (pfn[1:] < pfn[:-1]).any():
            order = order[np.argsort(pfn, kind="stable")]
            pfn = rows.pfn[order]
        #: numbers of the rows that there is anything to read of, in order of their frames
        self.order = order
        self._pfn = pfn
        self._parts = list(self._divide())
        #: how many frames will be read, those between included
        self.frames = sum(count for _, _, count in self._parts)
        #: where among these each row of ``order`` has its own
        self.place = self._places()

    def _divide(self) -> Iterator[tuple[int, int, int]]:
        """Cut the frames into parts: first row, first after it, and frames to be read."""
        pfn = self._pfn
        breaks = np.append(np.flatnonzero(np.diff(pfn) > _GAP) + 1, len(pfn))
        start = 0
        while start < len(pfn):
            first = int(np.searchsorted(breaks, start, side="right"))
            end = min(start + LIMITS.frames, int(breaks[first]))
            if end - start >= _LONG:
                yield start, end, int(pfn[end - 1] - pfn[start]) + 1
            else:
                # As many short runs as there are until the next long one.
                lengths = np.diff(breaks[first : first + LIMITS.frames])
                long = np.flatnonzero(lengths >= _LONG)
                until = int(breaks[first + int(long[0])]) if len(long) else len(pfn)
                end = min(start + LIMITS.frames, until)
                yield start, end, end - start
            start = end

    def _is_run(self, start: int, end: int, count: int) -> bool:
        """Return whether a part is read with the frames between."""
        return int(self._pfn[end - 1] - self._pfn[start]) + 1 == count

    def _places(self) -> NDArray[np.int64]:
        place = np.arange(len(self._pfn))
        done = 0
        for start, end, count in self._parts:
            here = slice(start, end)
            if self._is_run(start, end, count):
                place[here] = self._pfn[here] - self._pfn[start]
                place[here] += done
            else:
                place[here] += done - start
            done += count
        return place

    def parts(
        self, step: Callable[[int], None]
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_]]]:
        """
        Read all frames.

        :param step: called with how many rows have been seen to, each time
        :return: words of the frames that come next, shape ``(n, struct pages, words)``, and
            whether each could be read, shape ``(n,)``
        """
        vmemmap = self._vmemmap
        page, memory = vmemmap.page, vmemmap.memory
        shape = (-1, vmemmap.geometry.page_size // page.size, page.size // 8)
        for start, end, count in self._parts:
            if self._is_run(start, end, count):
                data, readable = memory.read_run(int(self._pfn[start]), count)
            else:
                data, readable = memory.read_frames(self._pfn[start:end])
            step(end - start)
            words = data.view(vmemmap.word).astype(np.uint64, copy=False)
            yield words.reshape(shape), readable

    def batches(
        self, step: Callable[[int], None]
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]]:
        """
        Read the frames, and say whose they are.

        :param step: called with how many rows have been seen to, each time
        :return: words of frames as from :meth:`parts`; numbers of rows; and which of the
            frames each has. Rows that could not be read are left out
        """
        done = 0
        for (start, end, count), (words, readable) in zip(
            self._parts, self.parts(step), strict=True
        ):
            which, at = self.order[start:end], self.place[start:end] - done
            if not readable.all():
                which, at = which[readable[at]], at[readable[at]]
            if len(which):
                yield words, which, at
            done += count


class FirstPages(NamedTuple):
    """The first few ``struct page``s of some rows."""

    #: whether each row could be read, shape ``(n,)``; what else is said of one that
    #: could not be is void
    read: NDArray[np.bool_]
    #: whether the ``struct page``s of each are all alike, after the first few of a head's
    alike: NDArray[np.bool_]
    #: the first plain tail page of each, shape ``(n, words)``
    plain: NDArray[np.uint64]
    #: numbers of the rows that have a head and could be read, in any order, shape ``(m,)``;
    #: their first few ``struct page``s, up to the first plain one, ``(m, struct pages, words)``
    heads: NDArray[np.int64]
    first: NDArray[np.uint64]


def read_first_pages(
    rows: VpageRows, vmemmap: Vmemmap, plain: int, step: Callable[[int], None]
) -> FirstPages:
    """
    Read rows, and keep the first few ``struct page``s of those with a head.

    :param plain: the first ``struct page`` after a head that is a tail like any other
    :param step: called with how many rows have been seen to, each time
    """
    reading = Reading(rows, vmemmap)
    order, frames = reading.order, max(reading.frames, 1)
    place = np.zeros(len(rows.head), dtype=np.int64)
    place[order] = reading.place
    mapped = np.zeros(len(rows.head), dtype=np.bool_)
    mapped[order] = True
    is_head = rows.first == rows.head
    head, asked, readable, same = np.zeros((4, frames), dtype=np.bool_)
    head[place[mapped & is_head]] = True
    # A frame with a head that others map, too, is compared with what those should be.
    head[place[mapped & ~is_head]] = False
    asked[reading.place] = True
    shape = plain + 1, vmemmap.page.size // 8
    first = np.empty((frames, *shape), dtype=np.uint64)
    tail = np.empty((frames, shape[1]), dtype=np.uint64)
    done = 0
    for words, could in reading.parts(step):
        part = slice(done, done + len(words))
        if LIMITS.short_cuts:
            same[part] = alike(words, head[part], asked[part], plain)
        first[part], tail[part], readable[part] = words[:, : plain + 1], words[:, plain], could
        done = part.stop
    read = mapped & readable[place]
    heads = np.flatnonzero(read & is_head)
    # Quicker than by an index where rows are long.
    return FirstPages(
        read, same[place], tail.take(place, axis=0), heads, first.take(place[heads], axis=0)
    )
