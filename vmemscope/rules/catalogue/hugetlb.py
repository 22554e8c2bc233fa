# SPDX-License-Identifier: LGPL-2.1-or-later
"""HugeTLB's folios, and what its vmemmap optimization makes of their vmemmap."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Scope, Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "hugetlb-list",
        Severity.ERROR,
        "the lists of a size of huge pages can be followed, and hold heads of its folios",
        "mm/hugetlb.c: enqueue_hugetlb_folio(), __prep_new_hugetlb_folio()",
        scope=Scope.HUGETLB,
        meaning="A list of HugeTLB folios leads to something that is no HugeTLB folio of its size,"
        " to one twice, or nowhere. The next allocation from the pool takes what is there for a"
        " huge page, and hands out memory that is somebody else's.",
        look_at="The struct page at the address: all of it overwritten (then by whom: an optimized"
        " folio whose vmemmap was restored wrongly has tail pages where its head should be), or"
        " one word.",
    ),
    Rule(
        "hugetlb-count",
        Severity.WARNING,
        "as many folios are on the lists of free ones as the kernel counts, and no more in all",
        "mm/hugetlb.c: add_hugetlb_folio(), remove_hugetlb_folio()",
        scope=Scope.HUGETLB,
        meaning="What /sys/kernel/mm/hugepages says of the pool is not what is in it. With more"
        " counted than there are, an allocation that counts on a free folio finds none.",
        look_at="Whether the pool is being resized at this very moment; else the difference, and"
        " which list it is on.",
    ),
    Rule(
        "hugetlb-elsewhere",
        Severity.NOTE,
        "each folio is on the list of those that are free or of those in use",
        "mm/hugetlb.c: folio_isolate_hugetlb(), remove_hugetlb_folio()",
        scope=Scope.HUGETLB,
        meaning="Nothing is wrong by itself: a folio that is being migrated, demoted, allocated or"
        " freed is on neither list for a while. One that is not optimized can't be found then, only"
        " missed.",
        look_at="Whether it is still so in a moment: a folio that stays isolated was leaked by"
        " whoever isolated it.",
    ),
    Rule(
        "hugetlb-flag",
        Severity.ERROR,
        "a folio says that its vmemmap is optimized if and only if it is",
        "mm/hugetlb_vmemmap.c: hugetlb_vmemmap_optimize_folio(), hugetlb_vmemmap_restore_folio()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="HPG_vmemmap_optimized decides whether the vmemmap is restored before the folio is"
        " given back. Set without need, frames are allocated for nothing, and the old ones are"
        " lost. Clear while tail pages are read-only, the folio is freed as it is, and the first"
        " write to one of its struct pages is an oops in kernel mode.",
        look_at="Whether an optimization or restoration is under way, or failed half-way for want"
        " of memory (mm/hugetlb_vmemmap.c: vmemmap_remap_alloc()). 6.1.47, 6.4.11 and 6.5 have a"
        " fix for folios that were no longer marked while still optimized.",
    ),
    Rule(
        "hugetlb-mapping",
        Severity.ERROR,
        "of an optimized folio's vmemmap the head page is writable, all else read-only, nothing"
        " executable",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_pte()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="A tail page that can be written through changes the struct pages of all others"
        " that share its frame; a head page that can't be is an oops when the folio is next"
        " allocated; a hole is one for whoever looks.",
        look_at="How many entries of the folio are so: one is damage to a page table entry, some in"
        " a row an interrupted optimization or restoration.",
    ),
    Rule(
        "hugetlb-tail-frame",
        Severity.ERROR,
        "the tail pages of an optimized folio map the frame that they should share",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_free(), vmemmap_get_tail()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="Up to 7.0 tail pages map the frame of their folio's head page (5.14 to 5.17: the"
        " one after it), since 7.1 one that all folios of a zone and size share"
        " (zone->vmemmap_tails). One that maps another shows struct pages of another folio, or what"
        " somebody else keeps there: compound_head() leads astray.",
        look_at="Whose frame it is: that of another folio (a wrong remapping), or one that was"
        " freed and is in use again. On a kernel that was patched to share tail pages, whether the"
        " zone's are those of another order.",
    ),
    Rule(
        "hugetlb-head-frame",
        Severity.ERROR,
        "the frame of an optimized folio's head page is its own, and in use",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_free(), free_vmemmap_page_list()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="The head page of an optimized folio has a frame with one reference, two if it is"
        " from boot. With none it was freed, and the next to get it overwrites the folio's struct"
        " page; mapped elsewhere too, two parts of the memory map overwrite each other.",
        look_at="What the frame is now, and who else maps it. A count that is one too high for a"
        " moment is a page walker's.",
    ),
    Rule(
        "hugetlb-tail-page",
        Severity.ERROR,
        "tail pages in the frame of an optimized folio's head have their head, TAIL_MAPPING and no"
        " reference",
        "mm/page_alloc.c: prep_compound_tail(), free_tail_page_prepare()",
        since="5.14",
        scope=Scope.HUGETLB,
        meaning="The first page of vmemmap of an optimized folio has the struct pages of its head"
        " and of the tail pages after it. Those of them that have no members of struct folio are"
        " all alike; up to 7.0 they are what all other tail pages of the folio show, and what"
        " those are restored from. One that differs is multiplied: compound_head() leads astray,"
        " or, when the folio is freed, the log has 'BUG: Bad page state ... corrupted mapping in"
        " tail page', and all of it is lost.",
        look_at="Which word differs. A mapping of 0 in all folios alike means that struct folio"
        " goes over more struct pages than the types say, or that the folio was initialised"
        " without prep_compound_tail(); a reference count is a page walker's that did not see that"
        " the page is a tail.",
    ),
    Rule(
        "hugetlb-restore",
        Severity.ERROR,
        "the kernel resets what it copies of a folio's head when it restores the vmemmap",
        "mm/hugetlb_vmemmap.c: vmemmap_restore_pte(), reset_struct_pages()",
        since="5.18",
        until="7.0",
        archs=("x86_64",),
        scope=Scope.HUGETLB,
        meaning="Before an optimized folio is freed, each page of its vmemmap that was given away"
        " is made anew, as a copy of the one with its head; copies of the head and of the tail"
        " pages that have members of the folio then have to be overwritten with plain tail pages."
        " This kernel's code does not do that. Nothing is wrong with the folios as long as they"
        " stay in the pool. Once one is freed (nr_hugepages lowered, memory failure, memory taken"
        " offline), it has a head in front of every 64th of its pages: the log has 'BUG: Bad page"
        " state ... corrupted mapping in tail page', the kernel is tainted (B), and the folio is"
        " lost until the next boot. Where pages are not checked when they are freed, they come back"
        " marked as HugeTLB's.",
        look_at="The kernel's version: 6.12.114 got 'mm/hugetlb_vmemmap: fix incorrect vmemmap"
        " restore in rollback', and at least up to 6.12.117 the code has no reset any more (it is"
        " told from the code, not from the version). Until that is mended, keep the pool as it is,"
        " or switch vm.hugetlb_optimize_vmemmap off before folios are allocated.",
    ),
    Rule(
        "hugetlb-read-only",
        Severity.ERROR,
        "read-only vmemmap belongs to an optimized HugeTLB folio",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_pte()",
        scope=Scope.HUGETLB,
        meaning="Only HugeTLB's optimization makes vmemmap read-only. Where no HugeTLB folio is,"
        " the pages are somebody's who will write to them (prep_new_page() at the latest), which is"
        " an oops; and the frames that were saved there are never allocated again.",
        look_at="The first struct pages that are described there: a HugeTLB folio that lost its"
        " mark, or that is being set up or taken down; or a page of the buddy allocator, which got"
        " the folio with its vmemmap still optimized.",
    ),
    Rule(
        "hugetlb-key",
        Severity.WARNING,
        "the static key counts the folios that are optimized",
        "mm/hugetlb_vmemmap.c: static_branch_inc(&hugetlb_optimize_vmemmap_key)",
        since="5.19",
        until="7.0",
        scope=Scope.HUGETLB,
        meaning="With the key at 0, compound_head() does not ask whether a page that looks like a"
        " head is a tail of an optimized folio (page_fixed_fake_head()): too low, tail pages are"
        " taken for heads one day; too high costs a test in a hot path for ever.",
        look_at="Whether folios are being optimized or restored at this very moment, and the error"
        " paths of both.",
    ),
    Rule(
        "hugetlb-shared-tail",
        Severity.ERROR,
        "the tail pages that all folios of a zone and order share are alike, find their heads by"
        " the right mask, and are in a frame that is in use",
        "mm/hugetlb_vmemmap.c: vmemmap_get_tail()",
        since="7.1",
        scope=Scope.HUGETLB,
        meaning="All optimized folios of that size in the zone show these struct pages as their"
        " tails. Whatever was written there is wrong for all of them at once: every lookup of a"
        " tail page by its frame number goes to a wrong head, or a reference is counted where"
        " nobody looks for it.",
        look_at="Which of the struct pages differ: one was written to (nothing may, it is mapped"
        " read-only: so through the direct map); all are another's frame, or were initialised for"
        " another order. Tail pages of a gigantic page from boot (hugepages=1 with hugepagesz=1G)"
        " with a reference count of 1 each and lists of their own were initialised a second time:"
        " 7.2.13 does so, and when the page is freed, the log has 'BUG: Bad page state ... nonzero"
        " _refcount', and all of it is lost.",
    ),
)
