# SPDX-License-Identifier: LGPL-2.1-or-later
"""Contents of struct pages."""

from __future__ import annotations

import numpy as np

from ..addresses import STRUCT_PAGE_SIZE
from ..memmap import struct_pages_per_page
from .planter import PagemapPlanter, Place, Planted

__all__ = (
    "early_uninitialised",
    "head_flag_lost",
    "mask_missing",
    "page_refcount",
    "stray_head",
    "tail_written",
    "tail_wrong_head",
    "uninitialised",
    "wrong_order",
    "wrong_pgmap",
    "wrong_zone",
)


def _compound_word(p: PagemapPlanter) -> int:
    member = "compound_info" if p.memmap.has_mask else "compound_head"
    return p.kernel.layouts.offsetof("page", member)


def _tail(p: PagemapPlanter) -> tuple[Place, int]:
    place = p.compound()
    if not p.option("struct_page"):
        raise p.error("struct page 0 is the head")
    return place, p.kernel.addresses.page_to_pfn(place.va)


def tail_wrong_head(p: PagemapPlanter) -> Planted:
    """A tail page points to the head of the compound before or after."""
    place, pfn = _tail(p)
    per_compound = p.record.per_compound
    start, _ = p.range()
    head = (
        place.head_pfn - per_compound if place.head_pfn > start else place.head_pfn + per_compound
    )
    value = p.kernel.addresses.pfn_to_page(head) | 1
    p.memmap.poke(pfn, _compound_word(p), value)
    return p.planted(place.va, p.frame_at(place.va), head_pfn=place.head_pfn, wrong_head_pfn=head)


def mask_missing(p: PagemapPlanter) -> Planted:
    """A tail page holds nothing that leads to its head: it does not look like a tail."""
    place, pfn = _tail(p)
    offset = _compound_word(p)
    before = p.memmap.peek(pfn, offset)
    p.memmap.poke(pfn, offset, 0)
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=0)


def head_flag_lost(p: PagemapPlanter) -> Planted:
    """A compound's head has no PG_head: it was written over."""
    place = p.compound()
    words = p.memmap.words(place.head_pfn)
    words[0] &= ~np.uint64(p.memmap.flag("head"))
    return p.planted(place.va, p.frame_at(place.va))


def wrong_order(p: PagemapPlanter) -> Planted:
    """The order in the first tail page is not the pagemap's."""
    place = p.compound()
    layouts = p.kernel.layouts
    value = p.option("value")
    if layouts.has_member("folio", "_folio_order"):
        offset = layouts.offsetof("folio", "_folio_order") - STRUCT_PAGE_SIZE
        p.memmap.poke(place.head_pfn + 1, offset, value, 1)
    else:
        offset = layouts.offsetof("folio", "_flags_1") - STRUCT_PAGE_SIZE
        p.memmap.poke(place.head_pfn + 1, offset, value, 1)
    va = place.va + STRUCT_PAGE_SIZE
    return p.planted(va, p.frame_at(va), expected=p.record.vmemmap_shift, observed=value)


def wrong_pgmap(p: PagemapPlanter) -> Planted:
    """The back link of a head (or of a page that is in no compound) is not the pagemap."""
    place = p.place()
    pfn = p.kernel.addresses.page_to_pfn(place.va)
    value = p.record.pgmap.va + p.option("value")
    offset = p.kernel.layouts.offsetof("page", "zone_device_data") - 8
    p.memmap.poke(pfn, offset, value)
    return p.planted(place.va, p.frame_at(place.va), expected=p.record.pgmap.va, observed=value)


def early_uninitialised(p: PagemapPlanter) -> Planted:
    """
    Struct pages of a compound beyond the first 128 are as boot left them: what
    kernels before 6.1.184 and 6.12.97 do in a section with RAM.
    """
    place = p.compound()
    start = place.head_pfn + 2 * struct_pages_per_page
    count = p.record.per_compound - 2 * struct_pages_per_page
    nid = p.record.spec.nid
    pages = p.memmap.fresh(start, count, p.memmap.zone(start), nid)
    pages[:, 0] |= np.uint64(p.memmap.flag("reserved"))
    p.memmap.store(start, pages)
    va = p.kernel.addresses.pfn_to_page(start)
    return p.planted(va, p.frame_at(va), first_pfn=start, count=count)


def _struct_page(p: PagemapPlanter) -> tuple[Place, int]:
    place = p.place()
    return place, p.kernel.addresses.page_to_pfn(place.va)


def stray_head(p: PagemapPlanter) -> Planted:
    """A tail page, or a page that is in no compound, has PG_head."""
    place, pfn = _struct_page(p)
    if pfn == place.head_pfn and p.record.vmemmap_shift:
        raise p.error("struct page 0 is the head")
    p.memmap.words(pfn)[0] |= np.uint64(p.memmap.flag("head"))
    return p.planted(place.va, p.frame_at(place.va))


def tail_written(p: PagemapPlanter) -> Planted:
    """The mapping of a tail page that shares its frame was written to."""
    place, pfn = _tail(p)
    offset = p.kernel.layouts.offsetof("page", "mapping")
    before, value = p.memmap.peek(pfn, offset), p.option("value")
    p.memmap.poke(pfn, offset, value)
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=value)


def page_refcount(p: PagemapPlanter) -> Planted:
    """A struct page of the device has another reference count."""
    place, pfn = _struct_page(p)
    before, value = p.memmap.refcount(pfn), p.option("value")
    p.memmap.set_refcount(pfn, value)
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=value)


def wrong_zone(p: PagemapPlanter) -> Planted:
    """The flags of a struct page are those of another zone or node, or not reserved."""
    place, pfn = _struct_page(p)
    words = p.memmap.words(pfn)
    before = int(words[0])
    nid = p.record.spec.nid
    device = p.memmap.links("ZONE_DEVICE", nid)
    changed = {
        "zone": device ^ p.memmap.links("ZONE_NORMAL", nid),
        "node": device ^ p.memmap.links("ZONE_DEVICE", nid + 1),
        "reserved": p.memmap.flag("reserved"),
    }
    words[0] ^= np.uint64(changed[p.option("what")])
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=int(words[0]))


def uninitialised(p: PagemapPlanter) -> Planted:
    """Struct pages hold what was in their frame before they were initialised."""
    place, pfn = _struct_page(p)
    ones = p.option("pattern") == "ones"
    for number in range(pfn, pfn + p.option("count")):
        # PAGE_POISON_PATTERN, or a zeroed frame
        p.memmap.words(number)[:] = np.uint64((1 << 64) - 1 if ones else 0)
    return p.planted(place.va, p.frame_at(place.va), count=p.option("count"))
