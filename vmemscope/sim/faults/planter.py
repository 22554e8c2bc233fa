# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What faults are planted with: a kernel's memory, and a pagemap of it.

:class:`Planter` is written against the few :class:`~.primitives.Primitives`, so that the
same fault can be planted in the simulator's memory (:mod:`.simulated`) and in a
dump of any other kernel (the tests' ``patched.py``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..addresses import STRUCT_PAGE_SIZE
from ..hugetlb import Folio
from ..memmap import NODES_PGSHIFT
from ..pagetable import ADDRESS, KERNEL, PRESENT, PSE
from ..units import Units
from .planted import Change, Finding, Place, Planted, Record, Struct
from .primitives import Primitives

if TYPE_CHECKING:
    from .registry import Compound

__all__ = ("HugetlbPlanter", "Planter")


class Planter(Primitives):
    """
    A kernel's memory as a fault changes it.

    :param kind: of the fault
    :param rules: commands that must report it, and the rule of each
    :param record: the pagemap to plant it in; none for HugeTLB
    """

    record: Record
    #: of the kernel
    units = Units()

    def __init__(
        self, kind: str, rules: Collection[tuple[str, str]], record: Record | None
    ) -> None:
        self.kind = kind
        self.rules = rules
        self.owner = ""
        if record is not None:
            self.record = record
            self.owner = record.name
        self.changes: list[Change] = []

    def has_boot_memmap(self, section: int) -> bool:
        """Whether the memory map of a section was made at boot, of one large leaf."""
        return bool(self.large_page(self.page_va(section * self.units.pages_per_section)))

    def counts(self, name: str) -> bool:
        """Whether the kernel counts the size of its memory map."""
        try:
            self.symbol(name)
        except KeyError:
            return False
        return True

    def at_last(self, va: int, shift: int, entry: int) -> None:
        """Set an entry once everything else has been written."""
        self.set_entry(va, shift, entry)

    def count(self, name: str, by: int) -> None:
        """Add to such a counter."""
        va = self.symbol(name)
        self.write(va, self.read(va) + by)

    # Results.

    def error(self, message: str) -> UsageError:
        return UsageError(f"fault {self.kind}: {message}")

    def finding(self, command: str, rule: str, vaddr: int) -> Finding:
        """Make a finding of the pagemap, or of none if the command knows no pagemaps."""
        return Finding(command, rule, self.owner if command == "pgmap" else None, vaddr)

    def planted(
        self,
        vaddr: int,
        pfn: int | None = None,
        *,
        findings: Collection[Finding] | None = None,
        **details: Any,
    ) -> Planted:
        """
        Report what was done.

        :param findings: by default one of each of the fault's rules, at the address
        """
        if findings is None:
            findings = [self.finding(command, rule, vaddr) for command, rule in self.rules]
        return Planted(
            self.kind,
            self.owner,
            vaddr,
            pfn,
            details,
            frozenset(findings),
            tuple(self.changes),
        )

    def planted_in_frame(self, va: int, pfn: int, **details: Any) -> Planted:
        """
        Report what was done to a frame, or to what is in it.

        A frame that several devices share is reported with the first of them, where it is
        mapped first; :meth:`shared_from` finds that.

        :param va: address of what is wrong, through any entry that maps the frame
        """
        owner, first = self.shared_from(pfn) or (self.owner, va)
        size = self.units.page_size
        va = first // size * size + va % size
        findings = [
            Finding(command, rule, owner if command == "pgmap" else None, va)
            for command, rule in self.rules
        ]
        return self.planted(va, pfn, findings=findings, **details)

    def shared_from(self, pfn: int) -> tuple[str, int] | None:
        """Return the first pagemap that shares a frame with others, and where; ``None`` if none."""
        return None

    def entries_of(self, pfn: int, start: int, end: int) -> Iterator[int]:
        """Yield the pages of the memory map of page frames that map a frame with a base page."""
        for va in range(self.page_va(start), self.page_va(end), self.units.page_size):
            leaf = self.leaf(va)
            if leaf and leaf[0] == self.units.page_shift and self.frame_at(va) == pfn:
                yield va

    # Memory.

    def read(self, va: int, size: int = 8) -> int:
        return int.from_bytes(self.read_bytes(va, size), self.units.order)

    def write(self, va: int, value: int, size: int = 8) -> None:
        value &= (1 << size * 8) - 1
        self.changes.append(Change(va, size, False, self.read(va, size), value))
        self.write_bytes(va, value.to_bytes(size, self.units.order))

    def struct(self, name: str, va: int) -> Struct:
        """Return a structure at an address."""
        return Struct(self, name, va)

    @property
    def pgmap(self) -> Struct:
        """The pagemap's ``struct dev_pagemap``."""
        return self.struct("dev_pagemap", self.record.va)

    def has_member(self, name: str, path: str) -> bool:
        try:
            self.member(name, path)
        except KeyError:
            return False
        return True

    def offset(self, name: str, path: str) -> int:
        return self.member(name, path).offset

    def flag(self, name: str) -> int:
        """Return ``1 << PG_name``."""
        return 1 << self.constant(f"PG_{name}")

    def set_page_type(self, pfn: int, name: str) -> None:
        """Mark the use of a frame: slab, buddy or offline."""
        va = self.page_va(pfn)
        mapcount = va + self.offset("page", "_mapcount")
        try:
            self.write(mapcount, self.constant(f"PGTY_{name}") << 24 | 0xFFFFFF, 4)
        except KeyError:
            # Before 6.12: PAGE_TYPE_BASE with PG_buddy, 0x80, or PG_offline, 0x100, cleared.
            if name != "slab":
                self.write(mapcount, {"buddy": -129, "offline": -257}[name], 4)
        try:
            flag = self.flag(name)
        except KeyError:
            return
        self.write(va, self.read(va) | flag)

    def refcount(self, pfn: int) -> int:
        return self.read(self.page_va(pfn) + self.offset("page", "_refcount"), 4)

    def set_refcount(self, pfn: int, count: int) -> None:
        self.write(self.page_va(pfn) + self.offset("page", "_refcount"), count, 4)

    def get_page(self, pfn: int) -> None:
        # Page 0 is no System RAM, but has a struct page that can be counted in.
        if self.is_ram(pfn) or pfn == 0:
            self.set_refcount(pfn, self.refcount(pfn) + 1)

    def put_page(self, pfn: int) -> None:
        if self.is_ram(pfn) or pfn == 0:
            self.set_refcount(pfn, self.refcount(pfn) - 1)
            if self.refcount(pfn) == 0:
                self.free_page(pfn)

    def nid(self, pfn: int) -> int:
        """Return the node of a frame."""
        return self.read(self.page_va(pfn)) >> NODES_PGSHIFT

    def xarray_nodes(self) -> list[Struct]:
        """Return all nodes of pgmap_array, the root first."""
        head = self.struct("xarray", self.symbol("pgmap_array"))["xa_head"]
        nodes = [self.struct("xa_node", head - 2)]
        for node in nodes:
            if node["shift"]:
                slots = (node[f"slots[{i}]"] for i in range(64))
                nodes += [
                    self.struct("xa_node", slot - 2)
                    for slot in slots
                    if slot & 3 == 2 and slot > 4096
                ]
        return nodes

    def section(self, number: int) -> Struct | None:
        """Return a ``struct mem_section``; ``None`` if its root is not there."""
        size = self.member("mem_section", "").size
        per_root = self.units.page_size // size
        root = self.read(self.read(self.symbol("mem_section")) + number // per_root * 8)
        return self.struct("mem_section", root + number % per_root * size) if root else None

    # Page tables.

    def leaf(self, va: int) -> tuple[int, int] | None:
        """Return shift and entry of the leaf that maps an address, if there is one."""
        shift, _, entry = self.path(va)[-1]
        return (shift, entry) if entry & PRESENT else None

    def mapped(self, va: int) -> tuple[int, int]:
        """Return shift and entry of the leaf that maps an address."""
        leaf = self.leaf(va)
        if leaf is None:
            raise self.error(f"nothing is mapped at {va:#x}")
        return leaf

    def frame(self, entry: int) -> int:
        """Return the frame that an entry of a base page, or of a table, holds."""
        return (entry & ADDRESS) >> self.units.page_shift

    def pte(self, pfn: int, flags: int = KERNEL) -> int:
        """Make the entry of a base page, or of another leaf by its flags."""
        return pfn << self.units.page_shift | flags

    @property
    def per_page(self) -> int:
        """Struct pages in a page of the vmemmap."""
        return self.units.page_size // STRUCT_PAGE_SIZE

    def frame_at(self, va: int) -> int:
        """Return the frame that maps a page of the vmemmap."""
        shift, entry = self.mapped(va)
        offset = (1 << shift) - 1
        return (entry & ADDRESS & ~offset | va & offset) // self.units.page_size

    def entry(self, va: int, shift: int) -> int:
        """Return the entry of an existing table, 0 if there is no table."""
        return next((entry for level, _, entry in self.path(va) if level == shift), 0)

    def set_entry(self, va: int, shift: int, entry: int) -> None:
        """Set an entry of a page table, making the tables above it."""
        before = self.entry(va, shift)
        self.write_entry(va, shift, entry)
        self.changes.append(Change(va, shift, True, before, entry))

    def base_page(self, va: int) -> int:
        """Return the entry of a base page."""
        entry = self.entry(va, self.units.page_shift)
        if not entry & PRESENT:
            raise self.error(f"no base page is mapped at {va:#x}")
        return entry

    def large_page(self, va: int) -> int:
        """Return the entry of a large leaf, 0 if there is none."""
        entry = self.entry(va, self.units.pmd_shift)
        return entry if entry & PSE else 0

    def remap(self, va: int, pfn: int) -> int:
        """Make an entry map another frame and move the reference; return the old frame."""
        entry = self.base_page(va)
        self.get_page(pfn)
        self.set_entry(va, self.units.page_shift, entry & ~ADDRESS | pfn * self.units.page_size)
        self.put_page(self.frame(entry))
        return self.frame(entry)

    def copy_frame(self, pfn: int, nid: int | None = None) -> int:
        """Allocate a frame with the same content, by default on the pagemap's node."""
        copy = self.alloc_pages(0, self.record.nid if nid is None else nid)
        self.set_frame_bytes(copy, self.frame_bytes(pfn))
        return copy

    def private_copy(self, va: int, nid: int | None = None) -> int:
        """Have a page of the vmemmap in a frame of its own, with the same content; return it."""
        copy = self.copy_frame(self.frame_at(va), nid)
        # Allocated for this entry alone, so the reference is there already.
        self.set_refcount(copy, 0)
        return copy

    def alloc_block(self, va: int) -> int:
        """Allocate 2 MiB and copy what is mapped there now."""
        units = self.units
        block = self.alloc_pages(units.pmd_shift - units.page_shift, self.record.nid)
        for i in range(units.pmd_pages):
            self.set_frame_bytes(
                block + i, self.frame_bytes(self.frame_at(va + i * units.page_size))
            )
        return block

    def free_block(self, pfn: int) -> None:
        """Free an allocation of 2 MiB."""
        self.set_refcount(pfn, 0)
        for i in range(self.units.pmd_pages):
            self.free_page(pfn + i)

    def copy_to_device(self, pfn: int, to: int, count: int) -> None:
        """Copy frames to the device's data."""
        for i in range(count):
            self.set_frame_bytes(to + i, self.frame_bytes(pfn + i))

    # Places.

    @property
    def unused_pfn(self) -> int:
        """A page frame beyond all memory and devices, at the start of a section."""
        # Behind the large leaf, too, that its memory map may end in.
        leaf = self.units.leaf_pages * self.per_page
        step = max(self.units.pages_per_section, leaf)
        return (-(-self.memory_end // step) + 1) * step

    def pfns(self, index: int) -> tuple[int, int]:
        """Return one of the pagemap's ranges, in pfns."""
        try:
            return self.record.ranges[index]
        except IndexError:
            raise self.error(f"{self.record.name} has no range {index}") from None

    def place(self, at: Compound) -> Place:
        """Find the page of the vmemmap, or the struct page, that the options name."""
        units = self.units
        record = self.record
        start, end = self.pfns(at.range)
        if record.altmap:
            start = record.data_pfn
        head = start
        if record.vmemmap_shift:
            head += at.compound * record.per_compound
        elif at.compound:
            raise self.error(f"{record.name} has no compound pages")
        pfn = head + getattr(at, "page", 0) * units.page_size // STRUCT_PAGE_SIZE
        pfn += getattr(at, "struct_page", 0)
        limit = min(end, head + record.per_compound) if record.vmemmap_shift else end
        if not start <= head < end or pfn >= limit:
            raise self.error(f"that is outside {record.name}")
        va = self.page_va(pfn)
        return Place(head, pfn, va, va // units.page_size * units.page_size)

    def compound(self, at: Compound) -> Place:
        """The same, where it must be a compound page."""
        if not self.record.vmemmap_shift:
            raise self.error(f"{self.record.name} has no compound pages")
        return self.place(at)

    def tail(self, at: Compound) -> Place:
        """The same, where it must be a tail page."""
        place = self.compound(at)
        if place.pfn == place.head_pfn:
            raise self.error("struct page 0 is the head")
        return place

    def leaf_va(self, number: int, range_index: int = 0) -> int:
        """Return where the large leaf that one of the pagemap's sections starts in does."""
        va = self.section_va(number, range_index)
        return va // self.units.pmd_size * self.units.pmd_size

    def section_va(self, number: int, range_index: int = 0) -> int:
        """Return where the memory map of one of the pagemap's sections starts."""
        units = self.units
        start, end = self.record.ranges[range_index]
        pfn = -(-start // units.pages_per_section) * units.pages_per_section
        pfn += number * units.pages_per_section
        if pfn + units.pages_per_section > end:
            raise self.error(f"that is outside {self.record.name}")
        return self.page_va(pfn)


class HugetlbPlanter(Planter):
    """Plants faults in HugeTLB, of which the record is none."""

    @property
    @abstractmethod
    def folios(self) -> Sequence[Folio]:
        """The folios, in the order that faults number them."""

    @abstractmethod
    def forget_reset(self) -> None:
        """Change vmemmap_restore_pte() so that it resets no struct pages."""

    def folio(self, number: int) -> Folio:
        """Return a folio by its number; UsageError if there is none."""
        try:
            return self.folios[number]
        except IndexError:
            raise self.error(f"there is no folio {number}") from None

    def va(self, folio: int | Folio, page: int = 0) -> int:
        """Return the address of a page of a folio's vmemmap."""
        one = self.folio(folio) if isinstance(folio, int) else folio
        return self.page_va(one.pfn) + page * self.units.page_size

    def plain(self) -> Folio:
        """Return a folio that is not optimized; UsageError if there is none."""
        for folio in self.folios:
            if not folio.optimized:
                return folio
        raise self.error("there is no folio that is not optimized")

    def hstate(self, order: int) -> Struct:
        """Return the ``struct hstate`` of folios of an order."""
        base, size = self.symbol("hstates"), self.member("hstate", "").size
        found = (self.struct("hstate", base + i * size) for i in range(len(self.units.huge_orders)))
        return next(one for one in found if one["order"] == order)

    @property
    def has_shared_tails(self) -> bool:
        """Whether all folios of a zone share the frame of their tail pages (7.1)."""
        return self.has_member("zone", "vmemmap_tails")

    @property
    def key(self) -> Struct | None:
        """The static key that counts optimized folios, where there is one."""
        if self.has_shared_tails:
            return None
        return self.struct("static_key_false", self.symbol("hugetlb_optimize_vmemmap_key"))
