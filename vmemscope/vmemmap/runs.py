# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Runs of vpages that one frame backs, and the compound pages that they make up.

In: :class:`~.tables.Leaves`. Out: :class:`Runs`, so that a compound page costs two
elements whatever its size; and for a deduplicated piece :class:`Judged` runs, with the
frame that each compound page's tail pages share. That is the frame that most of them
map: so one wrong entry, even the first, differs from 4,094 right ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, numbered, select
from .tables import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .layout import Geometry, Piece
    from .tables import Leaves

__all__ = ("Judged", "Runs", "are_regular", "judge", "runs_of", "whole_compounds")

#: pieces that a run of what is not mapped is cut into at the most
_HOLE_PIECES = 4


class Runs(NamedTuple):
    """Runs of vpages, in order; all arrays have shape ``(n,)``."""

    #: first vpage (int64)
    vpage: NDArray[np.int64]
    #: number of vpages (int64)
    length: NDArray[np.int64]
    #: frame behind the first vpage (uint64)
    pfn: NDArray[np.uint64]
    #: log2 of the base pages in the leaf (uint8): 0 where one frame backs all
    #: vpages; else a large leaf, whose frames follow one another
    order: NDArray[np.uint8]
    #: :class:`~vmemscope.vmemmap.tables.Kind` (uint8)
    kind: NDArray[np.uint8]

    def clip(self, start: int, end: int) -> Runs:
        """Cut the runs to the vpages ``[start, end)``."""
        if not len(self.vpage) or (
            start <= self.vpage[0] and self.vpage[-1] + self.length[-1] <= end
        ):
            return self
        first = np.maximum(self.vpage, start)
        last = np.minimum(self.vpage + self.length, end)
        moved = (first - self.vpage).astype(np.uint64) * (self.order > 0)
        clipped = Runs(first, last - first, self.pfn + moved, self.order, self.kind)
        return select(clipped, last > first)


def runs_of(leaves: Leaves, geometry: Geometry, start: int, end: int) -> Runs:
    """
    Join the base pages among leaves into runs, and cut all to ``[start, end)`` vpages.

    A large leaf is a run of its own.
    """
    vpage = geometry.vpages_at(leaves.address)
    page_shift = geometry.page_size.bit_length() - 1
    order = leaves.shift - np.uint8(page_shift)
    pages, kind = leaves.pieces, leaves.kind
    large: NDArray[np.bool_] | None = None
    if order.any():
        pages = pages << order.astype(np.int64)
        large = (kind == Kind.MAPPED) & (order > 0)
        order *= large
    joins = (leaves.pfn[1:] == leaves.pfn[:-1]) & (kind[1:] == kind[:-1])
    if large is not None:
        joins &= ~(large[1:] | large[:-1])
    runs = Runs(vpage, pages, leaves.pfn, order, kind)
    if joins.any():
        first = np.flatnonzero(np.concatenate(([True], ~joins)))
        runs = select(runs, first)._replace(length=np.add.reduceat(pages, first))
    return runs.clip(start, end)


class Judged(NamedTuple):
    """Runs of a piece, none across a compound page's bounds, each with its role."""

    runs: Runs
    #: compound page in its range, counted from the range's start (int64)
    compound: NDArray[np.int64]
    #: whether the run is the head page's vpage (bool)
    head: NDArray[np.bool_]
    #: the frame that the run's tail pages should map (uint64); 0 where unknown
    shared: NDArray[np.uint64]
    #: whether the run should be the only owner of its frame (int64, 0 or 1)
    owner: NDArray[np.int64]
    #: mapped tails that map another frame than ``shared`` (bool)
    wrong: NDArray[np.bool_]


def whole_compounds(batches: Iterator[Runs], piece: Piece, size: int) -> Iterator[Runs]:
    """
    Regroup batches of runs so that no compound page is cut in two.

    :param size: vpages in a compound page
    """
    kept: list[Runs] = []
    for runs in batches:
        if not len(runs.vpage):
            continue
        kept.append(runs)
        end = int(runs.vpage[-1] + runs.length[-1])
        cut = end - (end - piece.origin) % size
        if cut <= int(kept[0].vpage[0]):
            continue
        joined = join(kept) if len(kept) > 1 else runs
        yield joined.clip(piece.start, cut)
        kept = [joined.clip(cut, end)] if cut < end else []
    if kept:
        yield join(kept)


def are_regular(leaves: Leaves, size: int, page_shift: int) -> bool:
    """
    Check whether leaves are compound pages, all mapped in the same way.

    Each has a page for its head and, behind it, a frame that all its tail pages share, by
    base pages that are writable and can't be executed from.

    :param leaves: from the first vpage of a compound page to the last of another
    :param size: vpages in a compound page
    :param page_shift: log2 of the bytes in a base page
    """
    pieces = leaves.pieces
    return (
        len(pieces) > 0
        and len(pieces) % 2 == 0
        and bool((pieces[::2] == 1).all() and (pieces[1::2] == size - 1).all())
        and bool((leaves.shift == page_shift).all() and not leaves.kind.any())
        and bool(leaves.writable.all() and leaves.no_execute.all())
    )


def judge(runs: Runs, origin: int, size: int, frame: int | None = None) -> Judged:
    """
    Find each compound page's shared frame, and the tails that map another.

    :param runs: runs of whole compound pages
    :param origin: first vpage of the range
    :param size: vpages in a compound page
    :param frame: the frame that the tails of all compound pages share, so that none of them
        owns it; ``None`` if those of each have their own
    """
    compound, into = _places(runs, origin, size)
    if (into + runs.length > np.where(into == 0, 1, size)).any():
        runs = _split(runs, origin, size)
        compound, into = _places(runs, origin, size)
    head = into == 0
    mapped = runs.kind == Kind.MAPPED
    tail = mapped & ~head
    owner = (mapped & head).astype(np.int64)
    shared = np.full(len(runs.vpage), frame or 0, dtype=np.uint64)
    if frame is None and tail.any():
        at = np.flatnonzero(tail)
        winner, leader = _majority(select(runs, at), compound[at])
        owner[at[leader]] = 1
        # Compound pages in order, each with its number among those of these runs.
        number = np.cumsum(compound[1:] != compound[:-1])
        number = np.concatenate(([0], number))
        frames = np.zeros(int(number[-1]) + 1, dtype=np.uint64)
        frames[number[at[leader]]] = winner
        shared = frames[number]
    wrong = tail & ((runs.pfn != shared) | (runs.order > 0))
    return Judged(runs, compound, head, shared, owner, wrong)


def _places(runs: Runs, origin: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the compound page that each run starts in, and the vpage in it."""
    position = runs.vpage - origin
    # Quicker by far than numpy's remainder.
    compound = position // size
    return compound, position - compound * size


def _split(runs: Runs, origin: int, size: int) -> Runs:
    """Cut runs at the bounds of compound pages and behind each head page."""
    # Number of pieces: bounds strictly inside the run are at 0 and 1 modulo size.
    first, last = runs.vpage - origin, runs.vpage - origin + runs.length - 1

    def bounds_up_to(x: NDArray[np.int64]) -> NDArray[np.int64]:
        return x // size + (x - 1) // size

    pieces = bounds_up_to(last) - bounds_up_to(first) + 1
    # What is not there can be as large as the address space, and of it only the first
    # compound page is drawn.
    pieces = np.where(runs.kind == Kind.MAPPED, pieces, np.minimum(pieces, _HOLE_PIECES))
    owner, nth = numbered(pieces)
    # The nth bound after the run's start.
    bound = bounds_up_to(first)[owner] + nth
    # bounds_up_to() counts 0 (as 0 + -1 = -1 at x = 0): bound number b is at
    # (b + 1) // 2 * size, plus one where b is even.
    position = (bound + 1) // 2 * size + (bound % 2 == 0)
    start = np.where(nth == 0, first[owner], position)
    stop = np.append(start[1:], 0)
    ends = np.append(owner[1:] != owner[:-1], True)
    stop = np.where(ends, (last + 1)[owner], stop)
    moved = (start - first[owner]).astype(np.uint64) * (runs.order[owner] > 0)
    return Runs(
        start + origin, stop - start, runs.pfn[owner] + moved, runs.order[owner], runs.kind[owner]
    )


def _majority(
    tails: Runs, compound: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """
    Find the frame that most tails of each compound page map; of equals, the first mapped.

    :return: for each compound page the frame, and the index (into ``tails``) of the first
        run that maps it
    """
    if (compound[1:] != compound[:-1]).all():
        # One run each, and so no vote.
        return tails.pfn, np.arange(len(compound))
    order = np.lexsort((tails.vpage, tails.pfn, compound))
    key_compound, key_pfn = compound[order], tails.pfn[order]
    first = np.flatnonzero(
        np.concatenate(
            (
                [True],
                (key_compound[1:] != key_compound[:-1]) | (key_pfn[1:] != key_pfn[:-1]),
            )
        )
    )
    votes = np.add.reduceat(tails.length[order], first)
    candidate_compound = key_compound[first]
    candidate_vpage = tails.vpage[order][first]
    # Within a compound page: most votes last, of equals the first vpage last.
    rank = np.lexsort((-candidate_vpage, votes, candidate_compound))
    ranked = candidate_compound[rank]
    best = rank[np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))]
    return key_pfn[first][best], order[first][best]
