# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames behind the vmemmap: their reference counts, and what they are marked for."""

from __future__ import annotations

import numpy as np

from ..pagetable import frame
from .planter import PagemapPlanter, Planted

__all__ = (
    "frame_foreign",
    "frame_free",
    "frame_freed",
    "frame_node",
    "frame_poisoned",
    "refcount_high",
    "refcount_low",
)


def _change_refcount(p: PagemapPlanter, by: int) -> Planted:
    va = p.place().page_va
    pfn = p.frame_at(va)
    before = p.memmap.refcount(pfn)
    if before + by < 0:
        raise p.error(f"the reference count is {before} only")
    p.memmap.set_refcount(pfn, before + by)
    return p.planted(va, pfn, expected=before, observed=before + by)


def refcount_low(p: PagemapPlanter) -> Planted:
    """A backing frame has fewer references than entries that map it: freed too early."""
    return _change_refcount(p, -p.option("by"))


def refcount_high(p: PagemapPlanter) -> Planted:
    """A backing frame has more references than entries that map it: never freed."""
    return _change_refcount(p, p.option("by"))


def frame_freed(p: PagemapPlanter) -> Planted:
    """A backing frame is on the free list while it is mapped."""
    va = p.place().page_va
    pfn = frame(p.base_page(va))
    before = p.memmap.refcount(pfn)
    p.memmap.set_refcount(pfn, 0)
    p.kernel.pages.free_page(pfn)
    return p.planted(va, pfn, expected=before, observed=0)


def frame_free(p: PagemapPlanter) -> Planted:
    """A frame is marked as the buddy allocator's, its count as it was."""
    va = p.place().page_va
    pfn = p.frame_at(va)
    p.memmap.set_page_type(pfn, "buddy")
    return p.planted(va, pfn)


def _marked(p: PagemapPlanter) -> Planted:
    """Mark a frame, by its page type where there is one for that, else by a flag."""
    va = p.place().page_va
    pfn = p.frame_at(va)
    use = p.option("as")
    if use in ("slab", "offline"):
        p.memmap.set_page_type(pfn, use)
    else:
        p.memmap.words(pfn)[0] |= np.uint64(p.memmap.flag(use))
    return p.planted(va, pfn, use=use)


def frame_foreign(p: PagemapPlanter) -> Planted:
    """A frame is marked as somebody else's."""
    return _marked(p)


def frame_poisoned(p: PagemapPlanter) -> Planted:
    """The memory of a frame failed, or was taken away."""
    return _marked(p)


def frame_node(p: PagemapPlanter) -> Planted:
    """A page of the vmemmap has a frame of another node: legitimate."""
    va = p.place().page_va
    pfn = p.kernel.pages.alloc_page(p.option("nid"))
    p.kernel.physical.page(pfn)[:] = p.kernel.physical.page(p.frame_at(va))
    # Allocated for this entry, so the reference is there already.
    p.memmap.set_refcount(pfn, 0)
    old = p.remap(va, pfn)
    return p.planted(va, pfn, old_pfn=old, nid=p.memmap.nid(pfn))
