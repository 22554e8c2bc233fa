# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The second witness for HugeTLB: its folios and how they are mapped, page by page.

In: a :class:`drgn.Program` with DWARF (:func:`tests.oracle.open_core`). Out: plain
dictionaries. Lists are followed by drgn's own helpers, each page of vmemmap is
translated for itself, and nothing of the package under test is imported.

Addresses are virtual unless they are called physical, pfns and vmemmap pages are
of 4 KiB. x86-64 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn import Object, Program
from drgn.helpers.linux.hugetlb import for_each_hstate
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import follow_phys, page_to_pfn, pfn_to_page
from drgn.helpers.linux.mmzone import for_each_present_section, section_nr_to_pfn

from .oracle import entry_of

__all__ = ("audit", "entry_of", "read_only_pages")

PAGE_SIZE = 4096
_STRUCT_PAGE = 64
_PAGES_PER_SECTION = 1 << 15
_WRITABLE = 1 << 1


def _lists(hstate: Object) -> Iterator[tuple[str, Object]]:
    # page->lru is the same word as folio->lru
    heads = [("in use", hstate.hugepage_activelist)]
    heads += [("free", head) for head in hstate.hugepage_freelists]
    for state, head in heads:
        for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
            yield state, page


def _flags(page: Object) -> int:
    # memdesc_flags_t since 6.18
    try:
        return int(page.flags.f.value_())
    except AttributeError:
        return int(page.flags.value_())


def _folio(prog: Program, hstate: Object, state: str, page: Object) -> dict[str, Any]:
    pages = []
    first = page.value_()
    for address in range(first, first + (_STRUCT_PAGE << hstate.order.value_()), PAGE_SIZE):
        pfn = follow_phys(prog["init_mm"].address_of_(), address).value_() // PAGE_SIZE
        found = entry_of(prog, address)
        assert found is not None
        pages.append((pfn, bool(found[1] & _WRITABLE)))
    optimized = 1 << prog.constant("HPG_vmemmap_optimized").value_()
    return {
        "pfn": page_to_pfn(page).value_(),
        # of the head's struct page
        "page": first,
        "hstate": hstate.name.string_().decode(),
        "size": PAGE_SIZE << hstate.order.value_(),
        "state": state,
        # of the node
        "nid": _flags(page) >> 54,
        "flagged": bool(page.private.value_() & optimized),
        # of each vmemmap page in order: the pfn of its frame, and whether it is writable
        "pages": pages,
    }


def _tails(prog: Program) -> dict[tuple[int, str, int], int]:
    # zone->vmemmap_tails: {(node, zone, order): pfn}
    found: dict[tuple[int, str, int], int] = {}
    for nid in range(64):
        node = prog["node_data"][nid]
        if not node:
            continue
        for zone in node.node_zones:
            try:
                tails = zone.vmemmap_tails
            except AttributeError:
                return found
            for slot, page in enumerate(tails):
                if page:
                    # VMEMMAP_TAIL_MIN_ORDER: 128 struct pages of 64 bytes are two pages
                    key = nid, zone.name.string_().decode(), slot + 7
                    found[key] = page_to_pfn(page).value_()
    return found


def audit(prog: Program) -> dict[str, Any]:
    """Describe all folios that are on lists; the keys are explained where they are made."""
    folios = [
        _folio(prog, hstate, state, page)
        for hstate in for_each_hstate(prog)
        for state, page in _lists(hstate)
    ]
    frames = {pfn for folio in folios for pfn, _ in folio["pages"]}
    return {
        "enabled": bool(prog["vmemmap_optimize_enabled"].value_()),
        # in order of pfn
        "folios": sorted(folios, key=lambda folio: int(folio["pfn"])),
        "tails": _tails(prog),
        # {pfn of a frame behind a folio's vmemmap: page->_refcount}
        "refcounts": {
            pfn: int(pfn_to_page(prog, pfn)._refcount.counter.value_()) for pfn in frames
        },
    }


def read_only_pages(prog: Program) -> set[int]:
    """Return the addresses of all vmemmap pages of present sections that can't be written to."""
    found = set()
    for number, _ in for_each_present_section(prog):
        address = pfn_to_page(prog, section_nr_to_pfn(prog, number)).value_()
        end = address + _PAGES_PER_SECTION * _STRUCT_PAGE
        while address < end:
            entry = entry_of(prog, address)
            size = entry[2] if entry else PAGE_SIZE
            if entry and not entry[1] & _WRITABLE:
                found.update(range(address, min(address + size, end), PAGE_SIZE))
            address += size - address % size
    return found
