# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB page sizes.

Sources: ``include/linux/hugetlb.h`` (``struct hstate``), ``mm/hugetlb.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from drgn import Object, sizeof
from msgspec import Struct

from ..target.reads import READ_ERRORS
from ..text import printable
from ..types.needs import has_member
from . import Damage, word_of

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("Hstate", "has_hugetlb", "hstate_orders", "read_hstates")

#: ``hstates`` has HUGE_MAX_HSTATE elements, a handful on every architecture
_MAX_HSTATES = 64
#: no folio is larger than 2 to this many base pages: 16 GiB pages of powerpc are 2^18
_MAX_ORDER = 32
#: orders of the page allocator, if the types do not have them
_ORDERS = 11


class Hstate(Struct, frozen=True):
    """A ``struct hstate``: one size of huge pages."""

    #: virtual address of the structure
    address: int
    #: ``hugepages-2048kB``, made safe to print
    name: str
    #: log2 of the base pages in a folio
    order: int
    #: the kernel's counters, in folios
    nr: int
    free: int
    reserved: int
    surplus: int
    #: nodes with folios; ``None`` if their counters can't be read
    nodes: frozenset[int] | None
    #: vmemmap pages of each folio that keep a frame of their own
    kept: int
    #: larger than any page of the page allocator
    gigantic: bool


def has_hugetlb(prog: Program) -> bool:
    """Return whether the kernel has HugeTLB (CONFIG_HUGETLB_PAGE)."""
    try:
        prog.variable("hstates")
    except LookupError:
        return False
    return True


def read_hstates(prog: Program) -> tuple[list[Hstate], list[Damage]]:
    """Read all ``hstates``, in the kernel's order, and report those that can't be read."""
    hstate_type = prog.type("struct hstate")
    base = prog["hstates"].address_ or 0
    try:
        count = int(prog["hugetlb_max_hstate"].value_())
    except READ_ERRORS:
        return [], [Damage(base, "hugetlb_max_hstate can't be read", True)]
    if not 0 <= count <= _MAX_HSTATES:
        return [], [Damage(base, f"hugetlb_max_hstate is {count}")]
    found, damage = [], []
    for index in range(count):
        address = base + index * sizeof(hstate_type)
        try:
            one = _read_hstate(Object(prog, hstate_type, address=address), address)
        except READ_ERRORS:
            damage.append(Damage(address, "a struct hstate can't be read", True))
            continue
        if one.order < _MAX_ORDER:
            found.append(one)
        else:
            damage.append(Damage(address, f"the order of a struct hstate is {one.order}"))
    return found, damage


def hstate_orders(prog: Program) -> set[int]:
    """Return the orders of huge pages, without those that can't be read."""
    if not (has_hugetlb(prog) and has_member(prog, "struct hstate.order")):
        return set()
    hstate_type, base = prog.type("struct hstate"), prog["hstates"].address_ or 0
    found = set()
    try:
        count = min(int(prog["hugetlb_max_hstate"].value_()), _MAX_HSTATES)
        for index in range(count):
            address = base + index * sizeof(hstate_type)
            found.add(int(Object(prog, hstate_type, address=address).order.value_()))
    except (LookupError, *READ_ERRORS):
        pass
    return found


def _read_hstate(hstate: Object, address: int) -> Hstate:
    # Member by member: struct hstate is large, and a dump may have only parts of it.
    order = hstate.order.value_()
    return Hstate(
        address=address,
        name=_name(hstate, order),
        order=order,
        nr=hstate.nr_huge_pages.value_(),
        free=hstate.free_huge_pages.value_(),
        reserved=hstate.resv_huge_pages.value_(),
        surplus=hstate.surplus_huge_pages.value_(),
        nodes=_nodes(hstate.nr_huge_pages_node),
        kept=_kept(hstate, order),
        gigantic=order >= _orders(hstate.prog_),
    )


def _orders(prog: Program) -> int:
    """Return the number of orders of the page allocator (MAX_ORDER, NR_PAGE_ORDERS)."""
    try:
        return int(prog.type("struct zone").member("free_area").type.length)
    except (LookupError, AttributeError, TypeError):
        return _ORDERS


def _name(hstate: Object, order: int) -> str:
    try:
        return printable(hstate.name.string_())
    except READ_ERRORS:
        # mm/hugetlb.c: hugetlb_add_hstate() makes it of the size.
        return f"hugepages-{(int(hstate.prog_['PAGE_SIZE'].value_()) << order) >> 10}kB"


def _nodes(counters: Object) -> frozenset[int] | None:
    try:
        values = np.frombuffer(counters.to_bytes_(), word_of(counters.prog_)[0] + "u4")
    except READ_ERRORS:
        return None
    return frozenset(np.flatnonzero(values).tolist())


def _kept(hstate: Object, order: int) -> int:
    # A folio kept two frames before "mm: hugetlb: free the 2nd vmemmap page associated
    # with each HugeTLB page" (in v5.18). Up to 5.18, struct hstate has the number of
    # freed pages, 0 if the optimization is disabled.
    try:
        freed = int(hstate.nr_free_vmemmap_pages.value_())
    except AttributeError:
        return 1
    prog = hstate.prog_
    pages = (sizeof(prog.type("struct page")) << order) // prog["PAGE_SIZE"]
    return int(pages.value_()) - freed if freed else 1
