# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tail pages of folios that lie in the frames of their own that optimized folios keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .vmemmap import Vmemmap

__all__ = ("TailPages", "read_tail_pages_of")

#: pages of vmemmap that are read at a time
_BATCH = 1 << 10


class TailPages(NamedTuple):
    """One vpage of each of some folios, as ``struct page``s."""

    #: which folios (int64), shape ``(n,)``
    folio: NDArray[np.int64]
    #: number in the folio of the first ``struct page`` of the page
    first: int
    #: shape ``(n, struct pages, words)`` (uint64)
    words: NDArray[np.uint64]
    #: whether each could be read (bool), shape ``(n,)``
    readable: NDArray[np.bool_]


def read_tail_pages_of(
    vmemmap: Vmemmap, folios: NDArray[np.int64], vpages: NDArray[np.int64], kept: NDArray[np.int64]
) -> Iterator[TailPages]:
    """
    Read what folios keep frames of their own for, some at a time.

    :param folios: which, shape ``(n,)``
    :param vpages: the first vpage of each, shape ``(n,)``
    :param kept: how many vpages of each keep their own frames, shape ``(n,)``
    """
    size = vmemmap.geometry.struct_page_size
    per_page = vmemmap.geometry.page_size // size
    if vmemmap.geometry.page_size % size:
        # Nothing is optimized where a struct page may lie across two vpages.
        return
    for nth in range(int(kept.max(initial=0))):
        chosen = np.flatnonzero(kept > nth)
        for start in range(0, len(chosen), _BATCH):
            some = chosen[start : start + _BATCH]
            read = vmemmap.read(vpages[some] + nth)
            words = read.data.view(vmemmap.word).astype(np.uint64, copy=False)
            yield TailPages(
                folios[some],
                nth * per_page,
                words.reshape(len(some), per_page, size // 8),
                read.readable,
            )
