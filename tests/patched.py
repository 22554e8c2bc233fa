# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults for dumps of real kernels: bytes that are changed, and what must be told of it.

Where something is comes from drgn with the kernel's own DWARF and from tables read
entry by entry (:mod:`tests.oracle_hugetlb`), never from the package under test. A
fault changes all that a kernel would have changed with it: when an entry maps another
frame, references move along.

Addresses are virtual unless they are called physical, pfns and vmemmap pages are of
4 KiB. x86-64 only. The guest has the devices of
:data:`tests.guests.devices.FIVE_DEVICES`.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from drgn import Object, Program, offsetof, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import follow_phys, page_to_pfn, pfn_to_page
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.pid import for_each_task

from . import oracle
from .oracle_hugetlb import entry_of

__all__ = ("FAULTS", "Fault", "Patch", "damaged", "patched")

PAGE = 4096
STRUCT_PAGE = 64
#: vmemmap pages and page frames of a compound page of 2 MiB
VPAGES, PAGES = 8, 512
SECTION = 1 << 15
LARGE = 2 << 20

PRESENT, RW, PSE, NX = 1 << 0, 1 << 1, 1 << 7, 1 << 63
FRAME = 0x000F_FFFF_FFFF_F000
#: of free blocks: MAX_ORDER of old kernels, MAX_PAGE_ORDER + 1 of new ones
_ORDERS = 11
#: entries as the kernel makes them: PAGE_KERNEL, PAGE_KERNEL_LARGE, _KERNPG_TABLE
KERNEL, KERNEL_LARGE, TABLE = NX | 0x163, NX | 0x1E3, 0x063


def _segments(core: Path) -> Iterator[tuple[int, int, int]]:
    """Get the segments of an ELF core: physical address, bytes, offset in the file."""
    with core.open("rb") as file:
        header = file.read(64)
        start, size, count = (
            int.from_bytes(header[at : at + n], "little") for at, n in ((32, 8), (54, 2), (56, 2))
        )
        for index in range(count):
            file.seek(start + index * size)
            raw = file.read(size)
            kind, offset, _, paddr, filesz = (
                int.from_bytes(raw[at : at + n], "little")
                for at, n in ((0, 4), (8, 8), (16, 8), (24, 8), (32, 8))
            )
            if kind == 1:
                yield paddr, filesz, offset


@contextlib.contextmanager
def damaged(core: Path, changes: Mapping[int, bytes]) -> Iterator[None]:
    """Change bytes at physical addresses of a dump, and put them back."""
    segments = list(_segments(core))
    kept: list[tuple[int, bytes]] = []
    with core.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        try:
            for physical, data in changes.items():
                for paddr, filesz, offset in segments:
                    if paddr <= physical and physical + len(data) <= paddr + filesz:
                        at = offset + physical - paddr
                        break
                else:
                    raise AssertionError(f"{physical:#x} is not in the dump")
                kept.append((at, memory[at : at + len(data)]))
                memory[at : at + len(data)] = data
            memory.flush()
            yield
        finally:
            for at, data in reversed(kept):
                memory[at : at + len(data)] = data


class Patch:
    """
    Changes to a dump, gathered before they are made.

    :param prog: the dump as it is, with DWARF
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        #: physical address -> bytes
        self.changes: dict[int, bytes] = {}
        self._free: list[tuple[int, int]] | None = None
        text = prog["VMCOREINFO"].string_().decode()
        self.info = dict(line.split("=", 1) for line in text.splitlines())
        #: log2 of what an entry of the top-level table covers
        self.top = 48 if self.info.get("NUMBER(pgtable_l5_enabled)") == "1" else 39
        self.pgmaps = {
            int(pgmap.range.start.value_()): pgmap for pgmap in oracle.for_each_pgmap(prog)
        }

    # Where things are.

    def page(self, pfn: int) -> int:
        """Get the address of a struct page."""
        return int(pfn_to_page(self.prog, pfn).value_())

    def physical(self, address: int) -> int:
        return int(follow_phys(self.prog["init_mm"].address_of_(), address).value_())

    def frame(self, address: int) -> int:
        """Get the frame behind an address."""
        return self.physical(address) // PAGE

    def entry(self, address: int) -> tuple[int, int, int]:
        """Get physical address, value and bytes mapped of the leaf entry for an address."""
        found = entry_of(self.prog, address)
        assert found is not None
        return found

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Get the free blocks of the page allocator, small ones first: order, first pfn."""
        for order in range(_ORDERS):
            for nid in range(64):
                node = self.prog["node_data"][nid]
                for zone in node.node_zones if node else ():
                    # Of zones without pages the lists may never have been made.
                    if not zone.present_pages:
                        continue
                    for head in zone.free_area[order].free_list:
                        for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
                            yield order, int(page_to_pfn(page).value_())

    def free(self, order: int) -> int:
        """Take pages that are free, all of them in use from now on; get the first pfn."""
        if self._free is None:
            self._free = list(self._blocks())
        found = next(block for block in self._free if block[0] >= order)
        self._free.remove(found)
        pfn = found[1]
        # No mark of the buddy allocator (in page_type, which is -1 then, or in _mapcount
        # before), and a reference each.
        for i in range(1 << order):
            self.write(self.page(pfn + i) + 48, 0xFFFFFFFF, 4)
            self.set_refcount(pfn + i, 1)
        return pfn

    # Changes.

    def write(self, address: int, value: int, size: int = 8) -> None:
        """Change a number."""
        self.put(self.physical(address), value, size)

    def put(self, physical: int, value: int, size: int = 8) -> None:
        """Change a number at a physical address."""
        self.changes[physical] = (value % (1 << 8 * size)).to_bytes(size, "little")

    def read(self, address: int, size: int = 8) -> int:
        """Read a number as it is before all changes."""
        return int.from_bytes(self.prog.read(address, size), "little")

    def member(self, one: Object, path: str, value: int) -> None:
        """Change a member of a structure, or of what a pointer points to."""
        member = one
        for name in path.split("."):
            member = member.member_(name)
        assert member.address_ is not None
        self.write(member.address_, value, sizeof(member))

    def set_entry(self, address: int, entry: int) -> None:
        """Change the leaf entry that maps an address."""
        self.put(self.entry(address)[0], entry)

    def refcount(self, pfn: int) -> int:
        at = self.page(pfn) + 52
        changed = self.changes.get(self.physical(at))
        return int.from_bytes(changed, "little") if changed else self.read(at, 4)

    def set_refcount(self, pfn: int, count: int) -> None:
        self.write(self.page(pfn) + 52, count, 4)

    def remap(self, address: int, pfn: int, counted: bool = True) -> None:
        """Make a base page map another frame, and move the reference."""
        _, entry, size = self.entry(address)
        assert size == PAGE
        self.set_entry(address, entry & ~FRAME | pfn << 12)
        old = (entry & FRAME) >> 12
        self.set_refcount(old, self.refcount(old) - 1)
        if counted:
            self.set_refcount(pfn, self.refcount(pfn) + 1)


class Told(NamedTuple):
    """A finding that a fault must give."""

    rule: str
    #: start of the pagemap's range that it is of; ``None`` if of none
    owner: int | None
    vaddr: int


@dataclass(frozen=True)
class Expected:
    """All findings that a fault must give, by command."""

    pgmap: frozenset[Told] = frozenset()
    memmap: frozenset[tuple[str, int]] = frozenset()
    hugetlb: frozenset[tuple[str, int]] = frozenset()


Change = Callable[[Patch], Expected]


@dataclass(frozen=True)
class Fault:
    """A kind of damage, and the rule that it is of."""

    rule: str
    change: Change
    #: series of kernels that can have it; none: all
    only: tuple[str, ...] = ()


FAULTS: dict[str, Fault] = {}


def _fault(rule: str, *only: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        FAULTS[change.__name__.strip("_").replace("_", "-")] = Fault(rule, change, only)
        return change

    return register


# The devices: devdax with pages of 2 MiB, 1 GiB and 4 KiB; the same on an altmap; fsdax.
DAX_2M, ALTMAP, DAX_1G, FSDAX, DAX_4K = (
    0x100000000, 0x120000000, 0x150000000, 0x210000000, 0x220000000,
)  # fmt: skip


def _of(patch: Patch, owner: int) -> int:
    return int(patch.pgmaps[owner].value_())


def _one(rule: str, owner: int, vaddr: int) -> Expected:
    return Expected(pgmap=frozenset({Told(rule, owner, vaddr)}))


def _in_memmap(*told: tuple[str, int]) -> Expected:
    return Expected(memmap=frozenset(told))


def _vpage(patch: Patch, compound: int, page: int = 0) -> int:
    """Get a page of the vmemmap of a compound page of 2 MiB."""
    return patch.page((DAX_2M >> 12) + compound * PAGES) + page * PAGE


def _large(patch: Patch) -> int:
    """Take 2 MiB for a large leaf: only the first frame has a reference."""
    block = patch.free(9)
    for i in range(1, 512):
        patch.set_refcount(block + i, 0)
    return block


# Entries of page tables.


@_fault("hole")
def _hole(patch: Patch) -> Expected:
    address = _vpage(patch, 3, 2)
    frame = patch.frame(address)
    patch.set_entry(address, 0)
    patch.set_refcount(frame, patch.refcount(frame) - 1)
    return Expected(
        pgmap=frozenset({Told("hole", DAX_2M, address)}),
        memmap=frozenset({("section-unmapped", address)}),
    )


@_fault("hole")
def _hole_of_a_large_leaf(patch: Patch) -> Expected:
    address = patch.page((FSDAX >> 12) + SECTION)
    assert patch.entry(address)[2] == LARGE
    patch.set_entry(address, 0)
    return Expected(
        pgmap=frozenset({Told("hole", FSDAX, address)}),
        memmap=frozenset({("section-unmapped", address)}),
    )


@_fault("tail-frame")
def _tail_of_the_neighbour(patch: Patch) -> Expected:
    address = _vpage(patch, 5, 3)
    patch.remap(address, patch.frame(_vpage(patch, 6, 1)))
    return _one("tail-frame", DAX_2M, address)


@_fault("tail-frame")
def _tail_of_another_device(patch: Patch) -> Expected:
    address = _vpage(patch, 5, 6)
    patch.remap(address, patch.frame(patch.page(DAX_1G >> 12) + PAGE))
    return _one("tail-frame", DAX_2M, address)


@_fault("tail-frame")
def _tail_of_a_gigantic_page_on_its_head(patch: Patch) -> Expected:
    head = patch.page(DAX_1G >> 12)
    patch.remap(head + 1000 * PAGE, patch.frame(head))
    return _one("tail-frame", DAX_1G, head + 1000 * PAGE)


@_fault("frame-shared")
def _head_of_another(patch: Patch) -> Expected:
    address = _vpage(patch, 9)
    patch.remap(address, patch.frame(_vpage(patch, 8)))
    return _one("frame-shared", DAX_2M, address)


@_fault("frame-not-memory")
def _tail_on_frame_0(patch: Patch) -> Expected:
    address = _vpage(patch, 7, 4)
    patch.remap(address, 0)
    return _one("frame-not-memory", DAX_2M, address)


@_fault("frame-not-memory")
def _tail_outside(patch: Patch) -> Expected:
    address = _vpage(patch, 7, 4)
    patch.remap(address, 0x3FFFFFF, counted=False)
    return _one("frame-not-memory", DAX_2M, address)


@_fault("not-deduplicated")
def _missing_dedup(patch: Patch) -> Expected:
    tail = patch.prog.read(_vpage(patch, 11, 1), PAGE)
    block = patch.free(3)
    for page in range(2, VPAGES):
        frame = block + page
        patch.remap(_vpage(patch, 11, page), frame, counted=False)
        patch.changes[frame * PAGE] = tail
    return _one("not-deduplicated", DAX_2M, _vpage(patch, 11, 1))


@_fault("leaf-size")
def _huge_leaf(patch: Patch) -> Expected:
    address = patch.page((DAX_2M >> 12) + SECTION)
    block = _large(patch)
    patch.changes[block * PAGE] = patch.prog.read(address, LARGE)
    for page in range(address, address + LARGE, PAGE):
        frame = patch.frame(page)
        patch.set_refcount(frame, patch.refcount(frame) - 1)
    patch.put(_entry_above(patch, address), block * PAGE | KERNEL_LARGE)
    return _one("leaf-size", DAX_2M, address)


@_fault("leaf-fallback")
def _base_pages(patch: Patch) -> Expected:
    address = patch.page((DAX_4K >> 12) + SECTION)
    at, entry, size = patch.entry(address)
    assert size == LARGE
    block = (entry & FRAME & ~(LARGE - 1)) >> 12
    table = patch.free(0)
    patch.changes[table * PAGE] = b"".join(
        ((block + i) * PAGE | KERNEL).to_bytes(8, "little") for i in range(512)
    )
    for i in range(512):
        patch.set_refcount(block + i, 1)
    patch.put(at, table * PAGE | TABLE)
    return _one("leaf-fallback", DAX_4K, address)


@_fault("read-only")
def _read_only(patch: Patch) -> Expected:
    address = _vpage(patch, 6, 4)
    patch.set_entry(address, patch.entry(address)[1] & ~RW)
    return Expected(
        pgmap=frozenset({Told("read-only", DAX_2M, address)}),
        hugetlb=frozenset({("hugetlb-read-only", address)}),
    )


@_fault("executable")
def _executable(patch: Patch) -> Expected:
    address = _vpage(patch, 6, 5)
    patch.set_entry(address, patch.entry(address)[1] & ~NX)
    return _one("executable", DAX_2M, address)


@_fault("executable")
def _executable_large_leaf(patch: Patch) -> Expected:
    address = patch.page((DAX_4K >> 12) + 2 * SECTION)
    patch.set_entry(address, patch.entry(address)[1] & ~NX)
    return _one("executable", DAX_4K, address)


@_fault("altmap-frame")
def _altmap_in_the_data(patch: Patch) -> Expected:
    address = patch.page((ALTMAP >> 12) + SECTION)
    altmap = patch.pgmaps[ALTMAP].altmap
    data = altmap.base_pfn.value_() + altmap.reserve.value_() + altmap.free.value_()
    block = -(-data // 512) * 512
    patch.set_entry(address, block * PAGE | KERNEL_LARGE)
    return _one("altmap-frame", ALTMAP, address)


@_fault("kernel-entries")
def _kernel_entry(patch: Patch) -> Expected:
    start = patch.page(0)
    task = next(task for task in for_each_task(patch.prog) if task.mm)
    at = task.mm.pgd.value_() + (start >> patch.top & 511) * 8
    assert patch.read(at) & PRESENT
    patch.write(at, 0)
    return Expected(pgmap=frozenset({Told("kernel-entries", None, start)}))


# Reference counts.


@_fault("refcount-low")
def _refcount_low(patch: Patch) -> Expected:
    address = _vpage(patch, 20, 1)
    patch.set_refcount(patch.frame(address), VPAGES - 2)
    return _one("refcount-low", DAX_2M, address)


@_fault("refcount-high")
def _refcount_high(patch: Patch) -> Expected:
    address = _vpage(patch, 21)
    patch.set_refcount(patch.frame(address), 2)
    return _one("refcount-high", DAX_2M, address)


@_fault("refcount-high")
def _refcount_high_of_a_gigantic_page(patch: Patch) -> Expected:
    address = patch.page(DAX_1G >> 12) + PAGE
    patch.set_refcount(patch.frame(address), 4096)
    return _one("refcount-high", DAX_1G, address)


# What frames are marked for.


def _flag(patch: Patch, address: int, name: str) -> None:
    """Set a flag of the frame behind an address."""
    at = patch.page(patch.frame(address))
    patch.write(at, patch.read(at) | 1 << patch.prog.constant(name).value_())


@_fault("frame-free")
def _frame_free(patch: Patch) -> Expected:
    address = _vpage(patch, 22, 1)
    buddy = int(patch.info["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"])
    patch.write(patch.page(patch.frame(address)) + 48, buddy, 4)
    return _one("frame-free", DAX_2M, address)


@_fault("frame-foreign")
def _frame_on_a_list(patch: Patch) -> Expected:
    address = _vpage(patch, 23)
    _flag(patch, address, "PG_lru")
    return _one("frame-foreign", DAX_2M, address)


@_fault("frame-foreign")
def _frame_of_a_process(patch: Patch) -> Expected:
    address = _vpage(patch, 24, 1)
    # _mapcount counts from -1.
    patch.write(patch.page(patch.frame(address)) + 48, 0, 4)
    return _one("frame-foreign", DAX_2M, address)


@_fault("frame-poisoned")
def _frame_poisoned(patch: Patch) -> Expected:
    address = patch.page(DAX_1G >> 12) + PAGE
    _flag(patch, address, "PG_hwpoison")
    return _one("frame-poisoned", DAX_1G, address)


@_fault("frame-node")
def _frame_of_another_node(patch: Patch) -> Expected:
    address = _vpage(patch, 25)
    at = patch.page(patch.frame(address))
    # NODES_SHIFT is 10 in Debian's kernels.
    patch.write(at, patch.read(at) | 1 << 54)
    return _one("frame-node", DAX_2M, address)


def _add_references(patch: Patch, owner: int, by: int) -> None:
    pointer = patch.pgmaps[owner].ref.percpu_count_ptr.value_()
    cpu = next(iter(for_each_possible_cpu(patch.prog)))
    counter = per_cpu_ptr(Object(patch.prog, "unsigned long *", pointer), cpu)
    patch.write(counter.value_(), counter[0].value_() + by)


@_fault("pagemap-ref-low")
def _ref_lost(patch: Patch) -> Expected:
    _add_references(patch, FSDAX, -1)
    return _one("pagemap-ref-low", FSDAX, _of(patch, FSDAX))


@_fault("pagemap-ref-high")
def _ref_leaked(patch: Patch) -> Expected:
    _add_references(patch, ALTMAP, 3)
    return _one("pagemap-ref-high", ALTMAP, _of(patch, ALTMAP))


# Contents of struct pages.


@_fault("head-flag")
def _head_flag_lost(patch: Patch) -> Expected:
    address = _vpage(patch, 40)
    flag = 1 << patch.prog.constant("PG_head").value_()
    patch.write(address, patch.read(address) & ~flag)
    return _one("head-flag", DAX_2M, address)


@_fault("compound-head")
def _tail_wrong_head(patch: Patch) -> Expected:
    address = _vpage(patch, 41) + 5 * STRUCT_PAGE
    patch.write(address + 8, _vpage(patch, 40) | 1)
    return _one("compound-head", DAX_2M, address)


@_fault("compound-order")
def _wrong_order(patch: Patch) -> Expected:
    address = _vpage(patch, 42) + STRUCT_PAGE
    # In the lowest byte of its flags since 6.6, in a member of its own before.
    try:
        offset = offsetof(patch.prog.type("struct page"), "compound_order")
    except LookupError:
        offset = 0
    assert patch.read(address + offset, 1) == 9
    patch.write(address + offset, 8, 1)
    return _one("compound-order", DAX_2M, address)


@_fault("pgmap-link")
def _wrong_pgmap(patch: Patch) -> Expected:
    address = _vpage(patch, 43)
    assert patch.read(address + 8) == _of(patch, DAX_2M)
    patch.write(address + 8, _of(patch, FSDAX))
    return _one("pgmap-link", DAX_2M, address)


@_fault("pgmap-link")
def _wrong_pgmap_of_a_base_page(patch: Patch) -> Expected:
    address = patch.page((FSDAX >> 12) + 199)
    assert patch.read(address + 8) == _of(patch, FSDAX)
    patch.write(address + 8, _of(patch, DAX_4K))
    return _one("pgmap-link", FSDAX, address)


def _set_flag(patch: Patch, address: int, name: str) -> None:
    patch.write(address, patch.read(address) ^ 1 << patch.prog.constant(name).value_())


@_fault("stray-head")
def _stray_head(patch: Patch) -> Expected:
    address = _vpage(patch, 44, 1) + 7 * STRUCT_PAGE
    _set_flag(patch, address, "PG_head")
    return _one("stray-head", DAX_2M, address)


@_fault("stray-head")
def _stray_head_of_a_base_page(patch: Patch) -> Expected:
    address = patch.page((DAX_4K >> 12) + 60)
    _set_flag(patch, address, "PG_head")
    return _one("stray-head", DAX_4K, address)


@_fault("tail-contents")
def _tail_written(patch: Patch) -> Expected:
    # page->mapping of all tail pages is TAIL_MAPPING.
    address = _vpage(patch, 45, 1) + 33 * STRUCT_PAGE
    patch.write(address + 24, 0)
    return _one("tail-contents", DAX_2M, address)


@_fault("tail-contents")
def _tail_of_a_gigantic_page_written(patch: Patch) -> Expected:
    address = patch.page(DAX_1G >> 12) + 60 * STRUCT_PAGE
    patch.write(address + 40, 0x1234)
    return _one("tail-contents", DAX_1G, address)


@_fault("page-refcount")
def _tail_referenced(patch: Patch) -> Expected:
    address = _vpage(patch, 46) + 9 * STRUCT_PAGE
    patch.write(address + 52, 1, 4)
    return _one("page-refcount", DAX_2M, address)


@_fault("page-refcount")
def _base_page_put(patch: Patch) -> Expected:
    # In the first page of its memory map: of so many, not all are in the sample.
    address = patch.page((DAX_4K >> 12) + 50)
    assert patch.read(address + 52, 4) == 1
    patch.write(address + 52, 0, 4)
    return _one("page-refcount", DAX_4K, address)


@_fault("page-zone")
def _not_reserved(patch: Patch) -> Expected:
    address = _vpage(patch, 47)
    _set_flag(patch, address, "PG_reserved")
    return _one("page-zone", DAX_2M, address)


@_fault("page-zone")
def _base_page_of_another_zone(patch: Patch) -> Expected:
    # NODES_SHIFT is 10 in Debian's kernels; three bits of zone are below.
    address = patch.page((FSDAX >> 12) + 70)
    flags = patch.read(address)
    assert flags >> 51 & 7 == patch.prog.constant("ZONE_DEVICE").value_()
    patch.write(address, flags ^ 1 << 51)
    return _one("page-zone", FSDAX, address)


@_fault("page-uninitialised")
def _uninitialised(patch: Patch) -> Expected:
    address = patch.page((FSDAX >> 12) + 1000)
    for at in range(address, address + 100 * STRUCT_PAGE, 8):
        patch.write(at, (1 << 64) - 1)
    return _one("page-uninitialised", FSDAX, address)


@_fault("page-uninitialised")
def _tail_frame_lost(patch: Patch) -> Expected:
    address = _vpage(patch, 48, 1)
    patch.changes[patch.physical(address)] = bytes(PAGE)
    return _one("page-uninitialised", DAX_2M, address)


# struct dev_pagemap and what leads to it.


@_fault("range-invalid")
def _range_inverted(patch: Patch) -> Expected:
    pgmap = patch.pgmaps[DAX_4K]
    start, end = pgmap.range.start.value_(), pgmap.range.end.value_()
    patch.member(pgmap, "range.start", end)
    patch.member(pgmap, "range.end", start)
    return _one("range-invalid", DAX_4K, pgmap.value_())


@_fault("range-overlap")
def _range_overlap(patch: Patch) -> Expected:
    pgmap = patch.pgmaps[DAX_2M]
    patch.member(pgmap, "range.end", ALTMAP + LARGE - 1)
    # The first has frames now that pgmap_array does not.
    return Expected(
        pgmap=frozenset(
            {
                Told("range-overlap", ALTMAP, _of(patch, ALTMAP)),
                Told("xarray", DAX_2M, pgmap.value_()),
            }
        )
    )


@_fault("nr-range")
def _nr_range_absurd(patch: Patch) -> Expected:
    pgmap = patch.pgmaps[DAX_2M]
    patch.member(pgmap, "nr_range", 0x7FFFFFFF)
    return _one("nr-range", DAX_2M, pgmap.value_())


@_fault("vmemmap-shift")
def _shift_absurd(patch: Patch) -> Expected:
    pgmap = patch.pgmaps[DAX_2M]
    patch.member(pgmap, "vmemmap_shift", 63)
    return _one("vmemmap-shift", DAX_2M, pgmap.value_())


def _nodes(patch: Patch) -> Iterator[tuple[Object, int]]:
    """Get all nodes of pgmap_array with the first index of each, the root first."""
    head = patch.prog["pgmap_array"].xa_head.value_()
    todo = [(head, 0)]
    while todo:
        entry, first = todo.pop()
        if entry & 3 != 2 or entry <= 4096:
            continue
        node = Object(patch.prog, "struct xa_node *", entry - 2)
        yield node, first
        shift = node.shift.value_()
        todo += [(slot.value_(), first + (i << shift)) for i, slot in enumerate(node.slots)]


@_fault("xarray")
def _xarray_stray(patch: Patch) -> Expected:
    # Behind all devices, where there is nothing.
    for node, first in _nodes(patch):
        shift = node.shift.value_()
        for i, slot in enumerate(node.slots):
            if not slot and first + (i << shift) > 0x280000:
                patch.write(slot.address_, _of(patch, FSDAX))
                return _one("xarray", FSDAX, _of(patch, FSDAX))
    raise AssertionError("pgmap_array is full")


@_fault("xarray")
def _xarray_cycle(patch: Patch) -> Expected:
    nodes = [node for node, _ in _nodes(patch)]
    slot = next(slot for node in reversed(nodes) for slot in node.slots if not slot)
    patch.write(slot.address_, nodes[0].value_() | 2)
    return Expected(pgmap=frozenset({Told("xarray", None, nodes[0].value_())}))


@_fault("resource-tree")
def _resource_cycle(patch: Patch) -> Expected:
    first = last = patch.prog["iomem_resource"].child
    while last.sibling:
        last = last.sibling
    patch.member(last, "sibling", first.value_())
    return Expected(pgmap=frozenset({Told("resource-tree", None, first.value_())}))


# Sections, and what the vmemmap has beside that of devices.


def _section(patch: Patch, pfn: int) -> Object:
    per_root = PAGE // sizeof(patch.prog.type("struct mem_section"))
    return patch.prog["mem_section"][pfn // SECTION // per_root][pfn // SECTION % per_root]


@_fault("subsection-map")
def _subsection_lost(patch: Patch) -> Expected:
    pfn = (DAX_2M >> 12) + 9 * PAGES
    bits = _section(patch, pfn).usage.subsection_map[0]
    patch.write(bits.address_, bits.value_() & ~(1 << 9))
    address = patch.page(pfn)
    return Expected(
        pgmap=frozenset({Told("subsection-map", DAX_2M, address)}),
        memmap=frozenset({("subsection-map", address), ("vmemmap-leak", address)}),
    )


@_fault("section-stale")
def _device_gone_without_its_sections(patch: Patch) -> Expected:
    for node, _ in _nodes(patch):
        for i, slot in enumerate(node.slots):
            value = slot.value_()
            # The entry itself, or a sibling that points to it.
            if value == _of(patch, FSDAX) or (
                value & 3 == 2
                and value <= 4096
                and node.slots[value >> 2].value_() == _of(patch, FSDAX)
            ):
                patch.write(node.slots[i].address_, 0)
    return _in_memmap(("section-stale", patch.page(FSDAX >> 12)))


@_fault("section-map")
def _section_map(patch: Patch) -> Expected:
    pfn = (DAX_2M >> 12) + SECTION
    section = _section(patch, pfn)
    patch.member(section, "section_mem_map", section.section_mem_map.value_() ^ 1 << 20)
    return _in_memmap(("section-map", patch.page(pfn)))


@_fault("section-usage")
def _usage_lost(patch: Patch) -> Expected:
    pfn = (DAX_2M >> 12) + SECTION
    patch.member(_section(patch, pfn), "usage", 0)
    return _in_memmap(("section-usage", patch.page(pfn)))


@_fault("section-unmapped")
def _boot_memmap_hole(patch: Patch) -> Expected:
    address = patch.page(5 * SECTION)
    assert patch.entry(address)[2] == LARGE
    patch.set_entry(address, 0)
    told = {("section-unmapped", address)}
    # What is not there is counted all the same (6.11+).
    with contextlib.suppress(LookupError):
        told.add(("memmap-counter", patch.prog["nr_memmap_boot_pages"].address_ or 0))
    return Expected(memmap=frozenset(told))


@_fault("vmemmap-leak")
def _leak(patch: Patch) -> Expected:
    pgmap = patch.pgmaps[DAX_4K]
    end = (pgmap.range.end.value_() + 1) >> 12
    address = patch.page(end - SECTION) + LARGE
    at, _, size = patch.entry(address - LARGE)
    # In the same table.
    assert size == LARGE
    assert (at + 8) % PAGE
    assert not patch.prog.read_u64(at + 8, True)
    patch.put(at + 8, _large(patch) * PAGE | KERNEL_LARGE)
    return _in_memmap(("vmemmap-leak", address))


def _entry_above(patch: Patch, address: int) -> int:
    """Get the physical address of the entry that points to the table of base pages."""
    table, physical = patch.prog["init_mm"].pgd.value_(), False
    for shift in range(patch.top, 21, -9):
        entry = patch.prog.read_u64(table + (address >> shift & 511) * 8, physical)
        table, physical = entry & FRAME, True
    return int(table + (address >> 21 & 511) * 8)


@_fault("memmap-counter", "6.12", "7.2")
def _counter(patch: Patch) -> Expected:
    counter = patch.prog["nr_memmap_pages"]
    patch.write(counter.address_, counter.counter.value_() + 5)
    return _in_memmap(("memmap-counter", counter.address_))


def patched(prog: Program, name: str) -> tuple[dict[int, bytes], Expected]:
    """Get the bytes to change for a fault of :data:`FAULTS`, and what must be told of it."""
    patch = Patch(prog)
    expected = FAULTS[name].change(patch)
    return patch.changes, expected
