# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compound pages in a deduplicated piece: which frame each one's tail pages share.

Works on runs, so a compound page costs a few array elements whatever its size.
The frame of a compound page's tails is the one that most of them map: one
wrong entry, even the first, is then told apart from 4,094 right ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, select
from .frames import Runs
from .tables import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..arch import PageTable
    from .layout import Piece

__all__ = ("Judged", "judge", "sound_compounds", "whole_compounds")

#: pieces that a run of what is not mapped is cut into at the most
_HOLE_PIECES = 4


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


def sound_compounds(
    entries: NDArray[np.uint64], table: PageTable, size: int
) -> NDArray[np.uint64] | None:
    """
    Tell at a glance that compound pages are mapped as they should be.

    Most are, and this costs one comparison of the raw entries; where it does
    not hold for all of them, the runs have to be judged.

    :param entries: last-level entries of whole compound pages, shape ``(n * size,)``
    :param size: vpages in a compound page, 3 or more
    :return: frames of each one's head and of its tails, shape ``(n, 2)``;
        ``None`` if any entry is not as it should be
    """
    # Whether each entry is as the one before, in one go over all of them: it has to be
    # from the second tail page on, and does not matter for the head and the first.
    # A column at a time, as numpy is slow where the last axis is short.
    same = np.empty(len(entries), dtype=np.bool_)
    np.equal(entries[1:], entries[:-1], out=same[1:])
    rows, compounds = same.reshape(-1, size), entries.reshape(-1, size)
    frames = np.empty((len(rows), 2), dtype=np.uint64)
    for role in (0, 1):
        rows[:, role] = True
        frames[:, role] = compounds[:, role]
    if not same.all():
        return None
    due = np.uint64(table.present | table.writable | table.no_execute)
    if np.bitwise_and.reduce(frames.reshape(-1)) & due != due:
        return None
    frames &= np.uint64(table.address)
    frames >>= np.uint64(table.levels[-1].shift)
    return frames


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
        joined = join(kept)
        yield joined.clip(piece.start, cut)
        kept = [joined.clip(cut, end)] if cut < end else []
    if kept:
        yield join(kept)


def judge(runs: Runs, origin: int, size: int) -> Judged:
    """
    Find each compound page's shared frame, and the tails that map another.

    :param runs: runs of whole compound pages
    :param origin: first vpage of the range
    :param size: vpages in a compound page
    """
    runs = _split(runs, origin, size)
    compound, into = np.divmod(runs.vpage - origin, size)
    head = into == 0
    tail = (runs.kind == Kind.MAPPED) & ~head
    shared = np.zeros(len(runs.vpage), dtype=np.uint64)
    owner = ((runs.kind == Kind.MAPPED) & head).astype(np.int64)
    if tail.any():
        which, winner, leader = _majority(select(runs, tail), compound[tail])
        position = np.searchsorted(which, compound)
        known = position < len(which)
        known[known] = which[position[known]] == compound[known]
        shared[known] = winner[position[known]]
        owner[np.flatnonzero(tail)[leader]] = 1
    wrong = tail & ((runs.pfn != shared) | (runs.order > 0))
    return Judged(runs, compound, head, shared, owner, wrong)


def _split(runs: Runs, origin: int, size: int) -> Runs:
    """Cut runs at the bounds of compound pages and behind each head page."""
    into = (runs.vpage - origin) % size
    if bool((into + runs.length <= np.where(into == 0, 1, size)).all()):
        return runs
    # Number of pieces: bounds strictly inside the run are at 0 and 1 modulo size.
    first, last = runs.vpage - origin, runs.vpage - origin + runs.length - 1

    def bounds_up_to(x: NDArray[np.int64]) -> NDArray[np.int64]:
        return x // size + (x - 1) // size

    pieces = bounds_up_to(last) - bounds_up_to(first) + 1
    # What is not there can be as large as the address space, and of it only the first
    # compound page is drawn.
    pieces = np.where(runs.kind == Kind.MAPPED, pieces, np.minimum(pieces, _HOLE_PIECES))
    owner = np.repeat(np.arange(len(pieces)), pieces)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
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
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """
    Find the frame that most tails of each compound page map; of equals, the first mapped.

    :return: compound pages in order, their frames, and the index (into
        ``tails``) of the first run that maps it
    """
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
    return candidate_compound[best], key_pfn[first][best], order[first][best]
