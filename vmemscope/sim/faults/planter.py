# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all that plant faults have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import UsageError
from ..addresses import STRUCT_PAGE_SIZE
from ..devices import PagemapRecord
from ..hugetlb import Folio
from ..kernel import Kernel
from ..pagetable import PMD_SHIFT, PMD_SIZE, PRESENT, PTE_SHIFT, frame, pte
from ..scenario import Fault
from ..units import PAGE_SIZE, PAGES_PER_SECTION

__all__ = ("PMD_PAGES", "HugetlbPlanter", "PagemapPlanter", "Place", "Planted", "Planter")

#: base pages in a large leaf
PMD_PAGES = PMD_SIZE // PAGE_SIZE

_ADDRESS = 0x000F_FFFF_FFFF_F000


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
class Place:
    """A page of the vmemmap, or a struct page in it."""

    record: PagemapRecord
    #: first pfn of the compound, or of the range
    head_pfn: int
    #: virtual address
    va: int

    @property
    def page_va(self) -> int:
        return self.va // PAGE_SIZE * PAGE_SIZE


class Planter:
    """What all planters have in common."""

    #: name of the pagemap that is planted in; none for HugeTLB
    owner = ""

    def __init__(self, kernel: Kernel, fault: Fault) -> None:
        self.kernel = kernel
        self.fault = fault
        self.tables = kernel.tables
        self.memmap = kernel.memmap

    def option(self, name: str) -> Any:
        return self.fault.options[name]

    def error(self, message: str) -> UsageError:
        name = self.kernel.scenario.name
        return UsageError(f"scenario {name}: fault {self.fault.kind}: {message}")

    def planted(self, vaddr: int, pfn: int | None = None, **details: Any) -> Planted:
        return Planted(self.fault.kind, self.owner, vaddr, pfn, details)

    def frame_at(self, va: int) -> int:
        """Get the frame that maps a page of the vmemmap."""
        pa = self.tables.translate(va)
        if pa is None:
            raise self.error(f"nothing is mapped at {va:#x}")
        return pa // PAGE_SIZE

    def base_page(self, va: int) -> int:
        """Get the entry of a base page."""
        entry = self.tables.entry(va, PTE_SHIFT)
        if not entry & PRESENT:
            raise self.error(f"no base page is mapped at {va:#x}")
        return entry


class PagemapPlanter(Planter):
    """What planters in a pagemap have in common."""

    def __init__(self, kernel: Kernel, fault: Fault) -> None:
        super().__init__(kernel, fault)
        self.record = kernel.pagemap(fault.pagemap)
        self.owner = self.record.name

    # Places.

    def range(self) -> tuple[int, int]:
        """Get the range that the fault is in, in pfns."""
        index: int = self.option("range")
        try:
            return self.record.ranges[index]
        except IndexError:
            raise self.error(f"{self.record.name} has no range {index}") from None

    def place(self) -> Place:
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
        return Place(self.record, head, va)

    def compound(self) -> Place:
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
        rows = self.kernel.physical.run(block, PMD_PAGES)
        for i in range(PMD_PAGES):
            rows[i] = self.kernel.physical.page(self.frame_at(va + i * PAGE_SIZE))
        return block

    def free_block(self, pfn: int) -> None:
        """Free an allocation of 2 MiB."""
        self.memmap.set_refcount(pfn, 0)
        for i in range(PMD_PAGES):
            self.kernel.pages.free_page(pfn + i)


class HugetlbPlanter(Planter):
    """What planters in HugeTLB have in common."""

    def __init__(self, kernel: Kernel, fault: Fault) -> None:
        super().__init__(kernel, fault)
        self.hugetlb = kernel.hugetlb

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

    def change(self, va: int, keep: int = -1, set_: int = 0) -> Planted:
        """Change bits of an entry."""
        entry = self.base_page(va)
        self.tables.set(va, PTE_SHIFT, entry & keep | set_)
        return self.planted(va, frame(entry))

    def remap(self, va: int, pfn: int) -> Planted:
        """Make an entry map another frame."""
        old = frame(self.base_page(va))
        self.change(va, ~_ADDRESS, pfn * PAGE_SIZE)
        return self.planted(va, pfn, old_pfn=old)
