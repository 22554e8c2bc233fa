# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries of page tables: what maps the vmemmap of a device, and the kernel's copies."""

from __future__ import annotations

from typing import Literal

from ..addresses import STRUCT_PAGE_SIZE
from ..pagetable import KERNEL_LARGE, NX, PSE, RW, TABLE
from ..units import GIB
from .planted import Finding, Planted
from .planter import Planter
from .registry import Compound, Page, fault
from .simulated import SimPlanter


@fault("pgmap hole", "memmap section-unmapped")
def hole(p: Planter, at: Page = Page()) -> Planted:
    """Nothing is mapped where struct pages should be: half online, or torn down wrongly."""
    va = p.place(at).page_va
    shift, entry = p.mapped(va)
    old = p.frame(entry)
    if shift == p.units.page_shift:
        p.set_entry(va, p.units.page_shift, 0)
        p.put_page(old)
        return p.planted(va, None, old_pfn=old, size=p.units.page_size)
    va = va // p.units.pmd_size * p.units.pmd_size
    p.set_entry(va, p.units.pmd_shift, 0)
    if p.record.altmap:
        p.pgmap["altmap.alloc"] -= p.units.pmd_pages
    elif isinstance(p, SimPlanter) and any(
        old in blocks for blocks in p.kernel.boot_memmap.values()
    ):
        raise p.error("the memory map made at boot is not the pagemap's")
    else:
        p.free_block(old)
    return p.planted(va, None, old_pfn=old, size=p.units.pmd_size)


def _other_frame(p: Planter, head_va: int, va: int) -> int:
    """Return the frame of another compound page's tails, or of its head if all share that."""
    pfn = p.frame_at(head_va + p.units.page_size)
    return p.frame_at(head_va) if pfn == p.frame_at(va) else pfn


@fault("pgmap tail-frame", "pgmap frame-not-memory")
def tail_wrong_frame(
    p: Planter,
    at: Page = Page(page=3),
    to: Literal[
        "neighbour", "other-pagemap", "own-head", "private", "outside", "zero"
    ] = "neighbour",
    other: str = "",
) -> Planted:
    """A page of tail pages is mapped to another frame than the compound's page of tails."""
    place = p.compound(at)
    if at.page < 2:
        raise p.error("pages 0 and 1 of a compound are its own, not shared")
    va = place.page_va
    head_va = p.page_va(place.head_pfn)
    rule = "tail-frame"
    if to == "neighbour":
        compound_size = p.record.per_compound * STRUCT_PAGE_SIZE
        neighbour = head_va + compound_size
        if p.leaf(neighbour) is None:
            neighbour = head_va - compound_size
        pfn = _other_frame(p, neighbour, va)
    elif to == "other-pagemap":
        if not other:
            raise p.error("say which pagemap with other")
        pfn = _other_frame(p, p.page_va(p.pagemap(other).data_pfn), va)
    elif to == "own-head":
        pfn = p.frame_at(head_va)
    elif to == "private":
        pfn = p.private_copy(va)
    else:
        pfn = p.memory_end + 64 * GIB // p.units.page_size if to == "outside" else 0
        rule = "frame-not-memory"
    old = p.remap(va, pfn)
    findings = [p.finding("pgmap", rule, va)]
    return p.planted(va, pfn, findings=findings, old_pfn=old, to=to)


@fault("pgmap frame-shared")
def head_not_private(
    p: Planter,
    at: Page = Page(),
    to: Literal["other-head", "tail"] = "other-head",
    other: int = 1,
) -> Planted:
    """The page with a compound's head is mapped to a frame that others map too."""
    va = p.compound(at).page_va
    if to == "tail":
        pfn = p.frame_at(va + p.units.page_size)
    else:
        start, _ = p.pfns(at.range)
        pfn = p.frame_at(p.page_va(start + other * p.record.per_compound))
    old = p.remap(va, pfn)
    return p.planted(va, pfn, old_pfn=old, to=to)


@fault("pgmap not-deduplicated")
def missing_dedup(p: Planter, at: Compound = Compound()) -> Planted:
    """A compound's pages of tails have a frame each."""
    va = p.page_va(p.compound(at).head_pfn)
    count = p.record.per_compound * STRUCT_PAGE_SIZE // p.units.page_size
    tail = p.frame_at(va + p.units.page_size)
    pfns = []
    for i in range(2, count):
        copy = p.private_copy(va + p.units.page_size)
        p.remap(va + i * p.units.page_size, copy)
        pfns.append(copy)
    # The tail pages are one finding, at the first of them.
    findings = [p.finding("pgmap", "not-deduplicated", va + p.units.page_size)]
    return p.planted(va, tail, findings=findings, pfns=pfns, frames=count)


@fault("pgmap leaf-size")
def huge_leaf(p: Planter, range_: int = 0, section: int = 0) -> Planted:
    """A section's memory map is one large leaf although it could be deduplicated."""
    va = p.leaf_va(section, range_)
    p.base_page(va)
    block = p.alloc_block(va)
    for i in range(p.units.pmd_pages):
        p.put_page(p.frame(p.base_page(va + i * p.units.page_size)))
    table = p.frame(p.entry(va, p.units.pmd_shift))
    p.set_entry(va, p.units.pmd_shift, p.pte(block, KERNEL_LARGE | PSE))
    if 8 * p.units.pmd_pages >= p.units.page_size:
        # Otherwise other tables lie in the page, too.
        p.put_page(table)
    return p.planted(va, block)


@fault("pgmap leaf-fallback")
def base_pages(p: Planter, range_: int = 0, section: int = 0) -> Planted:
    """A section's memory map is base pages since no 2 MiB were to be had: legitimate."""
    va = p.leaf_va(section, range_)
    entry = p.large_page(va)
    if not entry or p.record.altmap:
        raise p.error("there is no large leaf of RAM")
    block = p.frame(entry)
    pfns = [p.copy_frame(block + i) for i in range(p.units.pmd_pages)]
    p.set_entry(va, p.units.pmd_shift, 0)
    for i, pfn in enumerate(pfns):
        p.set_entry(va + i * p.units.page_size, p.units.page_shift, p.pte(pfn))
    p.free_block(block)
    return p.planted(va, pfns[0], pfns=pfns)


@fault("pgmap altmap-frame")
def altmap_outside(p: Planter, section: int = 0, to: Literal["ram", "data"] = "ram") -> Planted:
    """Struct pages that should be in the device's altmap are elsewhere."""
    if not p.record.altmap:
        raise p.error(f"{p.record.name} has no altmap")
    va = p.leaf_va(section)
    if not p.large_page(va):
        raise p.error("there is no large leaf")
    old = p.frame(p.entry(va, p.units.pmd_shift))
    if to == "ram":
        pfn = p.alloc_block(va)
    else:
        pfn = -(-p.record.data_pfn // p.units.pmd_pages) * p.units.pmd_pages
        p.copy_to_device(old, pfn, p.units.pmd_pages)
    p.set_entry(va, p.units.pmd_shift, p.pte(pfn, KERNEL_LARGE | PSE))
    return p.planted(va, pfn, old_pfn=old)


def _change_leaf(p: Planter, at: Page, clear: int) -> Planted:
    shift, entry = p.mapped(p.place(at).page_va)
    va = p.place(at).page_va >> shift << shift
    p.set_entry(va, shift, entry & ~clear)
    return p.planted(va, p.frame(entry), size=1 << shift)


@fault("pgmap read-only", "hugetlb hugetlb-read-only")
def read_only(p: Planter, at: Page = Page()) -> Planted:
    """A leaf can't be written through."""
    return _change_leaf(p, at, RW)


@fault("pgmap executable")
def executable(p: Planter, at: Page = Page()) -> Planted:
    """A leaf can be executed from."""
    return _change_leaf(p, at, NX)


@fault("pgmap kernel-entries")
def kernel_entry(
    p: Planter, process: int = 1, to: Literal["nothing", "other"] = "nothing"
) -> Planted:
    """A process does not have the kernel's top-level entry for the vmemmap."""
    try:
        pgd = p.process_pgd(process)
    except IndexError:
        raise p.error(f"there is no process {process}") from None
    va = p.page_va(0)
    top, _, _ = p.path(va)[0]
    at = pgd + (va >> top & 511) * 8
    before = p.read(at)
    p.write(at, 0 if to == "nothing" else p.alloc_pages() * p.units.page_size | TABLE)
    findings = [Finding("pgmap", "kernel-entries", None, va)]
    return p.planted(va, findings=findings, expected=before, observed=p.read(at))
