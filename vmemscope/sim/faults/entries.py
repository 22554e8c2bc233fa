# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries of page tables: what maps the vmemmap of a device, and the kernel's copies."""

from __future__ import annotations

from ..addresses import STRUCT_PAGE_SIZE
from ..pagetable import KERNEL_LARGE, NX, PMD_SHIFT, PMD_SIZE, PSE, PTE_SHIFT, RW, TABLE, frame, pte
from ..units import GIB, PAGE_SIZE
from .planter import PMD_PAGES, PagemapPlanter, Planted

__all__ = (
    "altmap_outside",
    "base_pages",
    "executable",
    "head_not_private",
    "hole",
    "huge_leaf",
    "kernel_entry",
    "missing_dedup",
    "read_only",
    "tail_wrong_frame",
)


def hole(p: PagemapPlanter) -> Planted:
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
        p.record.pgmap["altmap.alloc"] = alloc - PMD_PAGES
    elif old in p.kernel.boot_memmap.values():
        raise p.error("the memory map made at boot is not the pagemap's")
    else:
        p.free_block(old)
    return p.planted(va, None, old_pfn=old, size=PMD_SIZE)


def tail_wrong_frame(p: PagemapPlanter) -> Planted:
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


def head_not_private(p: PagemapPlanter) -> Planted:
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


def missing_dedup(p: PagemapPlanter) -> Planted:
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


def huge_leaf(p: PagemapPlanter) -> Planted:
    """A section's memory map is one large leaf although it could be deduplicated."""
    va = p.section_va()
    p.base_page(va)
    block = p.alloc_block(va)
    for i in range(PMD_PAGES):
        p.put_page(frame(p.base_page(va + i * PAGE_SIZE)))
    table = frame(p.tables.entry(va, PMD_SHIFT))
    p.tables.set(va, PMD_SHIFT, block * PAGE_SIZE | KERNEL_LARGE | PSE)
    p.put_page(table)
    return p.planted(va, block)


def base_pages(p: PagemapPlanter) -> Planted:
    """A section's memory map is base pages since no 2 MiB were to be had: legitimate."""
    va = p.section_va()
    entry = p.tables.entry(va, PMD_SHIFT)
    if not entry & PSE or p.record.altmap:
        raise p.error("there is no large leaf of RAM")
    block = frame(entry)
    pfns = [p.copy_frame(block + i) for i in range(PMD_PAGES)]
    p.tables.set(va, PMD_SHIFT, 0)
    for i, pfn in enumerate(pfns):
        p.tables.set(va + i * PAGE_SIZE, PTE_SHIFT, pte(pfn))
    p.free_block(block)
    return p.planted(va, pfns[0], pfns=pfns)


def altmap_outside(p: PagemapPlanter) -> Planted:
    """Struct pages that should be in the device's altmap are elsewhere."""
    if not p.record.altmap:
        raise p.error(f"{p.record.name} has no altmap")
    va = p.section_va()
    old = frame(p.tables.entry(va, PMD_SHIFT))
    if p.option("to") == "ram":
        pfn = p.alloc_block(va)
    else:
        pfn = -(-p.record.data_pfn // PMD_PAGES) * PMD_PAGES
        rows = p.kernel.physical.run(pfn, PMD_PAGES)
        for i in range(PMD_PAGES):
            rows[i] = p.kernel.physical.page(old + i)
    p.tables.set(va, PMD_SHIFT, pfn * PAGE_SIZE | KERNEL_LARGE | PSE)
    return p.planted(va, pfn, old_pfn=old)


def _change_leaf(p: PagemapPlanter, clear: int) -> Planted:
    va = p.place().page_va
    leaf = p.tables.leaf(va)
    if leaf is None:
        raise p.error(f"nothing is mapped at {va:#x}")
    shift, entry = leaf
    va = va >> shift << shift
    p.tables.set(va, shift, entry & ~clear)
    return p.planted(va, frame(entry), size=1 << shift)


def read_only(p: PagemapPlanter) -> Planted:
    """A leaf can't be written through."""
    return _change_leaf(p, RW)


def executable(p: PagemapPlanter) -> Planted:
    """A leaf can be executed from."""
    return _change_leaf(p, NX)


def kernel_entry(p: PagemapPlanter) -> Planted:
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
