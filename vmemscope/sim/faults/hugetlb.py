# SPDX-License-Identifier: LGPL-2.1-or-later
"""HugeTLB's folios, their lists and their vmemmap."""

from __future__ import annotations

from ..addresses import STRUCT_PAGE_SIZE
from ..pagetable import NX, PTE_SHIFT, RW
from ..units import GIB, PAGE_SIZE
from .planter import HugetlbPlanter, Planted

__all__ = (
    "count",
    "executable",
    "flag_extra",
    "flag_missing",
    "head_freed",
    "head_read_only",
    "head_shared",
    "hole",
    "isolated",
    "key",
    "list_cycle",
    "list_wild",
    "no_head",
    "restore",
    "shared_tail",
    "stray",
    "tail_frame",
    "tail_page",
    "tail_writable",
    "unreadable",
)


def tail_writable(p: HugetlbPlanter) -> Planted:
    """A page of tails can be written through."""
    return p.change(p.page_va(), set_=RW)


def head_read_only(p: HugetlbPlanter) -> Planted:
    """The page with the head can't be written through."""
    return p.change(p.head_va(), ~RW)


def hole(p: HugetlbPlanter) -> Planted:
    """A page of the vmemmap is mapped nowhere."""
    va = p.page_va()
    p.base_page(va)
    p.tables.set(va, PTE_SHIFT, 0)
    return p.planted(va)


def executable(p: HugetlbPlanter) -> Planted:
    """A page of the vmemmap can be executed."""
    return p.change(p.page_va(), ~NX)


def tail_frame(p: HugetlbPlanter) -> Planted:
    """A page of tails maps another frame."""
    to = p.option("to")
    if to == "outside":
        pfn = max(end for _, end, _ in p.kernel.ram) + 64 * GIB // PAGE_SIZE
    elif to == "other-folio":
        # A frame of its own.
        pfn = p.frame_at(p.hugetlb.address(p.plain(), 1))
    else:
        pfn = 0
    return p.remap(p.page_va(), pfn)


def head_shared(p: HugetlbPlanter) -> Planted:
    """A page of the vmemmap of a folio that is not optimized maps the frame of the head."""
    va = p.hugetlb.address(p.plain(), 5)
    pfn = p.frame_at(p.head_va())
    p.remap(va, pfn)
    return p.planted(p.head_va(), pfn, other=va)


def head_freed(p: HugetlbPlanter) -> Planted:
    """The frame of the head has no reference."""
    pfn = p.frame_at(p.head_va())
    p.memmap.set_refcount(pfn, 0)
    return p.planted(p.head_va(), pfn)


def tail_page(p: HugetlbPlanter) -> Planted:
    """A tail page in the frame of the head is none."""
    number, what = p.option("number"), p.option("what")
    pfn = p.folio.pfn + number
    if what == "mapping":
        p.memmap.poke(pfn, p.kernel.layouts.offsetof("page", "mapping"), 0)
    elif what == "head":
        # Of the folio after it.
        after = p.kernel.addresses.pfn_to_page(p.folio.pfn + (1 << p.folio.order))
        p.memmap.poke(pfn, 8, after + 1)
    else:
        p.memmap.set_refcount(pfn, 1)
    return p.planted(p.kernel.addresses.pfn_to_page(pfn), p.frame_at(p.head_va()))


def restore(p: HugetlbPlanter) -> Planted:
    """The kernel does not reset what it restores vmemmap from."""
    if p.hugetlb.has_shared_tails:
        raise p.error("this kernel has nothing to reset")
    p.hugetlb.write_restore(resets=False)
    return p.planted(p.hugetlb.restore)


def stray(p: HugetlbPlanter) -> Planted:
    """Vmemmap that describes no huge page can't be written through."""
    return p.change(p.hugetlb.address(p.folio, p.folio.vmemmap_pages), ~RW)


def flag_missing(p: HugetlbPlanter) -> Planted:
    """An optimized folio does not say so."""
    private = p.hugetlb.private(p.folio)
    p.hugetlb.set_private(p.folio, private & ~(1 << p.hugetlb.optimized_bit))
    return p.planted(p.hugetlb.address(p.folio, 1), p.frame_at(p.hugetlb.address(p.folio, 1)))


def flag_extra(p: HugetlbPlanter) -> Planted:
    """A folio says that it is optimized, and is not."""
    private = p.hugetlb.private(p.folio)
    p.hugetlb.set_private(p.folio, private | 1 << p.hugetlb.optimized_bit)
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def key(p: HugetlbPlanter) -> Planted:
    """The static key counts other than there are."""
    if p.hugetlb.key is None:
        raise p.error("this kernel has no such key")
    counter = "key.enabled.counter"
    p.hugetlb.key[counter] = p.hugetlb.key[counter] + p.option("by")
    return p.planted(p.hugetlb.key.va)


def count(p: HugetlbPlanter) -> Planted:
    """The kernel counts other than there are."""
    hstate = p.hugetlb.hstates[p.folio.order]
    name = p.option("of")
    hstate[name] = hstate[name] + p.option("by")
    return p.planted(hstate.va)


def list_cycle(p: HugetlbPlanter) -> Planted:
    """The next folio after one on a list is itself."""
    lru = p.kernel.layouts.offsetof("page", "lru")
    p.memmap.poke(p.folio.pfn, lru, p.head_va() + lru)
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def list_wild(p: HugetlbPlanter) -> Planted:
    """The next folio after one on a list is nowhere."""
    lru = p.kernel.layouts.offsetof("page", "lru")
    p.memmap.poke(p.folio.pfn, lru, 0xDEAD_0000_0000_0100)
    # What is told is where the bad link is.
    return p.planted(p.head_va() + lru, p.frame_at(p.head_va()))


def no_head(p: HugetlbPlanter) -> Planted:
    """A folio on a list has no PG_head."""
    p.memmap.poke(p.folio.pfn, 0, p.memmap.peek(p.folio.pfn, 0) & ~p.memmap.flag("head"))
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def isolated(p: HugetlbPlanter) -> Planted:
    """A folio is on no list: it is being moved. No fault."""
    lru = p.kernel.layouts.offsetof("page", "lru")
    head = p.hugetlb.list_head(p.folio)
    following = p.memmap.peek(p.folio.pfn, lru)
    before = p.memmap.peek(p.folio.pfn, lru + 8)
    for at, offset, value in ((before, 0, following), (following, 8, before)):
        if at == head:
            p.kernel.memory.write_int(at + offset, value)
        else:
            pfn = p.kernel.addresses.page_to_pfn(at - lru)
            p.memmap.poke(pfn, lru + offset, value)
    own = p.head_va() + lru
    p.memmap.poke(p.folio.pfn, lru, own)
    p.memmap.poke(p.folio.pfn, lru + 8, own)
    if not p.folio.in_use:
        hstate = p.hugetlb.hstates[p.folio.order]
        for name in ("free_huge_pages", f"free_huge_pages_node[{p.folio.nid}]"):
            hstate[name] = hstate[name] - 1
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def shared_tail(p: HugetlbPlanter) -> Planted:
    """What all folios of a zone show as their tail pages is wrong."""
    if not p.hugetlb.has_shared_tails:
        raise p.error("this kernel has none")
    pfn = p.hugetlb.shared_tail(p.folio)
    page = p.kernel.addresses.pfn_to_page(pfn)
    pages = p.kernel.physical.words(pfn).reshape(-1, STRUCT_PAGE_SIZE // 8)
    layouts, what = p.kernel.layouts, p.option("what")
    refcount = layouts.offsetof("page", "_refcount")
    if what == "one":
        pages[p.option("number"), 4] = 0x1234
    elif what == "order":
        word = layouts.offsetof("page", "compound_info") // 8
        pages[:, word] = p.memmap.compound_info(p.folio.pfn, p.folio.order + 1)
    elif what == "refcount":
        pages.view("<u4")[:, refcount // 4] = 1
    elif what == "zone":
        pages[:, 0] = p.memmap.links("ZONE_MOVABLE", p.folio.nid)
    else:
        p.memmap.set_refcount(pfn, 0)
    return p.planted(page, pfn)


def unreadable(p: HugetlbPlanter) -> Planted:
    """The dump lacks a page table, or the frame of a head. No fault."""
    va = p.page_va()
    if p.option("of") == "head":
        pfn = p.frame_at(p.head_va())
    else:
        pfn = next(table for shift, table, _ in p.tables.tables(va) if shift == PTE_SHIFT)
    p.kernel.physical.missing.add(pfn)
    return p.planted(va, pfn)
