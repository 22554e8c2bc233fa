# SPDX-License-Identifier: LGPL-2.1-or-later
"""HugeTLB's folios, their lists and their vmemmap."""

from __future__ import annotations

from typing import Literal

from ..addresses import STRUCT_PAGE_SIZE
from ..memmap import ZONES_PGSHIFT
from ..pagetable import ADDRESS, NX, RW
from ..units import GIB
from .planted import Finding, Planted
from .planter import HugetlbPlanter
from .registry import hugetlb_fault
from .simulated import SimHugetlbPlanter


def _change(p: HugetlbPlanter, va: int, keep: int = -1, set_: int = 0) -> Planted:
    """Change bits of an entry."""
    entry = p.base_page(va)
    p.set_entry(va, p.units.page_shift, entry & keep | set_)
    return p.planted(va, p.frame(entry))


def _keyed(p: HugetlbPlanter) -> list[Finding]:
    """Return the finding of a static key that counts other than there are, where there is a key."""
    return [] if p.key is None else [p.finding("hugetlb", "hugetlb-key", p.key.va)]


@hugetlb_fault("hugetlb hugetlb-mapping")
def tail_writable(p: HugetlbPlanter, folio: int = 0, page: int = 3) -> Planted:
    """A page of tail pages can be written through."""
    return _change(p, p.va(folio, page), set_=RW)


@hugetlb_fault("hugetlb hugetlb-half", kernels=("next",))
def half_optimized(p: HugetlbPlanter, folio: int = 0, pages: int = 3) -> Planted:
    """
    The last pages of a folio's vmemmap have frames of their own again: the kernel ran out of
    memory on the way (VMEMMAP_REMAP_INCOMPLETE). No fault of the mapping.
    """
    one = p.folio(folio)
    if not one.optimized:
        raise p.error("this folio is not optimized")
    for page in range(one.vmemmap_pages - pages, one.vmemmap_pages):
        va = p.va(folio, page)
        pfn = p.alloc_pages(0, one.nid)
        p.set_frame_bytes(pfn, p.frame_bytes(p.frame_at(va)))
        _change(p, va, ~ADDRESS, pfn * p.units.page_size | RW)
        p.count("nr_memmap_pages", 1)
    return p.planted(p.va(folio), p.frame_at(p.va(folio)), pages=pages)


@hugetlb_fault("hugetlb hugetlb-half", kernels=("next",))
def half_begun(p: SimHugetlbPlanter, folio: int = 0, shared: int = 3) -> Planted:
    """
    The kernel failed after it had optimized the first pages of a folio's vmemmap, and could not
    go back (VMEMMAP_REMAP_INCOMPLETE): the others have the frames that they had.
    """
    one = p.folio(folio)
    if one.optimized or not 0 < shared < one.vmemmap_pages - 1:
        raise p.error("this folio can't be left so")
    p.kernel.hugetlb.optimize(one, shared + 1)
    return p.planted(p.va(folio), p.frame_at(p.va(folio)), shared=shared)


@hugetlb_fault("hugetlb hugetlb-mapping")
def head_read_only(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """The page with the head can't be written through."""
    return _change(p, p.va(folio), ~RW)


@hugetlb_fault("hugetlb hugetlb-mapping")
def hole(p: HugetlbPlanter, folio: int = 0, page: int = 3) -> Planted:
    """A page of the vmemmap is mapped nowhere."""
    va = p.va(folio, page)
    p.base_page(va)
    p.set_entry(va, p.units.page_shift, 0)
    return p.planted(va)


@hugetlb_fault("hugetlb hugetlb-mapping")
def executable(p: HugetlbPlanter, folio: int = 0, page: int = 3) -> Planted:
    """A page of the vmemmap can be executed."""
    return _change(p, p.va(folio, page), ~NX)


@hugetlb_fault("hugetlb hugetlb-tail-frame")
def tail_frame(
    p: HugetlbPlanter,
    folio: int = 0,
    page: int = 3,
    to: Literal["other-folio", "outside", "zero"] = "other-folio",
) -> Planted:
    """A page of tail pages maps another frame."""
    pfn = 0
    if to == "outside":
        pfn = p.memory_end + 64 * GIB // p.units.page_size
    elif to == "other-folio":
        # A frame of its own.
        pfn = p.frame_at(p.va(p.plain(), 1))
    va = p.va(folio, page)
    _change(p, va, ~ADDRESS, pfn * p.units.page_size)
    return p.planted(va, pfn)


@hugetlb_fault("hugetlb hugetlb-head-frame")
def head_shared(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """A page of the vmemmap of a folio that is not optimized maps the frame of the head."""
    pfn = p.frame_at(p.va(folio))
    _change(p, p.va(p.plain(), 5), ~ADDRESS, pfn * p.units.page_size)
    return p.planted(p.va(folio), pfn)


@hugetlb_fault("hugetlb hugetlb-head-frame")
def head_freed(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """The frame of the head has no reference."""
    pfn = p.frame_at(p.va(folio))
    p.set_refcount(pfn, 0)
    return p.planted(p.va(folio), pfn)


@hugetlb_fault("hugetlb hugetlb-poisoned")
def poisoned(p: HugetlbPlanter, folio: int = 0, of: Literal["head", "tail"] = "head") -> Planted:
    """The memory of the frame of a head page, or of tail pages, failed."""
    at = p.va(folio, int(of == "tail"))
    pfn = p.frame_at(at)
    if of == "tail":
        # The frame of the head page, or one that the zone shares, reported where it is.
        at = p.page_va(pfn) if p.has_shared_tails else p.va(folio)
    p.write(p.page_va(pfn), p.read(p.page_va(pfn)) | p.flag("hwpoison"))
    return p.planted(at, pfn)


@hugetlb_fault("hugetlb hugetlb-tail-page")
def tail_page(
    p: HugetlbPlanter,
    folio: int = 0,
    number: int = 5,
    what: Literal["mapping", "head", "refcount"] = "mapping",
) -> Planted:
    """A tail page in the frame of the head is none."""
    one = p.folio(folio)
    va = p.page_va(one.pfn + number)
    if what == "mapping":
        p.write(va + p.offset("page", "mapping"), 0)
    elif what == "head":
        # Of the folio after it.
        p.write(va + 8, p.page_va(one.pfn + (1 << one.order)) + 1)
    else:
        p.set_refcount(one.pfn + number, 1)
    return p.planted(va, p.frame_at(p.va(folio)))


@hugetlb_fault("hugetlb hugetlb-restore", kernels=("6.1", "6.12"))
def restore(p: HugetlbPlanter) -> Planted:
    """The kernel does not reset what it restores vmemmap from."""
    if p.has_shared_tails:
        raise p.error("this kernel has nothing to reset")
    p.forget_reset()
    return p.planted(p.symbol("vmemmap_restore_pte"))


@hugetlb_fault("hugetlb hugetlb-read-only")
def stray(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """Vmemmap that describes no huge page can't be written through."""
    return _change(p, p.va(folio, p.folio(folio).vmemmap_pages), ~RW)


@hugetlb_fault("hugetlb hugetlb-flag", "hugetlb hugetlb-key")
def flag_missing(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """An optimized folio does not say so."""
    private = p.va(folio) + p.offset("page", "private")
    p.write(private, p.read(private) & ~(1 << p.constant("HPG_vmemmap_optimized")))
    va = p.va(folio, 1)
    findings = [p.finding("hugetlb", "hugetlb-flag", va), *_keyed(p)]
    return p.planted(va, p.frame_at(va), findings=findings)


@hugetlb_fault("hugetlb hugetlb-flag", "hugetlb hugetlb-key")
def flag_extra(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """A folio says that it is optimized, and is not."""
    va = p.va(folio)
    private = va + p.offset("page", "private")
    p.write(private, p.read(private) | 1 << p.constant("HPG_vmemmap_optimized"))
    findings = [p.finding("hugetlb", "hugetlb-flag", va), *_keyed(p)]
    return p.planted(va, p.frame_at(va), findings=findings)


@hugetlb_fault("hugetlb hugetlb-key", kernels=("6.1", "6.12"))
def key(p: HugetlbPlanter, by: int = 1) -> Planted:
    """The static key counts other than there are."""
    if p.key is None:
        raise p.error("this kernel has no such key")
    p.key["key.enabled.counter"] += by
    return p.planted(p.key.va)


@hugetlb_fault("hugetlb hugetlb-count", "hugetlb hugetlb-elsewhere")
def count(
    p: HugetlbPlanter,
    folio: int = 0,
    of: Literal["free_huge_pages", "nr_huge_pages"] = "free_huge_pages",
    by: int = 1,
) -> Planted:
    """The kernel counts other than there are: folios beyond those on lists may be moving."""
    hstate = p.hstate(p.folio(folio).order)
    hstate[of] += by
    rule = "hugetlb-elsewhere" if of == "nr_huge_pages" and by > 0 else "hugetlb-count"
    return p.planted(hstate.va, findings=[p.finding("hugetlb", rule, hstate.va)])


def _link(p: HugetlbPlanter, folio: int, value: int) -> None:
    p.write(p.va(folio) + p.offset("page", "lru"), value)


@hugetlb_fault("hugetlb hugetlb-list")
def list_cycle(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """The next folio after one on a list is itself."""
    va = p.va(folio)
    _link(p, folio, va + p.offset("page", "lru"))
    return p.planted(va, p.frame_at(va))


@hugetlb_fault("hugetlb hugetlb-list")
def list_wild(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """The next folio after one on a list is nowhere."""
    va = p.va(folio)
    _link(p, folio, 0xDEAD_0000_0000_0100)
    # What is reported is where the bad link is.
    return p.planted(va + p.offset("page", "lru"), p.frame_at(va))


@hugetlb_fault("hugetlb hugetlb-list", "hugetlb hugetlb-read-only", "hugetlb hugetlb-key")
def no_head(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """A folio on a list has no PG_head. What is no folio has no business being read-only."""
    va = p.va(folio)
    p.write(va, p.read(va) & ~p.flag("head"))
    findings = [p.finding("hugetlb", "hugetlb-list", va)]
    if p.folio(folio).optimized:
        findings += [p.finding("hugetlb", "hugetlb-read-only", p.va(folio, 1)), *_keyed(p)]
    return p.planted(va, p.frame_at(va), findings=findings)


@hugetlb_fault("hugetlb hugetlb-elsewhere")
def isolated(p: HugetlbPlanter, folio: int = 0) -> Planted:
    """A folio is on no list: it is being moved. No fault."""
    one = p.folio(folio)
    lru = p.offset("page", "lru")
    own = p.va(folio) + lru
    following, before = p.read(own), p.read(own + 8)
    p.write(before, following)
    p.write(following + 8, before)
    p.write(own, own)
    p.write(own + 8, own)
    if not one.in_use:
        hstate = p.hstate(one.order)
        for name in ("free_huge_pages", f"free_huge_pages_node[{one.nid}]"):
            hstate[name] -= 1
    return p.planted(p.va(folio), p.frame_at(p.va(folio)))


@hugetlb_fault("hugetlb hugetlb-shared-tail", kernels=("7.2", "next"))
def shared_tail(
    p: HugetlbPlanter,
    folio: int = 0,
    what: Literal["one", "order", "refcount", "zone", "freed", "again"] = "one",
    number: int = 7,
) -> Planted:
    """What all folios of a zone show as their tail pages is wrong."""
    if not p.has_shared_tails or not p.folio(folio).optimized:
        raise p.error("this folio has none")
    pfn = p.frame_at(p.va(folio, 1))
    # Any page of the folio's vmemmap but the first is this frame.
    pages = [p.va(folio, 1) + i * STRUCT_PAGE_SIZE for i in range(p.per_page)]
    if what == "one":
        p.write(pages[number] + 32, 0x1234)
    elif what == "freed":
        p.set_refcount(pfn, 0)
    for va in pages:
        if what == "order":
            # A mask: of the next order, one bit less of it is set.
            info = va + p.offset("page", "compound_info")
            p.write(info, (p.read(info) & ~1) << 1 | 1)
        elif what in ("refcount", "again"):
            p.write(va + p.offset("page", "_refcount"), 1, 4)
            if what == "again":
                # INIT_LIST_HEAD(), of which prep_compound_tail() overwrites the first pointer.
                previous = p.offset("page", "compound_info") + 8
                p.write(va + previous, va + previous - 8)
        elif what == "zone":
            change = p.constant("ZONE_MOVABLE") << ZONES_PGSHIFT
            p.write(va, p.read(va) & ~(7 << ZONES_PGSHIFT) | change)
    return p.planted(p.page_va(pfn), pfn)


@hugetlb_fault()
def unreadable(
    p: SimHugetlbPlanter, folio: int = 0, page: int = 0, of: Literal["table", "head"] = "table"
) -> Planted:
    """The dump lacks a page table, or the frame of a head. No fault."""
    va = p.va(folio, page)
    if of == "head":
        pfn = p.frame_at(p.va(folio))
    else:
        pfn = next(table for shift, table, _ in p.path(va) if shift == p.units.page_shift)
    p.kernel.physical.missing.add(pfn)
    return p.planted(va, pfn)
