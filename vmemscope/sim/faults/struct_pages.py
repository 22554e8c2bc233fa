# SPDX-License-Identifier: LGPL-2.1-or-later
"""Contents of struct pages."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..addresses import STRUCT_PAGE_SIZE
from ..memmap import NODES_PGSHIFT, ZONES_PGSHIFT
from .planted import Place, Planted
from .planter import Planter
from .registry import Compound, StructPage, fault
from .simulated import SimPlanter


def _changed(p: Planter, va: int, at: int, value: int, size: int = 8) -> Planted:
    """Write to a struct page whose address is ``va``."""
    before = p.read(at, size)
    p.write(at, value, size)
    return p.planted_in_frame(va, p.frame_at(va), expected=before, observed=p.read(at, size))


def _compound_word(p: Planter) -> int:
    member = "compound_info" if p.has_member("page", "compound_info") else "compound_head"
    return p.offset("page", member)


@fault("pgmap compound-head")
def tail_wrong_head(p: Planter, at: StructPage = StructPage(struct_page=5)) -> Planted:
    """A tail page points to the head of the compound before or after."""
    place = p.tail(at)
    per_compound = p.record.per_compound
    start, _ = p.pfns(at.range)
    head = (
        place.head_pfn - per_compound if place.head_pfn > start else place.head_pfn + per_compound
    )
    return _changed(p, place.va, place.va + _compound_word(p), p.page_va(head) | 1)


@fault("pgmap compound-head", kernels=("7.2", "next"))
def mask_missing(p: Planter, at: StructPage = StructPage(struct_page=5)) -> Planted:
    """A tail page holds nothing that leads to its head: it does not look like a tail."""
    va = p.tail(at).va
    return _changed(p, va, va + _compound_word(p), 0)


@fault("pgmap head-flag")
def head_flag_lost(p: Planter, at: Compound = Compound()) -> Planted:
    """A compound's head has no PG_head: it was written over."""
    va = p.compound(at).va
    return _changed(p, va, va, p.read(va) & ~p.flag("head"))


@fault("pgmap compound-order")
def wrong_order(p: Planter, at: Compound = Compound(), value: int = 1) -> Planted:
    """The order in the first tail page is not the pagemap's."""
    va = p.compound(at).va
    tail = va + STRUCT_PAGE_SIZE
    if p.has_member("folio", "_folio_order"):
        return _changed(p, tail, va + p.offset("folio", "_folio_order"), value, 1)
    # In the low byte of a word.
    flags = va + p.offset("folio", "_flags_1")
    before = p.read(flags)
    p.write(flags, before & ~0xFF | value)
    return p.planted(tail, p.frame_at(tail), expected=before & 0xFF, observed=value)


@fault("pgmap pgmap-link")
def wrong_pgmap(p: Planter, at: StructPage = StructPage(), value: int = 0x10) -> Planted:
    """The back link of a head (or of a page that is in no compound) is not the pagemap."""
    va = p.place(at).va
    offset = p.offset("page", "zone_device_data") - 8
    return _changed(p, va, va + offset, p.record.va + value)


def _beyond_shared(p: SimPlanter, compound: Place) -> tuple[int, int]:
    """Return the first page frame, and how many, beyond those whose frames are not shared."""
    count = p.record.per_compound - 2 * p.per_page
    if count <= 0:
        raise p.error(f"{p.record.name} has no such compound pages")
    return compound.head_pfn + 2 * p.per_page, count


@fault("pgmap page-zone")
def early_uninitialised(p: SimPlanter, at: Compound = Compound()) -> Planted:
    """
    Struct pages of a compound beyond the first 128 are as boot left them: what
    kernels before 6.1.184 and 6.12.97 do in a section with RAM.
    """
    start, count = _beyond_shared(p, p.compound(at))
    pages = p.memmap.fresh(start, count, p.memmap.zone(start), p.record.nid)
    pages[:, 0] |= np.uint64(p.memmap.flag("reserved"))
    p.memmap.store(start, pages)
    va = p.page_va(start)
    return p.planted(va, p.frame_at(va), first_pfn=start, count=count)


@fault("pgmap compound-head", "pgmap page-refcount")
def early_stale(p: SimPlanter, at: Compound = Compound()) -> Planted:
    """
    Struct pages of a compound beyond the first 128 are as a pagemap of base pages left
    them, which was there before: what those kernels do in a section with RAM.
    """
    compound = p.compound(at)
    start, count = _beyond_shared(p, compound)
    pages = p.memmap.fresh(start, count, p.memmap.zone(start), p.record.nid)
    pages[:, 0] = np.uint64(p.read(compound.va) & ~p.flag("head"))
    pages[:, 1] = np.uint64(p.record.va + 0x1000)
    p.memmap.store(start, pages)
    va = p.page_va(start)
    return p.planted(va, p.frame_at(va), first_pfn=start, count=count)


@fault("pgmap stray-head")
def stray_head(p: Planter, at: StructPage = StructPage(struct_page=5)) -> Planted:
    """A tail page, or a page that is in no compound, has PG_head."""
    place = p.place(at)
    if place.pfn == place.head_pfn and p.record.vmemmap_shift:
        raise p.error("struct page 0 is the head")
    return _changed(p, place.va, place.va, p.read(place.va) | p.flag("head"))


@fault("pgmap tail-contents")
def tail_written(
    p: Planter, at: StructPage = StructPage(struct_page=70), value: int = 0x1000
) -> Planted:
    """The mapping of a tail page that shares its frame was written to."""
    va = p.tail(at).va
    return _changed(p, va, va + p.offset("page", "mapping"), value)


@fault("pgmap page-refcount")
def page_refcount(p: Planter, at: StructPage = StructPage(), value: int = 1) -> Planted:
    """A struct page of the device has another reference count."""
    va = p.place(at).va
    return _changed(p, va, va + p.offset("page", "_refcount"), value, 4)


@fault("pgmap page-zone")
def wrong_zone(
    p: Planter,
    at: StructPage = StructPage(),
    what: Literal["zone", "node", "reserved"] = "zone",
) -> Planted:
    """The flags of a struct page are those of another zone or node, or not reserved."""
    va = p.place(at).va
    if what == "reserved":
        change = p.flag("reserved")
    elif what == "zone":
        change = (p.constant("ZONE_DEVICE") ^ p.constant("ZONE_NORMAL")) << ZONES_PGSHIFT
    else:
        change = (p.record.nid ^ p.record.nid + 1) << NODES_PGSHIFT
    return _changed(p, va, va, p.read(va) ^ change)


@fault("pgmap page-uninitialised")
def uninitialised(
    p: Planter,
    at: StructPage = StructPage(),
    count: int = 1,
    pattern: Literal["ones", "zeros"] = "ones",
) -> Planted:
    """Struct pages hold what was in their frame before they were initialised."""
    place = p.place(at)
    # PAGE_POISON_PATTERN, or a zeroed frame
    data = b"\xff" if pattern == "ones" else b"\0"
    for pfn in range(place.pfn, place.pfn + count):
        p.write(p.page_va(pfn), int.from_bytes(data * STRUCT_PAGE_SIZE, "little"), STRUCT_PAGE_SIZE)
    return p.planted_in_frame(place.va, p.frame_at(place.va), count=count)
