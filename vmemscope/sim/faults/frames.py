# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames behind the vmemmap: their reference counts, and what they are marked for."""

from __future__ import annotations

from typing import Literal

from .planted import Planted
from .planter import Planter
from .registry import Page, fault


def _change_refcount(p: Planter, at: Page, by: int) -> Planted:
    va = p.place(at).page_va
    pfn = p.frame_at(va)
    before = p.refcount(pfn)
    if before + by < 0:
        raise p.error(f"the reference count is {before} only")
    p.set_refcount(pfn, before + by)
    return p.planted_in_frame(va, pfn, expected=before, observed=before + by)


@fault("pgmap refcount-low")
def refcount_low(p: Planter, at: Page = Page(), by: int = 1) -> Planted:
    """A backing frame has fewer references than entries that map it: freed too early."""
    return _change_refcount(p, at, -by)


@fault("pgmap refcount-high")
def refcount_high(p: Planter, at: Page = Page(), by: int = 1) -> Planted:
    """A backing frame has more references than entries that map it: never freed."""
    return _change_refcount(p, at, by)


@fault("pgmap refcount-low", "pgmap frame-free")
def frame_freed(p: Planter, at: Page = Page()) -> Planted:
    """A backing frame is on the free list while it is mapped."""
    va = p.place(at).page_va
    pfn = p.frame(p.base_page(va))
    before = p.refcount(pfn)
    p.set_refcount(pfn, 0)
    p.free_page(pfn)
    return p.planted_in_frame(va, pfn, expected=before, observed=0)


@fault("pgmap frame-free")
def frame_free(p: Planter, at: Page = Page()) -> Planted:
    """A frame is marked as the buddy allocator's, its count as it was."""
    va = p.place(at).page_va
    pfn = p.frame_at(va)
    p.set_page_type(pfn, "buddy")
    return p.planted_in_frame(va, pfn)


def _marked(p: Planter, at: Page, use: str) -> Planted:
    """Mark a frame, by its page type where there is one for that, else by a flag."""
    va = p.place(at).page_va
    pfn = p.frame_at(va)
    if use in ("slab", "offline"):
        p.set_page_type(pfn, use)
    else:
        p.write(p.page_va(pfn), p.read(p.page_va(pfn)) | p.flag(use))
    return p.planted_in_frame(va, pfn, use=use)


@fault("pgmap frame-foreign")
def frame_foreign(
    p: Planter, at: Page = Page(), as_: Literal["slab", "lru", "head"] = "slab"
) -> Planted:
    """A frame is marked as somebody else's."""
    return _marked(p, at, as_)


@fault("pgmap frame-poisoned")
def frame_poisoned(
    p: Planter, at: Page = Page(), as_: Literal["hwpoison", "offline"] = "hwpoison"
) -> Planted:
    """The memory of a frame failed, or was taken away."""
    return _marked(p, at, as_)


@fault("pgmap frame-node")
def frame_node(p: Planter, at: Page = Page(), nid: int = 1) -> Planted:
    """A page of the vmemmap has a frame of another node: legitimate."""
    va = p.place(at).page_va
    pfn = p.private_copy(va, nid)
    old = p.remap(va, pfn)
    return p.planted(va, pfn, old_pfn=old, nid=p.nid(pfn))
