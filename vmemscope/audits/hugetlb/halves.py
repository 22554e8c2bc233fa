# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Folios of which only some tail pages share the zone's frame.

The coming kernel leaves a folio so when it fails on the way, and can't go back either
(VMEMMAP_REMAP_INCOMPLETE): it says that the folio is optimized, and each tail page that does
not share has a frame of its own, which it can write to. Where nothing is read-only, only the
zone's frame tells the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...columns import numbered, select
from ...vmemmap.runs import runs_of
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...rules.hugetlb_folios import FolioFacts
    from ...vmemmap.folio_maps import FolioMaps
    from ...vmemmap.vmemmap import Vmemmap

__all__ = ("find_halves", "without_own_pages")

#: folios whose entries are walked for it
_MOST = 1 << 12


def find_halves(facts: FolioFacts, vmemmap: Vmemmap, limit: int) -> tuple[NDArray[np.int64], int]:
    """
    Find the folios that are half optimized.

    :param limit: first vpage after the vmemmap
    :return: of each, how many tail pages have frames of their own (int64), shape ``(n,)``, 0
        where all share or something else is wrong; and how many folios were not looked at
    """
    maps, found = facts.maps, np.zeros(len(facts.maps.first), dtype=np.int64)
    if not facts.scheme.halves:
        return found, 0
    apart = maps.writable > 0
    if not facts.geometry.arch.read_only:
        # Only the frames tell them apart.
        apart = maps.low != maps.high
    candidates = np.flatnonzero(facts.flagged & (maps.read_only > 0) & apart & facts.tail_known)
    own = {i: _own_frames(facts, i, vmemmap) for i in candidates[:_MOST].tolist()}
    own = {i: frames for i, frames in own.items() if len(frames)}
    if own:
        several = _mapped_again(np.unique(np.concatenate(list(own.values()))), vmemmap, limit)
        for i, frames in own.items():
            found[i] = 0 if np.isin(frames, several).any() else len(frames)
    return found, max(len(candidates) - _MOST, 0)


def without_own_pages(facts: FolioFacts, half: NDArray[np.int64]) -> FolioMaps:
    """
    Return how folios are mapped, with what the half optimized ones share.

    Where nothing is read-only, the walk counts all pages of such a folio as shared.

    :param half: what :func:`find_halves` found
    """
    maps = facts.maps
    if facts.geometry.arch.read_only or not half.any():
        return maps
    share = half > 0
    return maps._replace(
        read_only=maps.read_only - half,
        writable=maps.writable + half,
        low=np.where(share, facts.tail_pfn, maps.low),
        high=np.where(share, facts.tail_pfn, maps.high),
    )


def _own_frames(facts: FolioFacts, i: int, vmemmap: Vmemmap) -> NDArray[np.uint64]:
    """Return the frames of tail pages that do not share, none if any is not in use by one alone."""
    entries = facts.entries(i)
    tail = entries.kind == Kind.MAPPED
    tail &= entries.vpage >= int(facts.maps.first[i]) + facts.hstate(i).kept
    apart = entries.pfn != facts.tail_pfn[i]
    own = tail & (entries.writable if facts.geometry.arch.read_only else apart)
    frames = np.sort(entries.pfn[own])
    if (
        (tail & ~own & apart).any()
        or not (tail & ~own).any()
        or np.isin(frames, [facts.maps.head_pfn[i], facts.tail_pfn[i]]).any()
        or (frames[1:] == frames[:-1]).any()
        or not vmemmap.ram.contains(frames).all()
    ):
        return frames[:0]
    (counts, flags), readable = vmemmap.page_members(
        frames, vmemmap.refcount, (vmemmap.page.flags, vmemmap.word)
    )
    # As of heads (rule hugetlb-head-frame): what is from boot may have a second one.
    most = np.where(flags & np.uint64(vmemmap.page.pg_reserved), 2, 1)
    sound = ~readable | ((counts >= 1) & (counts <= most))
    return frames if sound.all() else frames[:0]


def _mapped_again(frames: NDArray[np.uint64], vmemmap: Vmemmap, limit: int) -> NDArray[np.uint64]:
    """
    Return which frames more than one page of the vmemmap maps.

    :param frames: in order, none twice
    """
    entries, start = np.zeros(len(frames), dtype=np.int64), vmemmap.geometry.start
    for leaves in vmemmap.leaves(start, limit):
        runs = runs_of(leaves, vmemmap.geometry, start, limit)
        runs = select(runs, runs.kind == Kind.MAPPED)
        large = runs.order > 0
        span = np.where(large, runs.length, 1).astype(np.uint64)
        low = np.searchsorted(frames, runs.pfn)
        which, nth = numbered(np.searchsorted(frames, runs.pfn + span) - low)
        np.add.at(entries, low[which] + nth, np.where(large, 1, runs.length)[which])
    return frames[entries > 1]
