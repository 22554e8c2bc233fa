# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Dumps of simulated kernels: the one way to make them, and a scalar view of them.

The view knows nothing of the package under test but its types: drgn with the kernel's
own BTF, reads of one word at a time, and page tables gone through entry by entry.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from drgn import Object, Program
from drgn.helpers.linux.xarray import xa_for_each
from kdumpling import KdumpBuilder

from vmemscope.audits import hugetlb, memmap
from vmemscope.audits.pagemaps import once
from vmemscope.machine import Kernel
from vmemscope.report.documents.hugetlb import HugetlbReport
from vmemscope.report.documents.memmap import MemmapReport
from vmemscope.report.documents.pgmap import Report
from vmemscope.sim import boot, build, load_scenario
from vmemscope.sim.architectures import ARCHITECTURES
from vmemscope.sim.faults import FAULTS as KINDS
from vmemscope.sim.faults import HUGETLB_FAULTS, Finding, Planted
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.scenario import Scenario, check_arch
from vmemscope.sim.scenario_toml import parse_scenario
from vmemscope.target.elf import read_elf
from vmemscope.types import attach_types

from .oracle import FRAME, PRESENT, PSE, Step, walk

__all__ = (
    "COMING_FAULTS",
    "DEVICE",
    "EARLY",
    "FAULTS",
    "FIXTURES",
    "FRAME",
    "KERNELS",
    "PAGE",
    "PMD_SHIFT",
    "PRESENT",
    "PSE",
    "PTE_SHIFT",
    "RW",
    "SIMULATED",
    "STRUCT_PAGE",
    "Audited",
    "Dumps",
    "Leaf",
    "View",
    "able",
    "audit_core",
    "built",
    "filtered",
    "image",
    "scenario_of",
    "undocumented",
    "write",
)

#: the kernels that the simulator knows and that were booted
KERNELS = ("6.1", "6.12", "7.2")
#: all that the simulator knows: the coming one, too
SIMULATED = (*KERNELS, "next")
FIXTURES = Path(__file__).parent.parent / "fixtures"
#: scenarios of fixtures/, by their stems
FAULTS = sorted(path.stem for path in FIXTURES.glob("*.toml"))
#: those that only the coming kernel can have
COMING_FAULTS = {
    name for name in FAULTS if 'kernel = "next"' in (FIXTURES / f"{name}.toml").read_text()
}

PAGE = 4096
#: levels of x86-64's page tables
PTE_SHIFT, PMD_SHIFT = 12, 21
STRUCT_PAGE = 64
RW = 2
#: a device in a section of RAM, whose memory map is there since boot
EARLY = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0xa000000
size = "64M"
align = "2M"
"""
#: one device, of which each compound page takes 2 MiB
DEVICE = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "256M"
align = "2M"
"""
#: bytes that the vmemmap has at most
_VMEMMAP_SIZE = 1 << 46
_VMEMMAP_END = 0xFFFF_FE00_0000_0000


def scenario_of(scenario: str, kernel: str) -> Scenario:
    """Read a built-in scenario, a file of fixtures/ by its stem, any file, or TOML text."""
    if "\n" in scenario:
        return parse_scenario(f'kernel = "{kernel}"\n{scenario}', "inline")
    path = FIXTURES / f"{scenario}.toml"
    return load_scenario(path if path.exists() else scenario)


def image(scenario: str, kernel: str) -> Image:
    """
    Build a scenario, anew: a test may change it.

    :param kernel: one of :data:`SIMULATED`, of another architecture than x86-64 with ``@`` and
        its name
    """
    return built(scenario_of(scenario, kernel.partition("@")[0]), kernel)


def built(found: Scenario, kernel: str) -> Image:
    """Build a scenario as :func:`image` does."""
    kernel, _, arch = kernel.partition("@")
    if arch:
        several = ARCHITECTURES[arch].levels
        levels = found.levels if found.levels in several else max(several)
        found = replace(found, kernel=kernel, arch=arch, levels=levels)
    found = replace(found, kernel=kernel)
    check_arch(found)
    if not (found.faults or found.hugetlb_faults):
        return build(found)
    # Most tests plant many faults in one kernel.
    booted = deepcopy(_booted(replace(found, faults=(), hugetlb_faults=())))
    booted.scenario = replace(
        booted.scenario, faults=found.faults, hugetlb_faults=found.hugetlb_faults
    )
    return Image(booted)


@lru_cache(maxsize=2)
def _booted(scenario: Scenario) -> SimulatedKernel:
    return boot(scenario)


def write(built: Image, directory: Path) -> str:
    """Write a vmcore; return its path."""
    path = directory / "vmcore"
    built.write(path)
    return str(path)


def undocumented(document: Any, manual: str, *shared: str) -> set[str]:
    """
    Return the fields of a document that a page of the manual does not name.

    :param manual: stem of the page in docs/
    :param shared: fields that another page describes
    """
    text = (FIXTURES.parent / "docs" / f"{manual}.md").read_text(encoding="utf-8")

    def names(value: Any) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value
        found = {name for name in value if not name.isdigit()} if isinstance(value, dict) else set()
        return found.union(*map(names, inner)) if isinstance(value, (dict, list)) else set()

    known = {"schema", "tool", "target", "timings", "findings", *shared}
    rest = {name: value for name, value in document.items() if name not in known}
    return {name for name in names(rest) if f"`{name}`" not in text}


def able(scenario: str, kernels: Sequence[str] = SIMULATED) -> list[str]:
    """Return which of some kernels can have all faults of a scenario."""
    found = scenario_of(scenario, SIMULATED[-1])
    kinds = [KINDS[fault.kind] for fault in found.faults]
    kinds += [HUGETLB_FAULTS[fault.kind] for fault in found.hugetlb_faults]
    return [
        kernel
        for kernel in kernels
        if all(not kind.kernels or kernel in kind.kernels for kind in kinds)
    ]


def filtered(core: Path, path: Path, without: Collection[int], *, note: bool = True) -> Path:
    """
    Copy a dump without some pages.

    :param without: their page frame numbers
    :param note: whether the copy has VMCOREINFO
    """
    data = core.read_bytes()
    loads, _ = read_elf(str(core))
    builder = KdumpBuilder("x86_64")
    if note:
        text = Kernel.open_core(str(core)).prog["VMCOREINFO"].string_()
        builder.set_vmcoreinfo(text.decode())
    for load in loads:
        first, end = load.paddr // PAGE, (load.paddr + load.filesz) // PAGE
        inside = sorted(pfn for pfn in without if first <= pfn < end)
        for low, high in zip((first, *(pfn + 1 for pfn in inside)), (*inside, end), strict=True):
            if low < high:
                at = load.offset + (low - first) * PAGE
                builder.add_memory_segment(
                    low * PAGE,
                    data[at : at + (high - low) * PAGE],
                    load.vaddr + (low - first) * PAGE,
                )
    builder.write(str(path))
    return path


class Audited(NamedTuple):
    """What is reported of a dump, and what the simulator planted in it."""

    pgmap: Report
    memmap: MemmapReport
    hugetlb: HugetlbReport
    planted: list[Planted]

    def found(self) -> set[Finding]:
        """Return all findings, as the simulator names those that there must be."""
        found = {
            Finding("pgmap", one.rule, owner.name if owner else None, one.vaddr or 0)
            for owner, one in self.pgmap.all_findings()
        }
        for command, findings in (
            ("memmap", self.memmap.findings),
            ("hugetlb", self.hugetlb.findings),
        ):
            found |= {Finding(command, one.rule, None, one.vaddr or 0) for one in findings}
        return found

    def expected(self) -> set[Finding]:
        """Return the findings that what was planted must give."""
        return {finding for planted in self.planted for finding in planted.findings}


def audit_core(path: Path, planted: Sequence[Planted] = ()) -> Audited:
    """Audit a dump by all commands."""
    opened = Kernel.open_core(str(path))
    return Audited(
        once(opened), memmap.audit(opened), hugetlb.audit(opened, folios=True), list(planted)
    )


class Made(NamedTuple):
    """A dump, and what the simulator knows of it."""

    core: Path
    planted: list[Planted]
    #: name of each pagemap, and its ranges: first pfn, pfn after the last
    ranges: dict[str, list[tuple[int, int]]]


class Dumps:
    """
    Dumps of scenarios, each made and audited once.

    :param directory: where they are written
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: dict[tuple[str, str], Made] = {}
        self._views: dict[tuple[str, str], View] = {}
        self._audited: dict[tuple[str, str], Audited] = {}

    def _make(self, scenario: str, kernel: str) -> Made:
        built = image(scenario, kernel)
        path = self.directory / f"{len(self._made)}.vmcore"
        built.write(path)
        # Not the image itself: hundreds of them take gigabytes.
        records = built.kernel.pagemaps
        return Made(path, built.planted, {one.name: list(one.ranges) for one in records})

    def made(self, scenario: str, kernel: str) -> Made:
        """Return a dump that is kept, and what the simulator knows of it."""
        key = scenario, kernel
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def core(self, scenario: str, kernel: str) -> Path:
        """Return the path of a dump."""
        return self.made(scenario, kernel).core

    def planted(self, scenario: str, kernel: str) -> list[Planted]:
        """Return the faults in a dump."""
        return self.made(scenario, kernel).planted

    def view(self, scenario: str, kernel: str) -> View:
        """Return a view of a dump."""
        key = scenario, kernel
        if key not in self._views:
            self._views[key] = View(self.core(*key))
        return self._views[key]

    def audited(self, scenario: str, kernel: str) -> Audited:
        """Audit a dump by all commands."""
        key = scenario, kernel
        if key not in self._audited:
            made = self._made.get(key) or self._make(*key)
            self._audited[key] = audit_core(made.core, made.planted)
            if key not in self._made:
                made.core.unlink()
        return self._audited[key]


class Leaf(NamedTuple):
    """A leaf of the vmemmap."""

    va: int
    shift: int
    pfn: int
    entry: int


class View:
    """A dump, word by word."""

    def __init__(self, core: str | Path) -> None:
        self.prog = Program()
        self.prog.set_core_dump(core)
        attach_types(self.prog, "btf")
        text = self.prog["VMCOREINFO"].string_().decode()
        self.keys = dict(line.split("=", 1) for line in text.splitlines())
        self.vmemmap: int = self.prog["vmemmap_base"].value_()
        root = int(self.keys["SYMBOL(swapper_pg_dir)"], 16) - 0xFFFF_FFFF_8000_0000
        self.root = root + int(self.keys["NUMBER(phys_base)"])
        self.top = 48 if self.keys["NUMBER(pgtable_l5_enabled)"] == "1" else 39

    # Page tables.

    def path(self, va: int) -> list[Step]:
        """Go down the tables for an address."""
        return list(walk(lambda at: self.prog.read_u64(at, True), self.root, self.top, va))

    def leaf(self, va: int) -> Leaf | None:
        """Return the leaf that maps an address."""
        shift, _, entry = self.path(va)[-1]
        size = 1 << shift
        pfn = (entry & FRAME & ~(size - 1)) // PAGE
        return Leaf(va & ~(size - 1), shift, pfn, entry) if entry & PRESENT else None

    def physical(self, va: int) -> int | None:
        """Translate a virtual address."""
        leaf = self.leaf(va)
        return None if leaf is None else leaf.pfn * PAGE + va - leaf.va

    def leaves(self) -> list[Leaf]:
        """Return all leaves of the vmemmap."""
        return list(self._leaves(self.root, self.top, 0))

    def _leaves(self, table: int, shift: int, base: int) -> Iterator[Leaf]:
        end = min(self.vmemmap + _VMEMMAP_SIZE, _VMEMMAP_END)
        for index, entry in enumerate(struct.unpack("<512Q", self.prog.read(table, PAGE, True))):
            va = base + (index << shift)
            if shift == self.top and va >> shift + 8 & 1:
                va |= -1 << shift + 9 & (1 << 64) - 1
            if not entry & PRESENT or va + (1 << shift) <= self.vmemmap or va >= end:
                continue
            if shift == 12 or (entry & PSE and shift < 39):
                pfn = (entry & FRAME & ~((1 << shift) - 1)) >> 12
                yield Leaf(va, shift, pfn, entry)
            else:
                yield from self._leaves(entry & FRAME, shift - 9, va)

    def pages(self) -> dict[int, tuple[int, int]]:
        """Return the mapped pages of the vmemmap: address -> frame, bytes of the leaf."""
        return {
            leaf.va + offset: (leaf.pfn + offset // PAGE, 1 << leaf.shift)
            for leaf in self.leaves()
            for offset in range(0, 1 << leaf.shift, PAGE)
        }

    def leaves_of(self, start: int, end: int) -> list[Leaf]:
        """Return the leaves that map the struct pages of [start, end); of shift 0: no leaf."""
        va, found = self.page_va(start), list[Leaf]()
        while va < self.page_va(end):
            leaf = self.leaf(va)
            found.append(leaf or Leaf(va, 0, 0, 0))
            va = va + PAGE if leaf is None else leaf.va + (1 << leaf.shift)
        return found

    def sharing(self, start: int, end: int) -> dict[int, int]:
        """How many base pages each frame is mapped by -> how many frames that is true of."""
        leaves = [leaf for leaf in self.leaves_of(start, end) if leaf.shift == 12]
        return dict(Counter(Counter(leaf.pfn for leaf in leaves).values()))

    # Structures.

    def page_va(self, pfn: int) -> int:
        return self.vmemmap + pfn * STRUCT_PAGE

    def words(self, pfn: int) -> tuple[Any, ...]:
        """Return a struct page as eight words."""
        return struct.unpack("<8Q", self.prog.read(self.page_va(pfn), STRUCT_PAGE))

    def refcount(self, pfn: int) -> int:
        return int(struct.unpack("<i", self.prog.read(self.page_va(pfn) + 52, 4))[0])

    def pgmaps(self) -> dict[int, tuple[Object, list[int]]]:
        """``struct dev_pagemap *`` and the indices that lead to each, in order."""
        found: dict[int, tuple[Object, list[int]]] = {}
        for index, entry in xa_for_each(self.prog["pgmap_array"].address_of_()):
            pgmap = Object(self.prog, "struct dev_pagemap *", entry.value_())
            found.setdefault(entry.value_(), (pgmap, []))[1].append(index)
        return found

    @cached_property
    def pgmap(self) -> Object:
        """The only pagemap."""
        ((pgmap, _),) = self.pgmaps().values()
        return pgmap
