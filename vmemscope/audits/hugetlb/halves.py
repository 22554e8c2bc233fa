# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Folios of which only some tail pages share the zone's frame.

The coming kernel leaves a folio so when it runs out of memory on the way, and can't go back
either (VMEMMAP_REMAP_INCOMPLETE): it says that the folio is optimized, and each tail page that
does not share has a frame of its own, which it can write to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...rules.hugetlb import FolioFacts
    from ...vmemmap.vmemmap import Vmemmap

__all__ = ("find_halves",)

#: folios whose entries are walked for it
_MOST = 1 << 12


def find_halves(facts: FolioFacts, vmemmap: Vmemmap) -> tuple[NDArray[np.int64], int]:
    """
    Find the folios that are half optimized.

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
    for i in candidates[:_MOST].tolist():
        found[i] = _own_pages(facts, i, vmemmap)
    return found, max(len(candidates) - _MOST, 0)


def _own_pages(facts: FolioFacts, i: int, vmemmap: Vmemmap) -> int:
    """Count tail pages that do not share, 0 if any of them has not a frame of its own, in use."""
    entries = facts.entries(i)
    tail = entries.kind == Kind.MAPPED
    tail &= entries.vpage >= int(facts.maps.first[i]) + facts.hstate(i).kept
    apart = entries.pfn != facts.tail_pfn[i]
    own = tail & (entries.writable if facts.geometry.arch.read_only else apart)
    frames = np.sort(entries.pfn[own])
    if (
        (tail & ~own & apart).any()
        or np.isin(frames, [facts.maps.head_pfn[i], facts.tail_pfn[i]]).any()
        or (frames[1:] == frames[:-1]).any()
        or not vmemmap.ram.contains(frames).all()
    ):
        return 0
    counts, readable = vmemmap.refcounts(frames)
    return len(frames) if (counts[readable] == 1).all() else 0
