# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plants faults in HugeTLB's folios, their lists and their vmemmap.

One function a kind of :data:`.scenario.HUGETLB_FAULTS`, as in :mod:`.faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from .addresses import STRUCT_PAGE_SIZE
from .faults import Planted
from .hugetlb import Folio
from .kernel import Kernel
from .pagetable import NX, PRESENT, PTE_SHIFT, RW, frame
from .scenario import Fault
from .units import GIB, PAGE_SIZE

__all__ = ("HUGETLB_PLANTERS", "plant_hugetlb")

_ADDRESS = 0x000F_FFFF_FFFF_F000


class _Planter:
    """What planters have in common."""

    def __init__(self, kernel: Kernel, fault: Fault) -> None:
        self.kernel = kernel
        self.fault = fault
        self.hugetlb = kernel.hugetlb
        self.memmap = kernel.memmap
        self.tables = kernel.tables

    def option(self, name: str) -> Any:
        return self.fault.options[name]

    def error(self, message: str) -> UsageError:
        name = self.kernel.scenario.name
        return UsageError(f"scenario {name}: fault {self.fault.kind}: {message}")

    def planted(self, vaddr: int, pfn: int | None = None, **details: Any) -> Planted:
        return Planted(self.fault.kind, "", vaddr, pfn, details)

    @property
    def folio(self) -> Folio:
        """The folio that the options name, in order of allocation."""
        number: int = self.option("folio")
        try:
            return self.hugetlb.folios[number]
        except IndexError:
            raise self.error(f"there is no folio {number}") from None

    def plain(self) -> Folio:
        """Get a folio that is not optimized."""
        for folio in self.hugetlb.folios:
            if not folio.optimized:
                return folio
        raise self.error("there is no folio that is not optimized")

    def page_va(self) -> int:
        """Get the page of the folio's vmemmap that the options name."""
        return self.hugetlb.address(self.folio, self.fault.options.get("page", 0))

    def head_va(self) -> int:
        return self.hugetlb.address(self.folio)

    def entry(self, va: int) -> int:
        entry = self.tables.entry(va, PTE_SHIFT)
        if not entry & PRESENT:
            raise self.error(f"no base page is mapped at {va:#x}")
        return entry

    def change(self, va: int, keep: int = -1, set_: int = 0) -> Planted:
        """Change bits of an entry."""
        entry = self.entry(va)
        self.tables.set(va, PTE_SHIFT, entry & keep | set_)
        return self.planted(va, frame(entry))

    def remap(self, va: int, pfn: int) -> Planted:
        """Make an entry map another frame."""
        old = frame(self.entry(va))
        self.change(va, ~_ADDRESS, pfn * PAGE_SIZE)
        return self.planted(va, pfn, old_pfn=old)

    def frame_at(self, va: int) -> int:
        pa = self.tables.translate(va)
        if pa is None:
            raise self.error(f"nothing is mapped at {va:#x}")
        return pa // PAGE_SIZE


def _tail_writable(p: _Planter) -> Planted:
    """A page of tails can be written through."""
    return p.change(p.page_va(), set_=RW)


def _head_read_only(p: _Planter) -> Planted:
    """The page with the head can't be written through."""
    return p.change(p.head_va(), ~RW)


def _hole(p: _Planter) -> Planted:
    """A page of the vmemmap is mapped nowhere."""
    va = p.page_va()
    p.entry(va)
    p.tables.set(va, PTE_SHIFT, 0)
    return p.planted(va)


def _executable(p: _Planter) -> Planted:
    """A page of the vmemmap can be executed."""
    return p.change(p.page_va(), ~NX)


def _tail_frame(p: _Planter) -> Planted:
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


def _head_shared(p: _Planter) -> Planted:
    """A page of the vmemmap of a folio that is not optimized maps the frame of the head."""
    va = p.hugetlb.address(p.plain(), 5)
    pfn = p.frame_at(p.head_va())
    p.remap(va, pfn)
    return p.planted(p.head_va(), pfn, other=va)


def _head_freed(p: _Planter) -> Planted:
    """The frame of the head has no reference."""
    pfn = p.frame_at(p.head_va())
    p.memmap.set_refcount(pfn, 0)
    return p.planted(p.head_va(), pfn)


def _stray(p: _Planter) -> Planted:
    """Vmemmap that describes no huge page can't be written through."""
    return p.change(p.hugetlb.address(p.folio, p.folio.vmemmap_pages), ~RW)


def _flag_missing(p: _Planter) -> Planted:
    """An optimized folio does not say so."""
    private = p.hugetlb.private(p.folio)
    p.hugetlb.set_private(p.folio, private & ~(1 << p.hugetlb.optimized_bit))
    return p.planted(p.hugetlb.address(p.folio, 1), p.frame_at(p.hugetlb.address(p.folio, 1)))


def _flag_extra(p: _Planter) -> Planted:
    """A folio says that it is optimized, and is not."""
    private = p.hugetlb.private(p.folio)
    p.hugetlb.set_private(p.folio, private | 1 << p.hugetlb.optimized_bit)
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def _key(p: _Planter) -> Planted:
    """The static key counts other than there are."""
    if p.hugetlb.key is None:
        raise p.error("this kernel has no such key")
    counter = "key.enabled.counter"
    p.hugetlb.key[counter] = p.hugetlb.key[counter] + p.option("by")
    return p.planted(p.hugetlb.key.va)


def _count(p: _Planter) -> Planted:
    """The kernel counts other than there are."""
    hstate = p.hugetlb.hstates[p.folio.order]
    name = p.option("of")
    hstate[name] = hstate[name] + p.option("by")
    return p.planted(hstate.va)


def _list_cycle(p: _Planter) -> Planted:
    """The next folio after one on a list is itself."""
    lru = p.kernel.layouts.offsetof("page", "lru")
    p.memmap.poke(p.folio.pfn, lru, p.head_va() + lru)
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def _list_wild(p: _Planter) -> Planted:
    """The next folio after one on a list is nowhere."""
    lru = p.kernel.layouts.offsetof("page", "lru")
    p.memmap.poke(p.folio.pfn, lru, 0xDEAD_0000_0000_0100)
    # What is told is where the bad link is.
    return p.planted(p.head_va() + lru, p.frame_at(p.head_va()))


def _no_head(p: _Planter) -> Planted:
    """A folio on a list has no PG_head."""
    p.memmap.poke(p.folio.pfn, 0, p.memmap.peek(p.folio.pfn, 0) & ~p.memmap.flag("head"))
    return p.planted(p.head_va(), p.frame_at(p.head_va()))


def _isolated(p: _Planter) -> Planted:
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


def _shared_tail(p: _Planter) -> Planted:
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


def _unreadable(p: _Planter) -> Planted:
    """The dump lacks a page table, or the frame of a head. No fault."""
    va = p.page_va()
    if p.option("of") == "head":
        pfn = p.frame_at(p.head_va())
    else:
        pfn = next(table for shift, table, _ in p.tables.tables(va) if shift == PTE_SHIFT)
    p.kernel.physical.missing.add(pfn)
    return p.planted(va, pfn)


HUGETLB_PLANTERS: dict[str, Callable[[_Planter], Planted]] = {
    "tail-writable": _tail_writable,
    "head-read-only": _head_read_only,
    "hole": _hole,
    "executable": _executable,
    "tail-frame": _tail_frame,
    "head-shared": _head_shared,
    "head-freed": _head_freed,
    "stray": _stray,
    "flag-missing": _flag_missing,
    "flag-extra": _flag_extra,
    "key": _key,
    "count": _count,
    "list-cycle": _list_cycle,
    "list-wild": _list_wild,
    "no-head": _no_head,
    "isolated": _isolated,
    "shared-tail": _shared_tail,
    "unreadable": _unreadable,
}


def plant_hugetlb(kernel: Kernel, fault: Fault) -> Planted:
    """
    Plant a fault.

    :raises UsageError: if there is no such place to plant it
    """
    return HUGETLB_PLANTERS[fault.kind](_Planter(kernel, fault))
