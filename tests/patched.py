# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults for dumps of real kernels: bytes that are changed, and what must be reported of it.

What a fault changes is written once, in :mod:`vmemscope.sim.faults`, against a few
primitives. Here these are given by a dump: where something is comes from drgn with the
kernel's own DWARF and from the tests' own walker (:mod:`tests.oracle`), never from what
audits.

Addresses are virtual unless they are called physical, pfns and vmemmap pages are of
4 KiB. x86-64 only. The guest has the devices of
:data:`tests.guests.devices.FIVE_DEVICES`.
"""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from drgn import FaultError, Object, Program, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_pfn, pfn_to_page
from drgn.helpers.linux.percpu import per_cpu_ptr

from vmemscope.sim.faults import FAULTS as KINDS
from vmemscope.sim.faults import HUGETLB_FAULTS as HUGETLB_KINDS
from vmemscope.sim.faults import Finding, HugetlbPlanter, Planted, Planter
from vmemscope.sim.hugetlb import Folio
from vmemscope.sim.layouts import Member

from . import oracle, oracle_hugetlb
from .oracle import FRAME, PRESENT

__all__ = ("FAULTS", "HUGETLB_FAULTS", "Fault", "Memory", "damaged", "patched")

PAGE = 4096
#: of free blocks: MAX_ORDER of old kernels, MAX_PAGE_ORDER + 1 of new ones
_ORDERS = 11
#: _KERNPG_TABLE
_TABLE = 0x063


def _segments(core: Path) -> Iterator[tuple[int, int, int]]:
    """Return the segments of an ELF core: physical address, bytes, offset in the file."""
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


class Pagemap(NamedTuple):
    """A pagemap of a dump, called by where its range starts."""

    name: str
    va: int
    nid: int
    altmap: bool
    ranges: list[tuple[int, int]]
    data_pfn: int
    vmemmap_shift: int

    @property
    def per_compound(self) -> int:
        return 1 << self.vmemmap_shift


class Memory:
    """
    A dump's memory and changes to it, gathered before they are made.

    :param prog: the dump as it is, with DWARF
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        #: changed pages of physical memory
        self.frames: dict[int, bytearray] = {}
        self.root, self.top = oracle.root_of(prog)
        self.pgmaps = {
            int(pgmap.range.start.value_()): pgmap for pgmap in oracle.for_each_pgmap(prog)
        }

    @property
    def changes(self) -> dict[int, bytes]:
        """Physical address -> bytes."""
        return {pfn * PAGE: bytes(data) for pfn, data in self.frames.items()}

    def read(self, physical: int, size: int) -> bytes:
        """Read what does not cross the end of a changed page."""
        frame = self.frames.get(physical // PAGE)
        if frame is None:
            return bytes(self.prog.read(physical, size, True))
        return bytes(frame[physical % PAGE : physical % PAGE + size])

    def write(self, physical: int, data: bytes) -> None:
        pfn = physical // PAGE
        if pfn not in self.frames:
            self.frames[pfn] = bytearray(self.prog.read(pfn * PAGE, PAGE, True))
        self.frames[pfn][physical % PAGE : physical % PAGE + len(data)] = data

    def walk(self, va: int) -> list[oracle.Step]:
        word = lambda at: int.from_bytes(self.read(at, 8), "little")  # noqa: E731
        return list(oracle.walk(word, self.root, self.top, va))

    def physical(self, va: int) -> int:
        shift, _, entry = self.walk(va)[-1]
        assert entry & PRESENT, hex(va)
        offset = (1 << shift) - 1
        return entry & FRAME & ~offset | va & offset

    @cached_property
    def free(self) -> list[tuple[int, int]]:
        """The free blocks of the page allocator, small ones first: order, first pfn."""
        return list(self._blocks())

    def _blocks(self) -> Iterator[tuple[int, int]]:
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

    def take(self, order: int) -> int:
        """Take a free block; return its first pfn."""
        found = next(block for block in self.free if block[0] >= order)
        self.free.remove(found)
        rest = [(each, found[1] + (1 << each)) for each in range(order, found[0])]
        self.free[:0] = rest
        return found[1]

    def pagemap(self, start: int) -> Pagemap:
        """Describe the pagemap whose range starts at a physical address."""
        pgmap = self.pgmaps[start]
        altmap = pgmap.altmap if pgmap.flags.value_() & 1 else None
        first = start // PAGE
        if altmap is not None:
            members = altmap.base_pfn, altmap.reserve, altmap.free
            first = sum(int(one.value_()) for one in members)
        try:
            # NODES_SHIFT is 10 in Debian's kernels.
            nid = self.prog.read_u64(pfn_to_page(self.prog, first).value_()) >> 54
        except FaultError:
            # A dump of RAM lacks what an altmap holds; those devices are on node 0.
            nid = 0
        return Pagemap(
            hex(start),
            int(pgmap.value_()),
            nid,
            altmap is not None,
            [(start // PAGE, (int(pgmap.range.end.value_()) + 1) // PAGE)],
            first,
            int(pgmap.vmemmap_shift.value_()),
        )


class DumpPlanter(Planter):
    """Plants faults in a dump's memory."""

    def __init__(
        self, memory: Memory, kind: str, rules: Collection[tuple[str, str]], owner: int | None
    ) -> None:
        super().__init__(kind, rules, None if owner is None else memory.pagemap(owner))
        self.memory = memory
        self.prog = memory.prog

    def member(self, name: str, path: str) -> Member:
        one = Object(self.prog, f"struct {name}", address=0)
        try:
            for index, step in re.findall(r"\[(\d+)\]|(\w+)", path):
                one = one[int(index)] if index else one.member_(step)
        except LookupError:
            raise KeyError(f"{name}.{path}") from None
        if one.bit_field_size_ is None:
            return Member(one.address_ or 0, sizeof(one))
        bits = one.bit_offset_ or 0, one.bit_field_size_
        return Member(one.address_ or 0, (sum(bits) + 7) // 8, bits)

    def constant(self, name: str) -> int:
        try:
            return int(self.prog.constant(name).value_())
        except LookupError:
            raise KeyError(name) from None

    def symbol(self, name: str) -> int:
        try:
            return int(self.prog.symbol(name).address)
        except LookupError:
            raise KeyError(name) from None

    def page_va(self, pfn: int) -> int:
        return int(pfn_to_page(self.prog, pfn).value_())

    def read_bytes(self, va: int, size: int) -> bytes:
        return self.memory.read(self.memory.physical(va), size)

    def write_bytes(self, va: int, data: bytes) -> None:
        self.memory.write(self.memory.physical(va), data)

    def frame_bytes(self, pfn: int) -> bytes:
        return self.memory.read(pfn * PAGE, PAGE)

    def set_frame_bytes(self, pfn: int, data: bytes) -> None:
        self.memory.frames[pfn] = bytearray(data)

    def copy_to_device(self, pfn: int, to: int, count: int) -> None:
        """Nothing: a dump need not have a device's data."""

    def path(self, va: int) -> list[tuple[int, int, int]]:
        return [(shift, at // PAGE, entry) for shift, at, entry in self.memory.walk(va)]

    def write_entry(self, va: int, shift: int, entry: int) -> None:
        while (last := self.memory.walk(va)[-1]).shift > shift:
            assert not last.entry & PRESENT, hex(va)
            table = self.alloc_pages()
            self.set_frame_bytes(table, bytes(PAGE))
            self.memory.write(last.at, (table * PAGE | _TABLE).to_bytes(8, "little"))
        at = next(step.at for step in self.memory.walk(va) if step.shift == shift)
        self.memory.write(at, entry.to_bytes(8, "little"))

    def alloc_pages(self, order: int = 0, nid: int = 0) -> int:
        pfn = self.memory.take(order)
        for i in range(1 << order):
            # No mark of the buddy allocator: in page_type, or in _mapcount before.
            self.write(self.page_va(pfn + i) + self.offset("page", "_mapcount"), -1, 4)
            self.set_refcount(pfn + i, int(i == 0))
        return pfn

    def free_page(self, pfn: int) -> None:
        """Nothing: nobody expects it on a list."""

    def is_ram(self, pfn: int) -> bool:
        return (
            not any(
                start // PAGE <= pfn <= int(pgmap.range.end.value_()) // PAGE
                for start, pgmap in self.memory.pgmaps.items()
            )
            and 0 < pfn < self.memory_end
        )

    def pagemap(self, name: str) -> Pagemap:
        return self.memory.pagemap(int(name, 16))

    @property
    def memory_end(self) -> int:
        ends = [int(pgmap.range.end.value_()) // PAGE for pgmap in self.memory.pgmaps.values()]
        nodes = [node for nid in range(64) if (node := self.prog["node_data"][nid])]
        spans = [node.node_start_pfn + node.node_spanned_pages for node in nodes]
        return max([end + 1 for end in ends] + [int(span.value_()) for span in spans])

    def per_cpu(self, pointer: int, cpu: int) -> int:
        cpus = list(for_each_possible_cpu(self.prog))
        counter = Object(self.prog, "unsigned long *", pointer)
        return int(per_cpu_ptr(counter, cpus[min(cpu, len(cpus) - 1)]).value_())

    def process_pgd(self, number: int) -> int:
        head = self.prog["init_task"].tasks.address_of_()
        tasks = list_for_each_entry("struct task_struct", head, "tasks")
        return [int(task.mm.pgd.value_()) for task in tasks if task.mm][number]

    def resource(self) -> int:
        inner, start = self.prog["iomem_resource"].address_of_(), self.record.ranges[0][0] * PAGE
        child = inner.child
        while child:
            if child.start.value_() <= start <= child.end.value_():
                inner, child = child, child.child
            else:
                child = child.sibling
        return int(inner.value_())

    def set_page_type(self, pfn: int, name: str) -> None:
        if name != "buddy":
            super().set_page_type(pfn, name)
            return
        text = self.prog["VMCOREINFO"].string_()
        match = re.search(rb"^NUMBER\(PAGE_BUDDY_MAPCOUNT_VALUE\)=(-?\d+)$", text, re.M)
        assert match is not None
        mapcount = self.page_va(pfn) + self.offset("page", "_mapcount")
        self.write(mapcount, int(match[1]), 4)


class DumpHugetlbPlanter(HugetlbPlanter, DumpPlanter):
    """Plants faults in a dump's HugeTLB; the optimized folios come first."""

    @cached_property
    def folios(self) -> list[Folio]:
        found = oracle_hugetlb.audit(self.prog)["folios"]
        return [
            Folio(
                one["pfn"],
                (one["size"] // PAGE).bit_length() - 1,
                one["nid"],
                one["state"] == "in use",
                one["flagged"],
            )
            for one in sorted(found, key=lambda folio: not folio["flagged"])
        ]

    def forget_reset(self) -> None:
        symbol = self.prog.symbol("vmemmap_restore_pte")
        for va in range(symbol.address, symbol.address + symbol.size):
            # A NOP.
            self.write(va, 0x90, 1)


@dataclass(frozen=True)
class Fault:
    """A fault in a dump, and the rule that it is of."""

    rule: str
    plant: Callable[[Memory], Planted]
    #: series of kernels that can have it; none: all
    only: tuple[str, ...] = ()


# The devices: devdax with pages of 2 MiB, 1 GiB and 4 KiB; the same on an altmap; fsdax.
DAX_2M, ALTMAP, DAX_1G, FSDAX, DAX_4K = (
    0x100000000, 0x120000000, 0x150000000, 0x210000000, 0x220000000,
)  # fmt: skip


#: stands for the number of the folio with the highest pfn
HIGHEST = -2


def _fault(name: str, owner: int | None, rule: str | None = None, **options: Any) -> Fault:
    """
    Return one of the simulator's faults, by default with the first of its rules.

    :param owner: where the range of its pagemap starts; ``None``: it is in HugeTLB
    """
    kind = (KINDS if owner is not None else HUGETLB_KINDS)[name]

    def plant(memory: Memory) -> Planted:
        given = {option.name: option.default for option in kind.options} | options
        if owner is not None:
            return kind.plant(DumpPlanter(memory, name, kind.rules, owner), **kind.arguments(given))
        planter = DumpHugetlbPlanter(memory, name, kind.rules, None)
        if given.get("folio") == HIGHEST:
            last = max(planter.folios, key=lambda folio: folio.pfn)
            given["folio"] = planter.folios.index(last)
        return kind.plant(planter, **kind.arguments(given))

    return Fault(rule or kind.rules[0][1], plant, kind.kernels)


FAULTS = {
    # Entries of page tables.
    "hole": _fault("hole", DAX_2M, compound=3, page=2),
    "hole-of-a-large-leaf": _fault("hole", FSDAX, page=512),
    "tail-of-the-neighbour": _fault("tail-wrong-frame", DAX_2M, compound=5),
    "tail-of-another-device": _fault(
        "tail-wrong-frame", DAX_2M, compound=5, page=6, to="other-pagemap", other=hex(DAX_1G)
    ),
    "tail-of-a-gigantic-page-on-its-head": _fault(
        "tail-wrong-frame", DAX_1G, page=1000, to="own-head"
    ),
    "tail-on-frame-0": _fault(
        "tail-wrong-frame", DAX_2M, "frame-not-memory", compound=7, page=4, to="zero"
    ),
    "tail-outside": _fault(
        "tail-wrong-frame", DAX_2M, "frame-not-memory", compound=7, page=4, to="outside"
    ),
    "tail-of-its-own": _fault("tail-wrong-frame", DAX_2M, compound=8, to="private"),
    "head-of-another": _fault("head-not-private", DAX_2M, compound=9, other=8),
    "missing-dedup": _fault("missing-dedup", DAX_2M, compound=11),
    "huge-leaf": _fault("huge-leaf", DAX_2M, section=1),
    "base-pages": _fault("base-pages", DAX_4K, section=1),
    "read-only": _fault("read-only", DAX_2M, compound=6, page=4),
    "executable": _fault("executable", DAX_2M, compound=6, page=5),
    "executable-large-leaf": _fault("executable", DAX_4K, page=1024),
    "altmap-in-the-data": _fault("altmap-outside", ALTMAP, section=1, to="data"),
    "altmap-lost": _fault("altmap-lost", ALTMAP),
    "kernel-entry": _fault("kernel-entry", DAX_2M, process=0),
    # Reference counts.
    "refcount-low": _fault("refcount-low", DAX_2M, compound=20, page=1),
    "refcount-high": _fault("refcount-high", DAX_2M, compound=21),
    "refcount-high-of-a-gigantic-page": _fault("refcount-high", DAX_1G, page=1),
    "ref-lost": _fault("ref-lost", FSDAX),
    "ref-leaked": _fault("ref-leaked", ALTMAP, by=3),
    # What frames are marked for.
    "frame-free": _fault("frame-free", DAX_2M, compound=22, page=1),
    "frame-on-a-list": _fault("frame-foreign", DAX_2M, compound=23, **{"as": "lru"}),
    "frame-poisoned": _fault("frame-poisoned", DAX_1G, page=1),
    # Contents of struct pages.
    "head-flag-lost": _fault("head-flag-lost", DAX_2M, compound=40),
    "tail-wrong-head": _fault("tail-wrong-head", DAX_2M, compound=41),
    "wrong-order": _fault("wrong-order", DAX_2M, compound=42, value=8),
    "wrong-pgmap": _fault("wrong-pgmap", DAX_2M, compound=43),
    "wrong-pgmap-of-a-base-page": _fault("wrong-pgmap", FSDAX, struct_page=199),
    "stray-head": _fault("stray-head", DAX_2M, compound=44, struct_page=71),
    "stray-head-of-a-base-page": _fault("stray-head", DAX_4K, struct_page=60),
    "tail-written": _fault("tail-written", DAX_2M, compound=45, struct_page=97, value=0),
    "tail-of-a-gigantic-page-written": _fault("tail-written", DAX_1G, struct_page=60),
    "tail-referenced": _fault("page-refcount", DAX_2M, compound=46, struct_page=9),
    # In the first page of its memory map: of so many, not all are in the sample.
    "base-page-put": _fault("page-refcount", DAX_4K, struct_page=50, value=0),
    "not-reserved": _fault("wrong-zone", DAX_2M, compound=47, what="reserved"),
    "base-page-of-another-zone": _fault("wrong-zone", FSDAX, struct_page=70),
    "uninitialised": _fault("uninitialised", FSDAX, struct_page=1000, count=100),
    "tail-frame-lost": _fault(
        "uninitialised", DAX_2M, compound=48, struct_page=64, count=64, pattern="zeros"
    ),
    # struct dev_pagemap and what leads to it.
    "range-inverted": _fault("range-inverted", DAX_4K),
    "range-overlap": _fault("range-overlap", DAX_2M, other=hex(ALTMAP)),
    "nr-range-absurd": _fault("nr-range-absurd", DAX_2M),
    "shift-absurd": _fault("shift-absurd", DAX_2M),
    "xarray-cycle": _fault("xarray-cycle", DAX_2M),
    "resource-cycle": _fault("resource-cycle", DAX_2M),
    # Sections, and what the vmemmap has beside that of devices.
    "subsection-lost": _fault("subsection-lost", DAX_2M, subsection=9),
    "section-map": _fault("section-map", DAX_2M, section=1),
    "usage-lost": _fault("usage-lost", DAX_2M, section=1),
    "boot-memmap-hole": _fault("boot-memmap-hole", DAX_2M, section=5),
    "leak": _fault("leak", DAX_4K, leaf="large"),
    "counter": _fault("counter", DAX_2M, by=5),
}

#: faults in the HugeTLB of a guest with folios of 2 MiB, of which some are optimized
HUGETLB_FAULTS = {
    "tail-writable": _fault("tail-writable", None),
    "head-read-only": _fault("head-read-only", None),
    "tail-of-a-plain-folio": _fault("tail-frame", None, page=5),
    "tail-outside": _fault("tail-frame", None, page=7, to="outside"),
    "hole": _fault("hole", None, page=7),
    "executable": _fault("executable", None, page=1),
    "head-shared": _fault("head-shared", None),
    "head-freed": _fault("head-freed", None),
    "poisoned": _fault("poisoned", None),
    "tail-frame-poisoned": _fault("poisoned", None, of="tail"),
    "flag-missing": _fault("flag-missing", None),
    "flag-extra": _fault("flag-extra", None, folio=-1),
    "key": _fault("key", None, by=-1),
    # Other folios follow all but the last one in memory.
    "stray": _fault("stray", None, folio=HIGHEST),
    "list-wild": _fault("list-wild", None),
    "count": _fault("count", None),
    "elsewhere": _fault("count", None, "hugetlb-elsewhere", of="nr_huge_pages", by=2),
    "tail-page": _fault("tail-page", None, number=17),
    "restore": _fault("restore", None),
    "shared-tail": _fault("shared-tail", None),
}


# What the simulator makes otherwise, or not at all.


def _own(command: str, rule: str, owner: int) -> Callable[[Callable[[DumpPlanter], Planted]], None]:
    def register(change: Callable[[DumpPlanter], Planted]) -> None:
        name = change.__name__.strip("_").replace("_", "-")

        def plant(memory: Memory) -> Planted:
            return change(DumpPlanter(memory, name, [(command, rule)], owner))

        FAULTS[name] = Fault(rule, plant)

    return register


def _page(p: Planter, compound: int, page: int = 0) -> int:
    """Return the address of a page of the vmemmap of a compound page."""
    return p.page_va(p.record.data_pfn + compound * p.record.per_compound) + page * PAGE


@_own("pgmap", "frame-foreign", DAX_2M)
def _frame_of_a_process(p: DumpPlanter) -> Planted:
    va = _page(p, 24, 1)
    # _mapcount counts from -1.
    p.write(p.page_va(p.frame_at(va)) + p.offset("page", "_mapcount"), 0, 4)
    return p.planted(va)


@_own("pgmap", "frame-node", DAX_2M)
def _frame_of_another_node(p: DumpPlanter) -> Planted:
    va = _page(p, 25)
    page = p.page_va(p.frame_at(va))
    # NODES_SHIFT is 10 in Debian's kernels.
    p.write(page, p.read(page) | 1 << 54)
    return p.planted(va)


def _slots(p: Planter) -> Iterator[tuple[int, int, int]]:
    """Return all slots of pgmap_array: the first index of each, its address, what is in it."""
    firsts = {p.xarray_nodes()[0].va: 0}
    for node in p.xarray_nodes():
        for i in range(64):
            value, first = node[f"slots[{i}]"], firsts[node.va] + (i << node["shift"])
            if value & 3 == 2 and value > PAGE:
                firsts[value - 2] = first
            elif value & 3 == 2:
                # A sibling, which points to the entry itself.
                value = node[f"slots[{value >> 2}]"]
            yield first, node.addr(f"slots[{i}]"), value


@_own("pgmap", "xarray", FSDAX)
def _xarray_stray(p: DumpPlanter) -> Planted:
    # Behind all devices, where there is nothing.
    slot = next(at for first, at, value in _slots(p) if not value and first > p.memory_end)
    p.write(slot, p.record.va)
    return p.planted(p.record.va)


@_own("memmap", "section-stale", FSDAX)
def _device_gone_without_its_sections(p: DumpPlanter) -> Planted:
    for _, at, value in list(_slots(p)):
        if value == p.record.va:
            p.write(at, 0)
    return p.planted(p.page_va(p.record.ranges[0][0]))


def patched(prog: Program, fault: Fault) -> tuple[dict[int, bytes], frozenset[Finding]]:
    """
    Return the bytes to change for a fault, and the findings expected of it.

    Findings name a pagemap by the start of its range.
    """
    memory = Memory(prog)
    planted = fault.plant(memory)
    return memory.changes, planted.findings
