# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plants faults in a kernel whose devices are up.

One function a kind of :data:`.scenario.FAULTS`. Each leaves all else
consistent: when an entry is made to map another frame, references move along,
as ``get_page()`` and ``put_page()`` would have it, and a frame that lost its last
one is free. What was done where is returned as :class:`Planted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UsageError
from .addresses import STRUCT_PAGE_SIZE
from .devices import PagemapRecord
from .kernel import Kernel
from .memmap import struct_pages_per_page
from .objects import Struct
from .pagetable import (
    KERNEL_LARGE,
    NX,
    PMD_SHIFT,
    PMD_SIZE,
    PRESENT,
    PSE,
    PTE_SHIFT,
    RW,
    TABLE,
    frame,
    pte,
)
from .scenario import Fault
from .sparse import PAGES_PER_SECTION, PAGES_PER_SUBSECTION
from .units import GIB, PAGE_SIZE

__all__ = ("PLANTERS", "Planted", "plant")

_PMD_PAGES = PMD_SIZE // PAGE_SIZE


@dataclass(frozen=True)
class Planted:
    """A fault where it was put."""

    kind: str
    #: name of the pagemap
    pagemap: str
    #: virtual address that is wrong: of a page of the vmemmap, of a struct page
    #: in it, or of the structure
    vaddr: int
    #: the frame that is wrong: the one that is mapped now, if an entry was
    #: changed (``None``: none is); the one whose struct page is wrong
    pfn: int | None = None
    #: what else there is to know, by kind
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """A page of the vmemmap, or a struct page in it."""

    record: PagemapRecord
    #: first pfn of the compound, or of the range
    head_pfn: int
    #: virtual address
    va: int

    @property
    def page_va(self) -> int:
        return self.va // PAGE_SIZE * PAGE_SIZE


class _Planter:
    """What planters have in common."""

    def __init__(self, kernel: Kernel, fault: Fault) -> None:
        self.kernel = kernel
        self.fault = fault
        self.record = kernel.pagemap(fault.pagemap)
        self.tables = kernel.tables
        self.memmap = kernel.memmap

    def option(self, name: str) -> Any:
        return self.fault.options[name]

    def error(self, message: str) -> UsageError:
        name = self.kernel.scenario.name
        return UsageError(f"scenario {name}: fault {self.fault.kind}: {message}")

    def planted(self, vaddr: int, pfn: int | None = None, **details: Any) -> Planted:
        return Planted(self.fault.kind, self.record.name, vaddr, pfn, details)

    # Places.

    def range(self) -> tuple[int, int]:
        """Get the range that the fault is in, in pfns."""
        index: int = self.option("range")
        try:
            return self.record.ranges[index]
        except IndexError:
            raise self.error(f"{self.record.name} has no range {index}") from None

    def place(self) -> _Place:
        """Find the page of the vmemmap, or the struct page, that the options name."""
        start, end = self.range()
        if self.record.altmap and "compound" in self.fault.options:
            start = self.record.data_pfn
        head = start
        if self.record.vmemmap_shift:
            head += self.option("compound") * self.record.per_compound
        elif self.option("compound"):
            raise self.error(f"{self.record.name} has no compound pages")
        offset = self.fault.options.get("page", 0) * PAGE_SIZE
        offset += self.fault.options.get("struct_page", 0) * STRUCT_PAGE_SIZE
        va = self.kernel.addresses.pfn_to_page(head) + offset
        limit = min(end, head + self.record.per_compound) if self.record.vmemmap_shift else end
        if not start <= head < end or va >= self.kernel.addresses.pfn_to_page(limit):
            raise self.error(f"that is outside {self.record.name}")
        return _Place(self.record, head, va)

    def compound(self) -> _Place:
        """The same, where it must be a compound page."""
        if not self.record.vmemmap_shift:
            raise self.error(f"{self.record.name} has no compound pages")
        return self.place()

    def section_va(self) -> int:
        """Get where the memory map of the section that the options name starts."""
        start, end = self.record.ranges[self.fault.options.get("range", 0)]
        pfn = -(-start // PAGES_PER_SECTION) * PAGES_PER_SECTION
        pfn += self.option("section") * PAGES_PER_SECTION
        if pfn + PAGES_PER_SECTION > end:
            raise self.error(f"that is outside {self.record.name}")
        return self.kernel.addresses.pfn_to_page(pfn)

    # Page tables and references.

    def frame_at(self, va: int) -> int:
        """Get the frame that maps a page of the vmemmap."""
        pa = self.tables.translate(va)
        if pa is None:
            raise self.error(f"nothing is mapped at {va:#x}")
        return pa // PAGE_SIZE

    def is_ram(self, pfn: int) -> bool:
        return any(start <= pfn < end for start, end, _ in self.kernel.ram)

    def get_page(self, pfn: int) -> None:
        # Page 0 is no System RAM, but has a struct page that can be counted in.
        if self.is_ram(pfn) or pfn == 0:
            self.memmap.add_refcount(pfn, 1)

    def put_page(self, pfn: int) -> None:
        if self.is_ram(pfn) or pfn == 0:
            self.memmap.add_refcount(pfn, -1)
            if self.memmap.refcount(pfn) == 0:
                self.kernel.pages.free_page(pfn)

    def base_page(self, va: int) -> int:
        """Get the entry of a base page."""
        entry = self.tables.entry(va, PTE_SHIFT)
        if not entry & PRESENT:
            raise self.error(f"no base page is mapped at {va:#x}")
        return entry

    def remap(self, va: int, pfn: int) -> int:
        """Make an entry map another frame and move the reference; get the old frame."""
        old = frame(self.base_page(va))
        self.get_page(pfn)
        self.tables.set(va, PTE_SHIFT, pte(pfn))
        self.put_page(old)
        return old

    def copy_frame(self, pfn: int) -> int:
        """Allocate a frame with the same content."""
        copy = self.kernel.pages.alloc_page(self.record.spec.nid)
        self.kernel.physical.page(copy)[:] = self.kernel.physical.page(pfn)
        return copy

    def alloc_block(self, va: int) -> int:
        """Allocate 2 MiB and copy what is mapped there now."""
        block = self.kernel.pages.alloc_pages(PMD_SHIFT - PTE_SHIFT, self.record.spec.nid)
        rows = self.kernel.physical.run(block, _PMD_PAGES)
        for i in range(_PMD_PAGES):
            rows[i] = self.kernel.physical.page(self.frame_at(va + i * PAGE_SIZE))
        return block

    def free_block(self, pfn: int) -> None:
        """Free an allocation of 2 MiB."""
        self.memmap.set_refcount(pfn, 0)
        for i in range(_PMD_PAGES):
            self.kernel.pages.free_page(pfn + i)

    def mappings(self, pfn: int) -> int:
        """Count the base pages of the pagemap's vmemmap that map a frame."""
        count = 0
        for start, end in self.record.ranges:
            va = self.kernel.addresses.pfn_to_page(start)
            for addr in range(va, self.kernel.addresses.pfn_to_page(end), PAGE_SIZE):
                count += frame(self.tables.entry(addr, PTE_SHIFT)) == pfn
        return count


# Entries of page tables.


def _hole(p: _Planter) -> Planted:
    """Nothing is mapped where struct pages should be: half online, or torn down wrongly."""
    va = p.place().page_va
    leaf = p.tables.leaf(va)
    if leaf is None:
        raise p.error(f"nothing is mapped at {va:#x}")
    shift, entry = leaf
    old = frame(entry)
    if shift == PTE_SHIFT:
        p.tables.set(va, PTE_SHIFT, 0)
        p.put_page(old)
        return p.planted(va, None, old_pfn=old, size=PAGE_SIZE)
    va = va // PMD_SIZE * PMD_SIZE
    p.tables.set(va, PMD_SHIFT, 0)
    if p.record.altmap:
        alloc = p.record.pgmap["altmap.alloc"]
        p.record.pgmap["altmap.alloc"] = alloc - _PMD_PAGES
    elif old in p.kernel.boot_memmap.values():
        raise p.error("the memory map made at boot is not the pagemap's")
    else:
        p.free_block(old)
    return p.planted(va, None, old_pfn=old, size=PMD_SIZE)


def _tail_wrong_frame(p: _Planter) -> Planted:
    """A page of tails is mapped to another frame than the compound's page of tails."""
    place = p.compound()
    if p.option("page") < 2:
        raise p.error("pages 0 and 1 of a compound are its own, not shared")
    va = place.page_va
    head_va = p.kernel.addresses.pfn_to_page(place.head_pfn)
    compound_size = p.record.per_compound * STRUCT_PAGE_SIZE
    to = p.option("to")
    if to == "neighbour":
        neighbour = head_va + compound_size
        if p.tables.translate(neighbour) is None:
            neighbour = head_va - compound_size
        pfn = p.frame_at(neighbour + PAGE_SIZE)
    elif to == "other-pagemap":
        if not p.option("other"):
            raise p.error("say which pagemap with other")
        other = p.kernel.pagemap(p.option("other"))
        pfn = p.frame_at(p.kernel.addresses.pfn_to_page(other.data_pfn) + PAGE_SIZE)
    elif to == "own-head":
        pfn = p.frame_at(head_va)
    elif to == "private":
        # Allocated for this entry alone, so the reference is there already.
        pfn = p.copy_frame(p.frame_at(va))
        p.memmap.set_refcount(pfn, 0)
    elif to == "outside":
        ends = [end for _, end, _ in p.kernel.ram]
        ends += [end for record in p.kernel.pagemaps for _, end in record.ranges]
        pfn = max(ends) + 64 * GIB // PAGE_SIZE
    else:
        pfn = 0
    old = p.remap(va, pfn)
    return p.planted(va, pfn, old_pfn=old, to=to)


def _head_not_private(p: _Planter) -> Planted:
    """The page with a compound's head is mapped to a frame that others map too."""
    place = p.compound()
    va = place.page_va
    if p.option("to") == "tail":
        pfn = p.frame_at(va + PAGE_SIZE)
    else:
        start, _ = p.range()
        other = start + p.option("other") * p.record.per_compound
        pfn = p.frame_at(p.kernel.addresses.pfn_to_page(other))
    old = p.remap(va, pfn)
    return p.planted(va, pfn, old_pfn=old, to=p.option("to"))


def _missing_dedup(p: _Planter) -> Planted:
    """A compound's pages of tails have a frame each."""
    place = p.compound()
    va = p.kernel.addresses.pfn_to_page(place.head_pfn)
    count = p.record.per_compound * STRUCT_PAGE_SIZE // PAGE_SIZE
    tail = p.frame_at(va + PAGE_SIZE)
    pfns = []
    for i in range(2, count):
        copy = p.copy_frame(tail)
        p.memmap.set_refcount(copy, 0)
        p.remap(va + i * PAGE_SIZE, copy)
        pfns.append(copy)
    return p.planted(va, tail, pfns=pfns, frames=count)


def _huge_leaf(p: _Planter) -> Planted:
    """A section's memory map is one large leaf although it could be deduplicated."""
    va = p.section_va()
    p.base_page(va)
    block = p.alloc_block(va)
    for i in range(_PMD_PAGES):
        p.put_page(frame(p.base_page(va + i * PAGE_SIZE)))
    table = frame(p.tables.entry(va, PMD_SHIFT))
    p.tables.set(va, PMD_SHIFT, block * PAGE_SIZE | KERNEL_LARGE | PSE)
    p.put_page(table)
    return p.planted(va, block)


def _base_pages(p: _Planter) -> Planted:
    """A section's memory map is base pages since no 2 MiB were to be had: legitimate."""
    va = p.section_va()
    entry = p.tables.entry(va, PMD_SHIFT)
    if not entry & PSE or p.record.altmap:
        raise p.error("there is no large leaf of RAM")
    block = frame(entry)
    pfns = [p.copy_frame(block + i) for i in range(_PMD_PAGES)]
    p.tables.set(va, PMD_SHIFT, 0)
    for i, pfn in enumerate(pfns):
        p.tables.set(va + i * PAGE_SIZE, PTE_SHIFT, pte(pfn))
    p.free_block(block)
    return p.planted(va, pfns[0], pfns=pfns)


def _altmap_outside(p: _Planter) -> Planted:
    """Struct pages that should be in the device's altmap are elsewhere."""
    if not p.record.altmap:
        raise p.error(f"{p.record.name} has no altmap")
    va = p.section_va()
    old = frame(p.tables.entry(va, PMD_SHIFT))
    if p.option("to") == "ram":
        pfn = p.alloc_block(va)
    else:
        pfn = -(-p.record.data_pfn // _PMD_PAGES) * _PMD_PAGES
        rows = p.kernel.physical.run(pfn, _PMD_PAGES)
        for i in range(_PMD_PAGES):
            rows[i] = p.kernel.physical.page(old + i)
    p.tables.set(va, PMD_SHIFT, pfn * PAGE_SIZE | KERNEL_LARGE | PSE)
    return p.planted(va, pfn, old_pfn=old)


def _change_leaf(p: _Planter, clear: int) -> Planted:
    va = p.place().page_va
    leaf = p.tables.leaf(va)
    if leaf is None:
        raise p.error(f"nothing is mapped at {va:#x}")
    shift, entry = leaf
    va = va >> shift << shift
    p.tables.set(va, shift, entry & ~clear)
    return p.planted(va, frame(entry), size=1 << shift)


def _read_only(p: _Planter) -> Planted:
    """A leaf can't be written through."""
    return _change_leaf(p, RW)


def _executable(p: _Planter) -> Planted:
    """A leaf can be executed from."""
    return _change_leaf(p, NX)


def _kernel_entry(p: _Planter) -> Planted:
    """A process does not have the kernel's top-level entry for the vmemmap."""
    try:
        pgd = p.kernel.tasks.pgds[p.option("process")]
    except IndexError:
        raise p.error(f"there is no process {p.option('process')}") from None
    va = p.kernel.addresses.vmemmap_base
    words = p.kernel.physical.words(pgd)
    index = va >> p.tables.shifts[0] & 511
    before = int(words[index])
    words[index] = (
        0 if p.option("to") == "nothing" else p.kernel.pages.alloc_page() * PAGE_SIZE | TABLE
    )
    return p.planted(va, expected=before, observed=int(words[index]))


# Reference counts and use of the frames.


def _change_refcount(p: _Planter, by: int) -> Planted:
    va = p.place().page_va
    pfn = p.frame_at(va)
    before = p.memmap.refcount(pfn)
    if before + by < 0:
        raise p.error(f"the reference count is {before} only")
    p.memmap.set_refcount(pfn, before + by)
    return p.planted(va, pfn, expected=before, observed=before + by)


def _refcount_low(p: _Planter) -> Planted:
    """A backing frame has fewer references than entries that map it: freed too early."""
    return _change_refcount(p, -p.option("by"))


def _refcount_high(p: _Planter) -> Planted:
    """A backing frame has more references than entries that map it: never freed."""
    return _change_refcount(p, p.option("by"))


def _frame_freed(p: _Planter) -> Planted:
    """A backing frame is on the free list while it is mapped."""
    va = p.place().page_va
    pfn = frame(p.base_page(va))
    before = p.memmap.refcount(pfn)
    p.memmap.set_refcount(pfn, 0)
    p.kernel.pages.free_page(pfn)
    return p.planted(va, pfn, expected=before, observed=0)


# Contents of struct pages.


def _compound_word(p: _Planter) -> int:
    member = "compound_info" if p.memmap.has_mask else "compound_head"
    return p.kernel.layouts.offsetof("page", member)


def _tail(p: _Planter) -> tuple[_Place, int]:
    place = p.compound()
    if not p.option("struct_page"):
        raise p.error("struct page 0 is the head")
    return place, p.kernel.addresses.page_to_pfn(place.va)


def _tail_wrong_head(p: _Planter) -> Planted:
    """A tail page points to the head of the compound before or after."""
    place, pfn = _tail(p)
    per_compound = p.record.per_compound
    start, _ = p.range()
    head = (
        place.head_pfn - per_compound if place.head_pfn > start else place.head_pfn + per_compound
    )
    value = p.kernel.addresses.pfn_to_page(head) | 1
    p.memmap.poke(pfn, _compound_word(p), value)
    return p.planted(place.va, p.frame_at(place.va), head_pfn=place.head_pfn, wrong_head_pfn=head)


def _mask_missing(p: _Planter) -> Planted:
    """A tail page holds nothing that leads to its head: it does not look like a tail."""
    place, pfn = _tail(p)
    offset = _compound_word(p)
    before = p.memmap.peek(pfn, offset)
    p.memmap.poke(pfn, offset, 0)
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=0)


def _head_flag_lost(p: _Planter) -> Planted:
    """A compound's head has no PG_head: it was written over."""
    place = p.compound()
    words = p.memmap.words(place.head_pfn)
    words[0] &= ~np.uint64(p.memmap.flag("head"))
    return p.planted(place.va, p.frame_at(place.va))


def _wrong_order(p: _Planter) -> Planted:
    """The order in the first tail page is not the pagemap's."""
    place = p.compound()
    layouts = p.kernel.layouts
    value = p.option("value")
    if layouts.has_member("folio", "_folio_order"):
        offset = layouts.offsetof("folio", "_folio_order") - STRUCT_PAGE_SIZE
        p.memmap.poke(place.head_pfn + 1, offset, value, 1)
    else:
        offset = layouts.offsetof("folio", "_flags_1") - STRUCT_PAGE_SIZE
        p.memmap.poke(place.head_pfn + 1, offset, value, 1)
    va = place.va + STRUCT_PAGE_SIZE
    return p.planted(va, p.frame_at(va), expected=p.record.vmemmap_shift, observed=value)


def _wrong_pgmap(p: _Planter) -> Planted:
    """The back link of a head (or of a page that is in no compound) is not the pagemap."""
    place = p.place()
    pfn = p.kernel.addresses.page_to_pfn(place.va)
    value = p.record.pgmap.va + p.option("value")
    offset = p.kernel.layouts.offsetof("page", "zone_device_data") - 8
    p.memmap.poke(pfn, offset, value)
    return p.planted(place.va, p.frame_at(place.va), expected=p.record.pgmap.va, observed=value)


def _early_uninitialised(p: _Planter) -> Planted:
    """
    Struct pages of a compound beyond the first 128 are as boot left them: what
    kernels before 6.1.184 and 6.12.97 do in a section with RAM.
    """
    place = p.compound()
    start = place.head_pfn + 2 * struct_pages_per_page
    count = p.record.per_compound - 2 * struct_pages_per_page
    nid = p.record.spec.nid
    pages = p.memmap.fresh(start, count, p.memmap.zone(start), nid)
    pages[:, 0] |= np.uint64(p.memmap.flag("reserved"))
    p.memmap.store(start, pages)
    va = p.kernel.addresses.pfn_to_page(start)
    return p.planted(va, p.frame_at(va), first_pfn=start, count=count)


def _struct_page(p: _Planter) -> tuple[_Place, int]:
    place = p.place()
    return place, p.kernel.addresses.page_to_pfn(place.va)


def _stray_head(p: _Planter) -> Planted:
    """A tail page, or a page that is in no compound, has PG_head."""
    place, pfn = _struct_page(p)
    if pfn == place.head_pfn and p.record.vmemmap_shift:
        raise p.error("struct page 0 is the head")
    p.memmap.words(pfn)[0] |= np.uint64(p.memmap.flag("head"))
    return p.planted(place.va, p.frame_at(place.va))


def _tail_written(p: _Planter) -> Planted:
    """The mapping of a tail page that shares its frame was written to."""
    place, pfn = _tail(p)
    offset = p.kernel.layouts.offsetof("page", "mapping")
    before, value = p.memmap.peek(pfn, offset), p.option("value")
    p.memmap.poke(pfn, offset, value)
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=value)


def _page_refcount(p: _Planter) -> Planted:
    """A struct page of the device has another reference count."""
    place, pfn = _struct_page(p)
    before, value = p.memmap.refcount(pfn), p.option("value")
    p.memmap.set_refcount(pfn, value)
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=value)


def _wrong_zone(p: _Planter) -> Planted:
    """The flags of a struct page are those of another zone or node, or not reserved."""
    place, pfn = _struct_page(p)
    words = p.memmap.words(pfn)
    before = int(words[0])
    nid = p.record.spec.nid
    device = p.memmap.links("ZONE_DEVICE", nid)
    changed = {
        "zone": device ^ p.memmap.links("ZONE_NORMAL", nid),
        "node": device ^ p.memmap.links("ZONE_DEVICE", nid + 1),
        "reserved": p.memmap.flag("reserved"),
    }
    words[0] ^= np.uint64(changed[p.option("what")])
    return p.planted(place.va, p.frame_at(place.va), expected=before, observed=int(words[0]))


def _uninitialised(p: _Planter) -> Planted:
    """Struct pages hold what was in their frame before they were initialised."""
    place, pfn = _struct_page(p)
    ones = p.option("pattern") == "ones"
    for number in range(pfn, pfn + p.option("count")):
        # PAGE_POISON_PATTERN, or a zeroed frame
        p.memmap.words(number)[:] = np.uint64((1 << 64) - 1 if ones else 0)
    return p.planted(place.va, p.frame_at(place.va), count=p.option("count"))


# What frames are marked for.


def _frame_free(p: _Planter) -> Planted:
    """A frame is marked as the buddy allocator's, its count as it was."""
    va = p.place().page_va
    pfn = p.frame_at(va)
    p.memmap.set_page_type(pfn, "buddy")
    return p.planted(va, pfn)


def _marked(p: _Planter) -> Planted:
    """Mark a frame, by its page type where there is one for that, else by a flag."""
    va = p.place().page_va
    pfn = p.frame_at(va)
    use = p.option("as")
    if use in ("slab", "offline"):
        p.memmap.set_page_type(pfn, use)
    else:
        p.memmap.words(pfn)[0] |= np.uint64(p.memmap.flag(use))
    return p.planted(va, pfn, use=use)


def _frame_foreign(p: _Planter) -> Planted:
    """A frame is marked as somebody else's."""
    return _marked(p)


def _frame_poisoned(p: _Planter) -> Planted:
    """The memory of a frame failed, or was taken away."""
    return _marked(p)


def _frame_node(p: _Planter) -> Planted:
    """A page of the vmemmap has a frame of another node: legitimate."""
    va = p.place().page_va
    pfn = p.kernel.pages.alloc_page(p.option("nid"))
    p.kernel.physical.page(pfn)[:] = p.kernel.physical.page(p.frame_at(va))
    # Allocated for this entry, so the reference is there already.
    p.memmap.set_refcount(pfn, 0)
    old = p.remap(va, pfn)
    return p.planted(va, pfn, old_pfn=old, nid=p.memmap.nid(pfn))


# What the dump lacks.


def _unreadable_table(p: _Planter) -> Planted:
    """A page-table page is not in the dump."""
    va = p.place().page_va
    wanted = PTE_SHIFT if p.option("level") == "pte" else PMD_SHIFT
    for shift, table, _ in p.tables.tables(va):
        if shift == wanted:
            p.kernel.physical.missing.add(table)
            # One table covers as much as an entry of the level above.
            covered = 1 << shift + 9
            return p.planted(va // covered * covered, table, size=covered)
    raise p.error(f"there is no table of that level at {va:#x}")


def _unreadable_struct_page(p: _Planter) -> Planted:
    """
    Struct pages are not in the dump: the device's own, or those of the frames
    that back them (so that reference counts are unknown).
    """
    va = p.place().page_va
    pfn = p.frame_at(va)
    missing = pfn
    if p.option("of") == "frame":
        missing = p.frame_at(p.kernel.addresses.pfn_to_page(pfn))
    p.kernel.physical.missing.add(missing)
    return p.planted(va, pfn, missing_pfn=missing)


def _unreadable_node(p: _Planter) -> Planted:
    """
    The node of pgmap_array that leads to a pagemap.

    makedumpfile up to 1.7.8 leaves such out of a dump of 7.1 or later: the page of
    the slab that it is in is a tail page, which it takes for one of a process.
    """
    node = p.kernel.pgmap_array.nodes()[-1]
    p.kernel.physical.missing.add(p.kernel.memory.addresses.va_to_pfn(node.va))
    return p.planted(node.va)


def _unreadable_sections(p: _Planter) -> Planted:
    """Pages of the section table with nothing but zeros, which dump filters leave out."""
    sections = p.kernel.sections
    used = sections.highest_present // sections.sections_per_root * 8 // PAGE_SIZE
    first = sections.base + (used + 1) * PAGE_SIZE
    count = sections.roots * 8 // PAGE_SIZE - (used + 1)
    pfn = p.kernel.memory.addresses.va_to_pfn(first)
    p.kernel.physical.missing.update(range(pfn, pfn + count))
    return p.planted(first, count=count)


# struct dev_pagemap and what leads to it.


def _range_inverted(p: _Planter) -> Planted:
    """A range ends before it starts."""
    i = p.option("range")
    p.range()
    start, end = p.record.pgmap[f"ranges[{i}].start"], p.record.pgmap[f"ranges[{i}].end"]
    p.record.pgmap[f"ranges[{i}].start"] = end
    p.record.pgmap[f"ranges[{i}].end"] = start
    return p.planted(p.record.pgmap.va, start=end, end=start)


def _range_overlap(p: _Planter) -> Planted:
    """A range reaches into another pagemap's."""
    i = p.option("range")
    _, end = p.range()
    if not p.option("other"):
        raise p.error("say which pagemap with other")
    other = p.kernel.pagemap(p.option("other"))
    other_start, other_end = other.ranges[0]
    if other_start >= end:
        p.record.pgmap[f"ranges[{i}].end"] = (other_start + PAGES_PER_SUBSECTION) * PAGE_SIZE - 1
    else:
        p.record.pgmap[f"ranges[{i}].start"] = (other_end - PAGES_PER_SUBSECTION) * PAGE_SIZE
    return p.planted(
        p.record.pgmap.va,
        start=p.record.pgmap[f"ranges[{i}].start"],
        end=p.record.pgmap[f"ranges[{i}].end"],
        other=other.name,
        other_va=other.pgmap.va,
    )


def _nr_range_absurd(p: _Planter) -> Planted:
    """The pagemap claims more ranges than it can have."""
    p.record.pgmap["nr_range"] = p.option("value")
    return p.planted(p.record.pgmap.va, value=p.option("value"))


def _shift_absurd(p: _Planter) -> Planted:
    """The pagemap claims compound pages of an impossible size."""
    p.record.pgmap["vmemmap_shift"] = p.option("value")
    return p.planted(p.record.pgmap.va, value=p.option("value"))


def _ref_dead(p: _Planter) -> Planted:
    """The pagemap's reference count was killed: it is being torn down."""
    p.record.pgmap["ref.percpu_count_ptr"] = p.record.pgmap["ref.percpu_count_ptr"] | 3
    return p.planted(p.record.pgmap.va)


def _ref_leaked(p: _Planter) -> Planted:
    """The pagemap has more references than pages: it can't be torn down."""
    p.kernel.percpu.add(p.record.pgmap["ref.percpu_count_ptr"], 0, p.option("by"))
    return p.planted(p.record.pgmap.va, by=p.option("by"))


def _ref_lost(p: _Planter) -> Planted:
    """The pagemap has fewer references than pages: it goes while they are in use."""
    p.kernel.percpu.add(p.record.pgmap["ref.percpu_count_ptr"], 1, -p.option("by"))
    return p.planted(p.record.pgmap.va, by=p.option("by"))


def _xarray_stray(p: _Planter) -> Planted:
    """pgmap_array has the pagemap where no device is."""
    pfn = p.kernel.end_pfn
    p.kernel.pgmap_array.store_range(pfn, pfn + PAGES_PER_SUBSECTION - 1, p.record.pgmap.va)
    return p.planted(p.record.pgmap.va, first_pfn=pfn, count=PAGES_PER_SUBSECTION)


def _xarray_cycle(p: _Planter) -> Planted:
    """A node of pgmap_array is below itself."""
    nodes = p.kernel.pgmap_array.nodes()
    root, node = nodes[0], nodes[-1]
    slot = next(i for i in range(63, -1, -1) if not node[f"slots[{i}]"])
    node[f"slots[{slot}]"] = root.va | 2
    node["count"] = node["count"] + 1
    return p.planted(node.va, slot=slot, root=root.va)


def _resource_cycle(p: _Planter) -> Planted:
    """The sibling of one of the pagemap's resources is its own parent's first child."""
    resource = p.record.resources[0]
    parent = p.kernel.memory.struct("resource", resource["parent"])
    resource["sibling"] = parent["child"]
    # Where one comes to twice.
    return p.planted(resource.va, again=parent["child"])


def _name(p: _Planter) -> Planted:
    """The device's name is not what a terminal should be sent."""
    try:
        name = bytes.fromhex(p.option("hex")) or p.option("text").encode()
    except ValueError:
        raise p.error("hex must be hexadecimal digits, two a byte") from None
    if not 0 < len(name) < 32 or b"\0" in name:
        raise p.error("a name has 1 to 31 bytes, none of them 0")
    string = p.kernel.slab.string(name)
    vaddr = p.record.pgmap.va
    for resource in p.record.resources:
        resource["name"] = string
    if p.record.dev_dax is not None:
        p.record.dev_dax["dev.kobj.name"] = string
        vaddr = p.record.dev_dax.va
    if p.record.gendisk is not None:
        p.record.gendisk.set_bytes("disk_name", name)
        vaddr = p.record.gendisk.va
    return p.planted(vaddr, name=name)


# Sections, and what the vmemmap has beside that of devices.


def _subsection_lost(p: _Planter) -> Planted:
    """A subsection of the device is mapped but not valid."""
    start, end = p.range()
    pfn = start + p.option("subsection") * PAGES_PER_SUBSECTION
    if pfn >= end:
        raise p.error(f"that is outside {p.record.name}")
    section = p.kernel.sections.get(pfn // PAGES_PER_SECTION)
    assert section is not None
    usage = p.kernel.memory.struct("mem_section_usage", section["usage"])
    bit = pfn % PAGES_PER_SECTION // PAGES_PER_SUBSECTION
    usage["subsection_map[0]"] = usage["subsection_map[0]"] & ~(1 << bit)
    return p.planted(p.kernel.addresses.pfn_to_page(pfn), first_pfn=pfn)


def _subsection_stale(p: _Planter) -> Planted:
    """A subsection beside the device is valid, memory map and all: a device went half."""
    start, _ = p.record.ranges[0]
    pfn = start // PAGES_PER_SECTION * PAGES_PER_SECTION
    pfn += p.option("subsection") * PAGES_PER_SUBSECTION
    va = p.kernel.addresses.pfn_to_page(pfn)
    if p.option("subsection") >= PAGES_PER_SECTION // PAGES_PER_SUBSECTION or p.tables.leaf(va):
        raise p.error("there is something else already, or it is in another section")
    p.kernel.sections.fill_subsection_map(pfn, PAGES_PER_SUBSECTION)
    pages = PAGES_PER_SUBSECTION * STRUCT_PAGE_SIZE // PAGE_SIZE
    for i in range(pages):
        page = p.kernel.pages.alloc_page(p.record.spec.nid)
        p.tables.set(va + i * PAGE_SIZE, PTE_SHIFT, pte(page))
    p.kernel.vmemmap.nr_memmap_pages += pages
    # As its driver left them.
    pgmap = p.record.pgmap.va
    nid = p.record.spec.nid
    p.memmap.store(pfn, p.memmap.fresh_device(pfn, PAGES_PER_SUBSECTION, nid, pgmap, 1))
    return p.planted(va, p.frame_at(va), first_pfn=pfn)


def _section(p: _Planter) -> tuple[Struct, int]:
    """Get a section of the device, and the address of its first struct page."""
    start, end = p.record.ranges[0]
    number = start // PAGES_PER_SECTION + p.option("section")
    section = p.kernel.sections.get(number)
    if section is None or number * PAGES_PER_SECTION >= end:
        raise p.error(f"that is outside {p.record.name}")
    return section, p.kernel.addresses.pfn_to_page(number * PAGES_PER_SECTION)


def _section_map(p: _Planter) -> Planted:
    """A section says that its memory map is elsewhere."""
    section, va = _section(p)
    before = section["section_mem_map"]
    section["section_mem_map"] = before ^ 1 << p.option("bit")
    return p.planted(
        va, section=section.va, expected=before, observed=before ^ 1 << p.option("bit")
    )


def _usage_lost(p: _Planter) -> Planted:
    """A section has a memory map, but does not say what of it is valid."""
    section, va = _section(p)
    section["usage"] = 0
    return p.planted(va, section=section.va)


def _boot_memmap_hole(p: _Planter) -> Planted:
    """The memory map of a section of RAM is not mapped."""
    number = p.option("section")
    if number not in p.kernel.boot_memmap:
        raise p.error(f"section {number} has no RAM")
    va = p.kernel.addresses.pfn_to_page(number * PAGES_PER_SECTION)
    # Until then struct pages of RAM are written to.
    p.kernel.last_steps.append(lambda: p.tables.set(va, PMD_SHIFT, 0))
    # Of which there is now less than was counted.
    counter = p.kernel.image["nr_memmap_boot_pages"] if p.kernel.counters else None
    return p.planted(va, size=PMD_SIZE, counter=counter)


def _leak(p: _Planter) -> Planted:
    """Vmemmap is mapped that describes nothing."""
    pfn = p.kernel.end_pfn
    va = p.kernel.addresses.pfn_to_page(pfn)
    if p.option("leaf") == "large":
        block = p.kernel.pages.alloc_pages(PMD_SHIFT - PTE_SHIFT, p.record.spec.nid)
        p.tables.set(va, PMD_SHIFT, block * PAGE_SIZE | KERNEL_LARGE | PSE)
        return p.planted(va, block, size=PMD_SIZE)
    for i in range(p.option("pages")):
        page = p.kernel.pages.alloc_page(p.record.spec.nid)
        p.tables.set(va + i * PAGE_SIZE, PTE_SHIFT, pte(page))
    return p.planted(va, p.frame_at(va), size=p.option("pages") * PAGE_SIZE)


def _counter(p: _Planter) -> Planted:
    """The kernel counts other memory map than there is."""
    name, by = p.option("of"), p.option("by")
    if name not in p.kernel.counters:
        raise p.error("this kernel has no such counters")
    p.kernel.counters[name] += by
    return p.planted(p.kernel.image[name], by=by)


PLANTERS: dict[str, Callable[[_Planter], Planted]] = {
    "hole": _hole,
    "tail-wrong-frame": _tail_wrong_frame,
    "head-not-private": _head_not_private,
    "missing-dedup": _missing_dedup,
    "huge-leaf": _huge_leaf,
    "base-pages": _base_pages,
    "altmap-outside": _altmap_outside,
    "read-only": _read_only,
    "executable": _executable,
    "kernel-entry": _kernel_entry,
    "refcount-low": _refcount_low,
    "refcount-high": _refcount_high,
    "frame-freed": _frame_freed,
    "tail-wrong-head": _tail_wrong_head,
    "head-flag-lost": _head_flag_lost,
    "wrong-order": _wrong_order,
    "wrong-pgmap": _wrong_pgmap,
    "mask-missing": _mask_missing,
    "early-uninitialised": _early_uninitialised,
    "frame-free": _frame_free,
    "frame-foreign": _frame_foreign,
    "frame-poisoned": _frame_poisoned,
    "frame-node": _frame_node,
    "stray-head": _stray_head,
    "tail-written": _tail_written,
    "page-refcount": _page_refcount,
    "wrong-zone": _wrong_zone,
    "uninitialised": _uninitialised,
    "unreadable-table": _unreadable_table,
    "unreadable-struct-page": _unreadable_struct_page,
    "unreadable-node": _unreadable_node,
    "unreadable-sections": _unreadable_sections,
    "range-inverted": _range_inverted,
    "range-overlap": _range_overlap,
    "nr-range-absurd": _nr_range_absurd,
    "shift-absurd": _shift_absurd,
    "ref-dead": _ref_dead,
    "ref-leaked": _ref_leaked,
    "ref-lost": _ref_lost,
    "xarray-stray": _xarray_stray,
    "xarray-cycle": _xarray_cycle,
    "resource-cycle": _resource_cycle,
    "name": _name,
    "subsection-lost": _subsection_lost,
    "subsection-stale": _subsection_stale,
    "section-map": _section_map,
    "usage-lost": _usage_lost,
    "boot-memmap-hole": _boot_memmap_hole,
    "leak": _leak,
    "counter": _counter,
}


def plant(kernel: Kernel, fault: Fault) -> Planted:
    """
    Plant a fault.

    :raises UsageError: if there is no such place to plant it
    """
    return PLANTERS[fault.kind](_Planter(kernel, fault))
