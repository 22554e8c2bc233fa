# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Frames of the vmemmap, read many at a time and in order of their numbers.

:class:`Reading` gives their ``struct page``s in full; :func:`glance` keeps of each frame
only what tells whether it takes more to look at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...rules.contents import alike
from ...rules.struct_pages import Rows
from ...walk import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ...vmemmap import Vmemmap

__all__ = ("FRAMES", "Batch", "Glance", "Reading", "glance", "rows_of")

#: frames that are read at a time: their bytes should still be in the CPU's
#: caches when they are looked at
FRAMES = 512
#: neighbouring frames that are worth a read of their own; and frames that may be between
_LONG = 32
_GAP = 4


class Batch(NamedTuple):
    """Pages of the vmemmap to be read; as :class:`~vmemscope.rules.struct_pages.Rows`."""

    vpage: NDArray[np.int64]
    head: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    shared: NDArray[np.bool_]
    #: frame, and :class:`~vmemscope.walk.Kind`
    pfn: NDArray[np.uint64]
    kind: NDArray[np.uint8]


def rows_of(batch: Batch, words: NDArray[np.uint64]) -> Rows:
    """Put rows, and what was read of each, together."""
    return Rows(
        batch.head, batch.first, batch.last, batch.start, batch.end, batch.shared, batch.pfn, words
    )


class Reading:
    """
    Reads the frames of rows, in order of their numbers, some at a time.

    What lies close together is read as one, with what is between: it can then be
    looked at where it was read to, while single frames have to be put side by side.
    """

    def __init__(self, rows: Batch, vmemmap: Vmemmap) -> None:
        self._vmemmap = vmemmap
        order = np.flatnonzero(rows.kind == Kind.MAPPED)
        pfn = rows.pfn[order]
        if (pfn[1:] < pfn[:-1]).any():
            order = order[np.argsort(pfn, kind="stable")]
            pfn = rows.pfn[order]
        #: numbers of the rows that there is anything to read of, in order of their frames
        self._order = order
        self._pfn = pfn
        self._parts = list(self._divide())

    @property
    def frames(self) -> int:
        """How many frames will be read, those between included."""
        return sum(count for _, _, count in self._parts)

    def _divide(self) -> Iterator[tuple[int, int, int]]:
        """Cut the frames into parts: first row, first after it, and frames to be read."""
        pfn = self._pfn
        breaks = np.append(np.flatnonzero(np.diff(pfn) > _GAP) + 1, len(pfn))
        start = 0
        while start < len(pfn):
            first = int(np.searchsorted(breaks, start, side="right"))
            end = min(start + FRAMES, int(breaks[first]))
            if end - start >= _LONG:
                yield start, end, int(pfn[end - 1] - pfn[start]) + 1
            else:
                # As many short runs as there are until the next long one.
                lengths = np.diff(breaks[first : first + FRAMES])
                long = np.flatnonzero(lengths >= _LONG)
                until = int(breaks[first + int(long[0])]) if len(long) else len(pfn)
                end = min(start + FRAMES, until)
                yield start, end, end - start
            start = end

    def batches(
        self, step: Callable[[int], None]
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]]:
        """
        Read them.

        :param step: called with how many rows have been seen to, each time
        :return: words of frames, shape ``(n, struct pages, words)``, some of which
            may only have been read along; numbers of rows; and which of the
            frames each has. Rows that could not be read are left out
        """
        vmemmap = self._vmemmap
        page, memory = vmemmap.page, vmemmap.memory
        shape = (-1, vmemmap.geometry.page_size // page.size, page.size // 8)
        for start, end, count in self._parts:
            which, pfn = self._order[start:end], self._pfn[start:end]
            if int(pfn[-1] - pfn[0]) + 1 == count:
                at = (pfn - pfn[0]).astype(np.int64)
                data, readable = memory.read_run(int(pfn[0]), count)
            else:
                at = np.arange(count)
                data, readable = memory.read_frames(pfn)
            if not readable.all():
                which, at = which[readable[at]], at[readable[at]]
            step(end - start)
            if len(which):
                words = data.view(vmemmap.table.dtype).astype(np.uint64, copy=False)
                yield words.reshape(shape), which, at


class Glance(NamedTuple):
    """What was seen of some rows at a glance."""

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


def glance(rows: Batch, vmemmap: Vmemmap, plain: int, step: Callable[[int], None]) -> Glance:
    """
    Read rows, and keep the first few ``struct page``s of those with a head.

    :param plain: the first ``struct page`` after a head that is a tail like any other
    :param step: called with how many rows have been seen to, each time
    """
    count, size = len(rows.vpage), vmemmap.page.size // 8
    is_head = rows.first == rows.head
    read = np.zeros(count, dtype=np.bool_)
    is_alike = np.zeros(count, dtype=np.bool_)
    tail = np.zeros((count, size), dtype=np.uint64)
    heads = np.empty(np.count_nonzero(is_head), dtype=np.int64)
    first = np.empty((len(heads), plain + 1, size), dtype=np.uint64)
    done = 0
    for words, which, at in Reading(rows, vmemmap).batches(step):
        with_head = is_head[which]
        at_heads, at_others = at[with_head], at[~with_head]
        head, asked = np.zeros((2, len(words)), dtype=np.bool_)
        head[at_heads] = True
        # A frame with a head that others map, too, is held against what those should be.
        head[at_others] = False
        asked[at] = True
        read[which] = True
        is_alike[which] = alike(words, head, asked, plain)[at]
        tail[which] = words[at, plain]
        end = done + len(at_heads)
        heads[done:end] = which[with_head]
        first[done:end] = words[at_heads, : plain + 1]
        done = end
    return Glance(read, is_alike, tail, heads[:done], first[:done])
