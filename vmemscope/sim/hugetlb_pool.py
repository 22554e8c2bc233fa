# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What becomes of huge pages after they were allocated.

Sources: ``mm/hugetlb.c: demote_free_hugetlb_folios(), update_and_free_pages_bulk()``. What
:meth:`.Hugetlb.restore_folio` gives back comes first. None of it changes the orders of sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hugetlb import Folio, Hugetlb
    from .scenario import HugePages

__all__ = ("change_pool", "demote", "free")


def change_pool(hugetlb: Hugetlb, folios: Sequence[Folio], pages: HugePages) -> None:
    """Restore the last folios of those that were allocated, demote those before, and free more."""
    rest = list(folios)
    for count, change in (
        (pages.restored, hugetlb.restore_folio),
        (pages.demoted, lambda folio: demote(hugetlb, folio)),
        (pages.freed, lambda folio: free(hugetlb, folio)),
    ):
        for _ in range(count):
            change(rest.pop())


def _remove(hugetlb: Hugetlb, folio: Folio) -> None:
    """``remove_hugetlb_folio()``: of one that is free."""
    memory, memmap = hugetlb.memory, hugetlb.memmap
    lru = hugetlb.layouts.offsetof("page", "lru")
    following, before = memmap.peek(folio.pfn, lru), memmap.peek(folio.pfn, lru + 8)
    for va, value in ((before, following), (following + 8, before)):
        if va in (head := hugetlb.list_head(folio), head + 8):
            memory.write_int(va, value)
        else:
            pfn, into = divmod(va - memory.addresses.vmemmap_base, memmap.size)
            memmap.poke(pfn, into, value)
    hstate = hugetlb.hstates[folio.order]
    for name in ("nr_huge_pages", "free_huge_pages"):
        hstate[name] = hstate[name] - 1
        hstate[f"{name}_node[{folio.nid}]"] = hstate[f"{name}_node[{folio.nid}]"] - 1
    hugetlb.folios.remove(folio)


def demote(hugetlb: Hugetlb, folio: Folio) -> None:
    """Make a free folio of the larger size into folios of the smaller one."""
    optimized = folio.optimized
    hugetlb.restore_folio(folio)
    _remove(hugetlb, folio)
    order = min(hugetlb.hstates)
    for pfn in range(folio.pfn, folio.pfn + (1 << folio.order), 1 << order):
        # Populated by another order: like any at run time.
        one = replace(folio, pfn=pfn, order=order, optimized=optimized, by_section=False)
        hugetlb.add(one)


def free(hugetlb: Hugetlb, folio: Folio) -> None:
    """Give a free folio back to the page allocator."""
    hugetlb.restore_folio(folio)
    _remove(hugetlb, folio)
    memmap, count = hugetlb.memmap, 1 << folio.order
    pages = memmap.fresh(folio.pfn, count, memmap.zone(folio.pfn), folio.nid)
    memmap.store(folio.pfn, memmap.without_references(pages))
    hugetlb.pages.add(folio.pfn, folio.pfn + count, folio.nid)
