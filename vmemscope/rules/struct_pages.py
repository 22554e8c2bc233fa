# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the ``struct page``s of device memory: compound pages, base pages, altmap.

Each finds violations in pages of the vmemmap (:class:`~.page_rows.StructPages`);
:mod:`.page_violations` reports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .page_rows import PageKind, StructPages, is_blank, refcounts, resolve_heads
from .page_violations import Affected, PageRule, WrongPages, page_rule
from .rule import Severity, Skip
from .words import agree, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = (
    "ALTMAP_RULES",
    "BASE_RULES",
    "COMPOUND_RULES",
    "RULES_BY_KIND",
    "compound_head",
    "compound_order",
    "head_flag",
    "page_refcount",
    "page_uninitialised",
    "page_zone",
    "pgmap_link",
    "stray_head",
    "tail_contents",
)


@page_rule(
    "head-flag",
    Severity.ERROR,
    holds="the head of a compound page has PG_head and is no tail",
    source="mm/page_alloc.c: prep_compound_page(), memmap_init_compound()",
    since="5.17",
    meaning="The first struct page of a compound page is not marked as a head: PG_head is"
    " clear, or the page says that it is a tail. page_folio() and compound_order() then treat"
    " 2 MiB or 1 GiB as one base page; faults and reference counts go to the wrong page.",
    look_at="Which other rules fail for it: with frame-shared, it was overwritten by tail"
    " pages; alone, the flags word was. Uninitialised struct pages (all ones, or all zeros)"
    " point to memmap_init_zone_device() not having come that far.",
)
def head_flag(pages: StructPages) -> WrongPages:
    compound = pages.expected.page.compound
    return WrongPages(
        pages.no_head,
        lambda one: f"{one.name} is no head page",
        expected="PG_head set, no tail",
        observed=lambda one: f"flags {one.flags:#x}, compound word {one.word(compound):#x}",
    )


@page_rule(
    "compound-head",
    Severity.ERROR,
    holds="tail pages resolve to the head of their compound page",
    source="include/linux/page-flags.h: compound_head()",
    since="5.17",
    meaning="compound_head() of a tail page leads to a page that is not its head. Code that"
    " reaches the page by its pfn (get_user_pages(), memory failure, O_DIRECT) counts its"
    " reference on another page, maybe of another device: that one may be freed while in use,"
    " this one never.",
    look_at="What the wrong head is: the same for all tail pages and aligned below the right"
    " one is the mask of 7.1+ on an unaligned device (rule mask-alignment); that of a"
    " neighbour points to a shared frame; zeros or stale contents to tail pages that were"
    " never initialised (sections that were there at boot, before 6.1.184, 6.12.97 and 7.2).",
)
def compound_head(pages: StructPages) -> Iterator[WrongPages]:
    rows, expected = pages.rows, pages.expected
    address, goal = expected.addresses(pages.pfn), expected.addresses(rows.head)[:, None]
    wrong = pages.tail & (resolve_heads(pages.compound, address) != goal)
    if expected.per_zone:
        # What compound pages share may be right for one, and wrong for the next that shows it.
        lone = ((rows.first != rows.head) & rows.shared)[:, None]
        mask = np.uint64(-(expected.page.size << expected.order) & (1 << 64) - 1 | 1)
        wrong = np.where(lone, pages.tail & (pages.compound != mask), wrong)
    yield _to_wrong_head(wrong, None)
    moved = rows.last - rows.first
    if moved.any():
        # The same struct pages at the last address that maps them.
        address = address + (moved.astype(np.uint64) * np.uint64(expected.page.size))[:, None]
        wrong = pages.tail & ~wrong & (moved != 0)[:, None]
        wrong &= resolve_heads(pages.compound, address) != goal
        yield _to_wrong_head(wrong, moved)


def _to_wrong_head(where: NDArray[np.bool_], moved: NDArray[np.int64] | None) -> WrongPages:
    return WrongPages(
        where,
        lambda one: (
            f"{part(one.wrong, one.tails, 'tail pages')} checked in {one.name}"
            + (
                f" {agree(one.wrong, 'has', 'have')} the mask of another order"
                if _head_of(one) == one.expected.geometry.page_address(one.head)
                else f" {agree(one.wrong, 'resolves', 'resolve')} to a wrong head"
            )
        ),
        expected=lambda one: f"{one.expected.geometry.page_address(one.head):#x}",
        observed=lambda one: (
            f"{_head_of(one):#x}"
            if _head_of(one) != one.expected.geometry.page_address(one.head)
            else f"a mask of {one.word(one.expected.page.compound):#x}"
        ),
        moved=moved,
    )


def _head_of(one: Affected) -> int:
    """Return the virtual address that the first wrong tail page resolves to."""
    at = np.array([one.expected.geometry.page_address(one.pfn)], dtype=np.uint64)
    return int(resolve_heads(one.words[None, one.expected.page.compound // 8], at)[0])


@page_rule(
    "compound-order",
    Severity.ERROR,
    holds="a compound page's order is the pagemap's vmemmap_shift",
    source="mm/mm_init.c: memmap_init_compound(), prep_compound_head()",
    since="5.17",
    meaning="The order in the first tail page is not that of the pagemap's compound pages:"
    " compound_nr() is wrong, and code that walks or splits the folio runs over its end or"
    " stops short.",
    look_at="Whether the first tail page was overwritten as a whole (compare it with another"
    " compound page's), or whether the pagemap's vmemmap_shift changed.",
)
def compound_order(pages: StructPages) -> WrongPages:
    # Only in rows with a head: other pages have no order.
    led = ~pages.no_head.any(axis=1, keepdims=True)
    at = pages.expected.page.order
    return WrongPages(
        pages.second & led & (pages.order != np.uint64(pages.expected.order)),
        lambda one: f"{one.name} has a wrong order",
        expected=pages.expected.order,
        observed=lambda one: one.word(at) >> one.expected.page.shift(at, 1) & 0xFF,
    )


@page_rule(
    "pgmap-link",
    Severity.ERROR,
    holds="heads of compound pages, and base pages, point back to their pagemap",
    source="mm/mm_init.c: __init_zone_device_page()",
    meaning="A page of the device does not point to its pagemap (page->pgmap; folio->pgmap"
    " since 6.15): freeing the page calls another pagemap's ops and drops another's reference,"
    " or follows a pointer to freed memory. Of compound pages only the head has the pointer;"
    " nor do the pages that an altmap takes have it, nor the tails of folios that a driver"
    " made of base pages.",
    look_at="What the pointer is: another pagemap's address (a shared frame, or a stale memory"
    " map of a device that was there before), or no pointer at all (the word is shared with"
    " lru and compound_head: was the page taken for an ordinary one?).",
)
def pgmap_link(pages: StructPages) -> WrongPages:
    page, pagemap = pages.expected.page, pages.expected.pagemap.address
    wrong = pages.head & (pages.pgmap != np.uint64(pagemap))
    if pages.kind is PageKind.COMPOUND:
        wrong &= ~pages.no_head
    return WrongPages(
        wrong,
        _no_link,
        expected=f"{pagemap:#x}",
        observed=lambda one: f"{one.word(page.pgmap):#x}",
    )


def _no_link(one: Affected) -> str:
    if one.kind is PageKind.COMPOUND:
        return f"{one.name} does not point back to its pagemap"
    return one.pages_that(
        "does not point back to its pagemap", "do not point back to their pagemap"
    )


@page_rule(
    "stray-head",
    Severity.ERROR,
    holds="PG_head is set in the heads of compound pages and nowhere else",
    source="mm/mm_init.c: memmap_init_compound(), prep_compound_tail()",
    meaning="A tail page, or a base page, has PG_head: page_folio() and PageHead() take it for"
    " a compound page of its own, of whatever order the next struct page happens to hold."
    " Reference counts and mappings then go to the wrong page. Tail pages that look like heads"
    " are usual for HugeTLB's optimization from 5.18 to 7.0, never for a device's. Folios that"
    " drivers make of base pages (fsdax since 6.15, device-private memory) are not checked.",
    look_at="Whether the whole struct page is a head's (pagemap pointer, reference count: a"
    " head was written to the wrong frame, rule frame-shared) or only the bit is set. With"
    " tail pages that share a frame, every tail page of the compound page shows it.",
)
def stray_head(pages: StructPages) -> WrongPages | Skip:
    page = pages.expected.page
    wrong = pages.says_head & pages.own
    if pages.kind is PageKind.COMPOUND:
        wrong &= pages.tail
        if page.order_in_flags and page.pg_head <= 0xFF:
            # The order is in the same byte, and taken for no flag.
            wrong &= ~pages.second
    elif pages.expected.folios:
        return Skip("its driver makes folios of base pages")
    return WrongPages(
        wrong,
        lambda one: one.pages_that("has PG_head, but is no head", "have PG_head, but are no heads"),
        observed=lambda one: f"{one.flags:#x}",
    )


@page_rule(
    "tail-contents",
    Severity.ERROR,
    holds="all tail pages of a compound page that share a frame are alike, but for the first few",
    source="mm/mm_init.c: memmap_init_compound(), compound_nr_pages()",
    since="5.19",
    archs=("x86_64", "riscv64", "ppc64le"),
    meaning="The struct pages in the frame that tail pages share were written once and are"
    " never written again: whatever is done to a compound page is done to its head and the"
    " first tail pages, which have a frame of their own. One that differs was written to, through"
    " a wrong entry, or by code that took the frame for another; a write to one page shows in"
    " all that share the frame.",
    look_at="Which word differs: a counter or a mapping means that code takes a tail page for a"
    " page of its own (a missing compound_head()); a list or data of another kind point to the"
    " frame being used for something else (rule refcount-low).",
)
def tail_contents(pages: StructPages) -> WrongPages:
    rows, usual = pages.rows, pages.usual
    tails = pages.own & (pages.pfn >= rows.head[:, None] + pages.plain) & rows.shared[:, None]
    differs = ((pages.words ^ usual[:, None]) & pages.expected.mask_alike()).any(axis=2)
    return WrongPages(
        tails & differs & ~is_blank(usual)[:, None],
        lambda one: one.pages_that(
            "is not like the other tail pages", "are not like the other tail pages"
        ),
        observed=lambda one: " ".join(f"{word:x}" for word in one.words.tolist()),
    )


@page_rule(
    "page-refcount",
    Severity.ERROR,
    holds="tail pages have no references, other pages no fewer than when they are idle",
    source="mm/memremap.c: free_zone_device_folio(), mm/mm_init.c: __init_zone_device_page()",
    meaning="References are counted on the head. One on a tail page was taken without"
    " compound_head(); dropped through compound_head(), it is one too many dropped from the"
    " head. A page with fewer than when it is idle (1 for device-dax, and for fsdax before"
    " 6.15; 0 for memory that its driver hands out) was put once too often: it counts as free"
    " while it is in use. A higher count is a page in use, and nothing is wrong.",
    look_at="Who uses the device (mappings, get_user_pages(), O_DIRECT, RDMA) and whether the"
    " count of the head is wrong by as much the other way.",
)
def page_refcount(pages: StructPages) -> WrongPages:
    low = pages.own & (pages.refcounts < np.where(pages.tail, 0, pages.idle))
    if pages.kind is PageKind.COMPOUND:
        low |= pages.tail & (pages.refcounts != 0)
    idle = pages.idle
    return WrongPages(
        low,
        lambda one: (
            one.pages_that("is a tail with references", "are tails with references")
            if _is_tail(one)
            else one.pages_that(
                "has a reference count lower than when idle",
                "have reference counts lower than when idle",
            )
        ),
        expected=lambda one: 0 if _is_tail(one) else f"at least {idle}",
        observed=lambda one: int(refcounts(one.words, one.expected.page)),
    )


def _is_tail(one: Affected) -> bool:
    return one.kind is PageKind.COMPOUND and one.pfn != one.head


@page_rule(
    "page-zone",
    Severity.ERROR,
    holds="the pages of a device are marked as in ZONE_DEVICE, all on one node, and as reserved",
    source="mm/mm_init.c: memmap_init_zone_device(), __init_zone_device_page()",
    meaning="page->flags do not say that the page is device memory. page_zone() and"
    " page_to_nid() lead to another zone: compaction, page walkers and memory failure handling"
    " take the page for RAM; without PG_reserved the page allocator may, too. In another zone"
    " it was never initialised for the device, and is not checked any further.",
    look_at="Whether it is single pages (a write to their flags), or all from the 129th of a"
    " compound page on: in a section that was there at boot, kernels before 6.1.184, 6.12.97"
    " and 7.2 initialise the first 128 only.",
)
def page_zone(pages: StructPages) -> WrongPages | Skip:
    expected = pages.expected
    if not expected.place[0]:
        return Skip("it is not known where the zone is in page flags")
    reserved = (pages.flags & np.uint64(expected.page.pg_reserved)) != 0
    return WrongPages(
        pages.misplaced | (pages.asked & ~pages.blank & ~reserved),
        lambda one: one.pages_that(
            "is not marked as the device's", "are not marked as the device's"
        ),
        expected=_device_place,
        observed=_place,
    )


def _device_place(one: Affected) -> str:
    node = "" if one.expected.nid is None else f", node {one.expected.nid}"
    return f"zone Device{node}, reserved"


def _place(one: Affected) -> str:
    """Return zone, node and PG_reserved of the first wrong ``struct page``, in words."""
    layout = one.expected.flags
    decoded = layout.decode(one.flags) if layout is not None else None
    zone = decoded.zone_name or decoded.zone if decoded is not None else "?"
    nid = decoded.nid if decoded is not None else None
    reserved = "reserved" if one.flags & one.expected.page.pg_reserved else "not reserved"
    return f"zone {zone}, node {nid}, {reserved}"


@page_rule(
    "page-uninitialised",
    Severity.ERROR,
    holds="the struct pages of device memory were initialised",
    source="mm/mm_init.c: memmap_init_zone_device(); mm/page_alloc.c: page_init_poison()",
    meaning="A struct page is all zeros, as its memory came from the page allocator, or all"
    " ones (PAGE_POISON_PATTERN), as debugging kernels leave uninitialised memory."
    " pfn_valid() lets page walkers at it: all ones trips VM_BUG_ON_PGFLAGS() or leads to a"
    " zone and a node that do not exist, zeros look like a free page of node 0. It is not"
    " checked any further.",
    look_at="How many there are and where they begin: from some page on to the end is an"
    " initialisation that did not finish, or has not yet (a device that is coming); the 129th"
    " of each compound page on is the bug with sections that were there at boot (rule"
    " page-zone); a single frame was overwritten, or lost what was in it.",
)
def page_uninitialised(pages: StructPages) -> WrongPages:
    return WrongPages(
        pages.blank,
        lambda one: one.pages_that("was never initialised", "were never initialised"),
        observed=lambda one: f"all {'ones' if one.word(0) else 'zeros'}",
    )


#: rules about the pages of compound pages, about base pages, about the frames of an altmap
COMPOUND_RULES: tuple[PageRule, ...] = (
    page_uninitialised, page_zone, head_flag, pgmap_link, compound_order, stray_head,
    compound_head, page_refcount, tail_contents,
)  # fmt: skip
BASE_RULES = (page_uninitialised, page_zone, page_refcount, pgmap_link, stray_head)
ALTMAP_RULES = (page_uninitialised, page_zone, page_refcount)
RULES_BY_KIND = {
    PageKind.COMPOUND: COMPOUND_RULES,
    PageKind.BASE: BASE_RULES,
    PageKind.ALTMAP: ALTMAP_RULES,
}
