# SPDX-License-Identifier: LGPL-2.1-or-later
"""Contents of a pagemap's ``struct page``s."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "head-flag",
        Severity.ERROR,
        "the head of a compound page has PG_head and is no tail",
        "mm/page_alloc.c: prep_compound_page(), memmap_init_compound()",
        since="5.17",
        meaning="The first struct page of a compound page does not look like a head: PG_head is"
        " clear, or the page says that it is a tail. page_folio() and compound_order() then treat"
        " 2 MiB or 1 GiB as one base page; faults and reference counts go to the wrong page.",
        look_at="Which other rules fail for it: with frame-shared, it was overwritten by tail"
        " pages; alone, the flags word was. Uninitialised struct pages (all ones, or all zeros)"
        " point to memmap_init_zone_device() not having come that far.",
    ),
    Rule(
        "compound-head",
        Severity.ERROR,
        "tail pages resolve to the head of their compound page",
        "include/linux/page-flags.h: compound_head()",
        since="5.17",
        meaning="compound_head() of a tail page leads to a page that is not its head. Whoever"
        " reaches the page by its frame number (get_user_pages(), memory failure, O_DIRECT) counts"
        " its reference on another page, maybe of another device: that one may be freed while in"
        " use, this one never.",
        look_at="What the wrong head is: the same for all tail pages and aligned below the right"
        " one is the mask of 7.1+ on an unaligned device (rule mask-alignment); that of a"
        " neighbour points to a shared frame; zeros or stale contents to tail pages that were"
        " never initialised (sections that were there at boot, before 6.1.184, 6.12.97 and 7.2).",
    ),
    Rule(
        "compound-order",
        Severity.ERROR,
        "a compound page's order is the pagemap's vmemmap_shift",
        "mm/mm_init.c: memmap_init_compound(), prep_compound_head()",
        since="5.17",
        meaning="The order in the first tail page is not that of the pagemap's compound pages:"
        " compound_nr() is wrong, and whoever walks or splits the folio runs over its end or stops"
        " short.",
        look_at="Whether the first tail page was overwritten as a whole (compare it with another"
        " compound page's), or whether the pagemap's vmemmap_shift changed.",
    ),
    Rule(
        "pgmap-link",
        Severity.ERROR,
        "heads of compound pages, and base pages, point back to their pagemap",
        "mm/mm_init.c: __init_zone_device_page()",
        meaning="A page of the device does not point to its pagemap (page->pgmap; folio->pgmap"
        " since 6.15): freeing the page calls another pagemap's ops and drops another's reference,"
        " or follows a pointer to freed memory. Of compound pages only the head has the pointer;"
        " nor do the pages that an altmap takes have it, nor the tails of folios that a driver"
        " made of base pages.",
        look_at="What the pointer is: another pagemap's address (a shared frame, or a stale memory"
        " map of a device that was there before), or no pointer at all (the word is shared with"
        " lru and compound_head: was the page taken for an ordinary one?).",
    ),
    Rule(
        "stray-head",
        Severity.ERROR,
        "PG_head is set in the heads of compound pages and nowhere else",
        "mm/mm_init.c: memmap_init_compound(), prep_compound_tail()",
        meaning="A tail page, or a base page, has PG_head: page_folio() and PageHead() take it for"
        " a compound page of its own, of whatever order the next struct page happens to hold."
        " Reference counts and mappings then go to the wrong page. Tail pages that look like heads"
        " are usual for HugeTLB's optimization from 5.18 to 7.0, never for a device's. Folios that"
        " drivers make of base pages (fsdax since 6.15, device-private memory) are not asked"
        " about.",
        look_at="Whether the whole struct page is a head's (pagemap pointer, reference count: a"
        " head was written to the wrong frame, rule frame-shared) or only the bit is set. With"
        " tail pages that share a frame, every tail page of the compound page shows it.",
    ),
    Rule(
        "tail-contents",
        Severity.ERROR,
        "all tail pages of a compound page that share a frame are alike, but for the first few",
        "mm/mm_init.c: memmap_init_compound(), compound_nr_pages()",
        since="5.19",
        archs=("x86_64", "riscv64"),
        meaning="The struct pages in the frame that tail pages share were written once and are"
        " never written again: whatever is done to a compound page is done to its head and the"
        " first tail pages, which have a frame of their own. One that differs was written to,"
        " through an entry that should not have been written through, or by somebody who took the"
        " frame for his own; what was meant for one page shows in all that share the frame.",
        look_at="Which word differs: a counter or a mapping is somebody who takes a tail page for a"
        " page of its own (a missing compound_head()); a list or data of another kind point to the"
        " frame being used for something else (rule refcount-low).",
    ),
    Rule(
        "page-refcount",
        Severity.ERROR,
        "tail pages have no references, other pages no fewer than when nobody uses them",
        "mm/memremap.c: free_zone_device_folio(), mm/mm_init.c: __init_zone_device_page()",
        meaning="References are counted on the head. One on a tail page was taken without"
        " compound_head(), and whoever drops it with it takes one too many from the head. A page"
        " with fewer than when it is idle (1 for device-dax, and for fsdax before 6.15; 0 for"
        " memory that its driver hands out) was put once too often: it counts as free while"
        " somebody uses it. More than that is a page in use, and nothing wrong.",
        look_at="Who uses the device (mappings, get_user_pages(), O_DIRECT, RDMA) and whether the"
        " count of the head is off by as much the other way.",
    ),
    Rule(
        "page-zone",
        Severity.ERROR,
        "the pages of a device are marked as in ZONE_DEVICE, all on one node, and as reserved",
        "mm/mm_init.c: memmap_init_zone_device(), __init_zone_device_page()",
        meaning="page->flags do not say that the page is device memory. page_zone() and"
        " page_to_nid() lead to another zone: compaction, page walkers and memory failure handling"
        " take the page for RAM; without PG_reserved the page allocator may, too. In another zone"
        " it was never initialised for the device, and nothing more is asked of it.",
        look_at="Whether it is single pages (a write to their flags), or all from the 129th of a"
        " compound page on: in a section that was there at boot, kernels before 6.1.184, 6.12.97"
        " and 7.2 initialise the first 128 only.",
    ),
    Rule(
        "page-uninitialised",
        Severity.ERROR,
        "the struct pages of device memory were initialised",
        "mm/mm_init.c: memmap_init_zone_device(); mm/page_alloc.c: page_init_poison()",
        meaning="A struct page is all zeros, as its memory came from the page allocator, or all"
        " ones (PAGE_POISON_PATTERN), as debugging kernels leave what nobody has initialised yet."
        " pfn_valid() lets page walkers at it: all ones trips VM_BUG_ON_PGFLAGS() or leads to a"
        " zone and a node that there are not, zeros look like a page of node 0 that is free."
        " Nothing more is asked of it.",
        look_at="How many there are and where they begin: from some page on to the end is an"
        " initialisation that did not finish, or has not yet (a device that is coming); the 129th"
        " of each compound page on is the bug with sections that were there at boot (rule"
        " page-zone); a single frame was overwritten, or lost what was in it.",
    ),
)
