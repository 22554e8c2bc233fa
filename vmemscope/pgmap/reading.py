# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames of the vmemmap, read many at a time and in order of their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..rules.struct_pages import Rows
from ..walk import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..vmemmap import Vmemmap

__all__ = ("FRAMES", "Batch", "read_batch", "rows_of")

#: frames that are read at a time: their bytes should still be in the CPU's
#: caches when they are looked at
FRAMES = 512
#: neighbouring frames that are worth a read of their own; and frames that may be between
_LONG = 32
_GAP = 4


class Batch(NamedTuple):
    """Pages of the vmemmap to be read; as :class:`~vmemscope.rules.contents.Rows`."""

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


def read_batch(
    rows: Batch, vmemmap: Vmemmap, step: Callable[[int], None]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]]:
    """
    Read the frames of rows, in order of their numbers, some at a time.

    :param step: called with how many rows have been seen to, each time
    :return: words of frames, shape ``(n, struct pages, words)``, some of which
        may only have been read along; numbers of rows; and which of the
        frames each has. Rows that could not be read are left out
    """
    order = np.flatnonzero(rows.kind == Kind.MAPPED)
    pfn = rows.pfn[order]
    if (pfn[1:] < pfn[:-1]).any():
        order = order[np.argsort(pfn, kind="stable")]
        pfn = rows.pfn[order]
    page = vmemmap.page
    shape = (-1, vmemmap.geometry.page_size // page.size, page.size // 8)
    for start, end, whole in _chunks(pfn):
        which, part = order[start:end], pfn[start:end]
        if whole:
            first, last = int(part[0]), int(part[-1])
            at = (part - part[0]).astype(np.int64)
            data, readable = vmemmap.memory.read_run(first, last - first + 1)
        else:
            at = np.arange(len(part))
            data, readable = vmemmap.memory.read_frames(part)
        if not readable.all():
            which, at = which[readable[at]], at[readable[at]]
        step(end - start)
        if len(which):
            words = data.view(vmemmap.table.dtype).astype(np.uint64, copy=False)
            yield words.reshape(shape), which, at


def _chunks(pfn: NDArray[np.uint64]) -> Iterator[tuple[int, int, bool]]:
    """
    Cut frames into parts to be read.

    What lies close together is read as one, with what is between: it can then be
    looked at where it was read to, while single frames have to be put side by side.

    :param pfn: page frame numbers in order, shape ``(n,)``
    :return: first, first after it, and whether to read all between, too
    """
    breaks = np.append(np.flatnonzero(np.diff(pfn) > _GAP) + 1, len(pfn))
    start = 0
    while start < len(pfn):
        first = int(np.searchsorted(breaks, start, side="right"))
        end = min(start + FRAMES, int(breaks[first]))
        whole = end - start >= _LONG
        if not whole:
            # As many short runs as there are until the next long one.
            lengths = np.diff(breaks[first : first + FRAMES])
            long = np.flatnonzero(lengths >= _LONG)
            until = int(breaks[first + int(long[0])]) if len(long) else len(pfn)
            end = min(start + FRAMES, until)
        yield start, end, whole
        start = end
