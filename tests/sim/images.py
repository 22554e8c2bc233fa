# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tests of simulated kernels share: building them once, and a view of them
through drgn that does not know how they were made.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

from drgn import Object, Program
from drgn.helpers.linux.xarray import xa_for_each

from vmemscope.sim import build, load_scenario
from vmemscope.types import attach_types

KERNELS = ("6.1", "6.12", "7.2")
FIXTURES = Path(__file__).parents[2] / "fixtures"
PAGE = 4096
STRUCT_PAGE = 64


class Images:
    def __init__(self, directory):
        self.directory = directory
        self._built = {}
        self._views = {}

    def image(self, name, kernel=None):
        """Build a built-in scenario, or one of fixtures/ by its file name."""
        key = name, kernel
        if key not in self._built:
            path = FIXTURES / name if name.endswith(".toml") else name
            image = build(load_scenario(path), kernel=kernel)
            core = self.directory / f"{name}-{kernel}.vmcore"
            image.write(core)
            self._built[key] = image, core
        return self._built[key][0]

    def core(self, name, kernel=None):
        self.image(name, kernel)
        return self._built[name, kernel][1]

    def view(self, name, kernel=None):
        key = name, kernel
        if key not in self._views:
            self._views[key] = View(self.core(name, kernel))
        return self._views[key]


class View:
    """A dump, as drgn sees it with types from its own BTF."""

    def __init__(self, core):
        self.prog = Program()
        self.prog.set_core_dump(core)
        attach_types(self.prog, "btf")
        info = self.prog["VMCOREINFO"].string_().decode()
        self.vmcoreinfo = dict(line.split("=", 1) for line in info.splitlines())
        self.vmemmap = self.prog["vmemmap"].value_()

    def page_va(self, pfn):
        return self.vmemmap + pfn * STRUCT_PAGE

    def words(self, pfn):
        """A struct page as eight words."""
        return struct.unpack("<8Q", self.prog.read(self.page_va(pfn), STRUCT_PAGE))

    def refcount(self, pfn):
        return struct.unpack("<i", self.prog.read(self.page_va(pfn) + 52, 4))[0]

    def walk(self, va):
        """A page-table walk written out: shift and entry of the leaf, or None."""
        base = int(self.vmcoreinfo["NUMBER(phys_base)"])
        table = int(self.vmcoreinfo["SYMBOL(swapper_pg_dir)"], 16) - 0xFFFFFFFF80000000 + base
        levels = 5 if self.vmcoreinfo["NUMBER(pgtable_l5_enabled)"] == "1" else 4
        for shift in range(12 + 9 * (levels - 1), 11, -9):
            entry = self.prog.read_u64(table + (va >> shift & 511) * 8, True)
            if not entry & 1:
                return None
            if shift == 12 or (shift <= 30 and entry & 0x80):
                return shift, entry
            table = entry & 0xFFFFFFFFFF000

    def entries(self, start, end):
        """Leaves that map the struct pages of [start, end): va, shift, pfn, entry."""
        va, end_va = self.page_va(start), self.page_va(end)
        found = []
        while va < end_va:
            leaf = self.walk(va)
            if leaf is None:
                found.append((va, None, None, 0))
                va += PAGE
                continue
            shift, entry = leaf
            pfn = (entry & 0xFFFFFFFFFF000) >> 12
            found.append((va, shift, pfn, entry))
            va = (va >> shift) + 1 << shift
        return found

    def sharing(self, start, end):
        """How many base pages each frame is mapped by -> how many frames that is true of."""
        per_frame = Counter(pfn for _, shift, pfn, _ in self.entries(start, end) if shift == 12)
        return dict(Counter(per_frame.values()))

    def pgmaps(self):
        """``struct dev_pagemap *`` and the indices that lead to each, in order."""
        found = {}
        for index, entry in xa_for_each(self.prog["pgmap_array"].address_of_()):
            found.setdefault(entry.value_(), []).append(index)
        return {
            address: (Object(self.prog, "struct dev_pagemap *", address), indices)
            for address, indices in found.items()
        }

    def pgmap(self):
        """The only pagemap."""
        ((pgmap, _),) = self.pgmaps().values()
        return pgmap
