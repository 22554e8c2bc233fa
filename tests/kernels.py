# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels for tests that change something in one, and a scalar view of them.

The view knows nothing of the package under test: drgn with the kernel's own BTF,
reads of one word at a time, and page tables gone through entry by entry.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from drgn import Program

from vmemscope.sim import build, load_scenario
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import Kernel
from vmemscope.sim.scenario import parse_scenario
from vmemscope.types import attach_types

PAGE = 4096
STRUCT_PAGE = 64
FIXTURES = Path(__file__).parent.parent / "fixtures"

PRESENT, RW, PSE = 1, 2, 1 << 7
FRAME = 0x000F_FFFF_FFFF_F000
#: the vmemmap is at most so large
_VMEMMAP_SIZE = 1 << 46
_VMEMMAP_END = 0xFFFF_FE00_0000_0000


class Leaf(NamedTuple):
    """A leaf of the vmemmap."""

    va: int
    shift: int
    pfn: int
    entry: int


def image(scenario: str, kernel: str) -> Image:
    """Build a built-in scenario, a file of fixtures/ by its stem, or TOML text."""
    if "\n" in scenario:
        return Image(Kernel(parse_scenario(f'kernel = "{kernel}"\n{scenario}', "inline")))
    path = FIXTURES / f"{scenario}.toml"
    return build(load_scenario(path if path.exists() else scenario), kernel=kernel)


def write(built: Image, directory: Path) -> str:
    """Write a vmcore; get its path."""
    path = directory / "vmcore"
    built.write(path)
    return str(path)


class View:
    """A dump, word by word."""

    def __init__(self, core: str) -> None:
        self.prog = Program()
        self.prog.set_core_dump(core)
        attach_types(self.prog, "btf")
        text = self.prog["VMCOREINFO"].string_().decode()
        self.keys = dict(line.split("=", 1) for line in text.splitlines())
        self.vmemmap: int = self.prog["vmemmap_base"].value_()
        root = int(self.keys["SYMBOL(swapper_pg_dir)"], 16) - 0xFFFF_FFFF_8000_0000
        self.root = root + int(self.keys["NUMBER(phys_base)"])
        self.top = 48 if self.keys["NUMBER(pgtable_l5_enabled)"] == "1" else 39

    def entries(self, va: int) -> list[tuple[int, int, int]]:
        """Go down the tables for an address: physical address of the table, index, entry."""
        found = []
        table = self.root
        for shift in range(self.top, 11, -9):
            index = va >> shift & 511
            entry = self.prog.read_u64(table + index * 8, True)
            found.append((table, index, entry))
            if not entry & PRESENT or shift == 12 or (entry & PSE and shift < 39):
                break
            table = entry & FRAME
        return found

    def leaves(self) -> list[Leaf]:
        """Get all leaves of the vmemmap."""
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
        """Get the mapped pages of the vmemmap: address -> frame, bytes of the leaf."""
        return {
            leaf.va + offset: (leaf.pfn + offset // PAGE, 1 << leaf.shift)
            for leaf in self.leaves()
            for offset in range(0, 1 << leaf.shift, PAGE)
        }

    def words(self, pfn: int) -> tuple[Any, ...]:
        """Get a struct page as eight words."""
        return struct.unpack("<8Q", self.prog.read(self.vmemmap + pfn * STRUCT_PAGE, STRUCT_PAGE))
