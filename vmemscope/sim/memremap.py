# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Device memory gets its struct pages: ``memremap_pages()`` and what it calls.

Sources: ``mm/memremap.c``, ``mm/memory_hotplug.c``, ``mm/mm_init.c``.
"""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from .addresses import AddressSpace
from .memmap import MemMap
from .objects import KernelMemory, Struct
from .pagetable import KERNEL_LARGE, PageTables
from .percpu import Percpu
from .sparse import Sections
from .versions import Behaviour
from .vmemmap import Vmemmap, pgmap_vmemmap_nr
from .xarray import XArray

__all__ = ("PGMAP_ALTMAP_VALID", "Memremap")

PGMAP_ALTMAP_VALID = 1

#: lib/percpu-refcount.c: what the shared counter holds while the per-CPU ones count
PERCPU_COUNT_BIAS = 1 << 63

#: struct pages initialised in one go
_BATCH = 1 << 15


class CompoundCopy:
    """
    A shortcut: compounds of a pagemap are all the same but for the addresses of
    their own struct pages in them, so they can be copied from one, moved.

    :param head: first pfn of one that is initialised
    :param count: how many struct pages of it are
    :param per_compound: pages in a compound
    """

    def __init__(self, memmap: MemMap, head: int, count: int, per_compound: int) -> None:
        self.memmap = memmap
        self.units = memmap.units
        self.va = memmap.addresses.pfn_to_page(head)
        self.pages = np.concatenate(list(memmap.views(head, count)))
        end = memmap.addresses.pfn_to_page(head + per_compound)
        self.pointers = (self.pages >= self.va) & (self.pages < end)
        self.usable = self._is_apart(head, count)

    def _is_apart(self, head: int, count: int) -> bool:
        """Whether no two struct pages are in the same place, so that order does not matter."""
        va = self.memmap.addresses.pfn_to_page(head)
        size = count * self.memmap.size
        frames = {
            self.memmap.tables.translate(va + at) for at in range(0, size, self.units.page_size)
        }
        return len(frames) == size // self.units.page_size

    def store(self, head: int, count: int) -> bool:
        """Initialise another compound, if that can be done so."""
        if not (self.usable and count == len(self.pages) and self._is_apart(head, count)):
            return False
        pages = self.pages.copy()
        # Unsigned: a negative distance wraps around, and back.
        distance = self.memmap.addresses.pfn_to_page(head) - self.va
        pages[self.pointers] += np.uint64(distance & (1 << 64) - 1)
        self.memmap.store(head, pages)
        return True


class Memremap:
    """Adds device memory to the kernel."""

    def __init__(
        self,
        memory: KernelMemory,
        behaviour: Behaviour,
        tables: PageTables,
        sections: Sections,
        vmemmap: Vmemmap,
        memmap: MemMap,
        pgmap_array: XArray,
        percpu: Percpu,
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.behaviour = behaviour
        self.tables = tables
        self.sections = sections
        self.vmemmap = vmemmap
        self.memmap = memmap
        self.pgmap_array = pgmap_array
        self.percpu = percpu

    @property
    def addresses(self) -> AddressSpace:
        return self.memory.addresses

    def memremap_pages(self, pgmap: Struct, nr_range: int, nid: int) -> list[tuple[int, int]]:
        """
        ``memremap_pages()``: bring up all ranges of a pagemap.

        :param pgmap: ``struct dev_pagemap`` with type, flags, altmap,
            vmemmap_shift and all ``nr_range`` ranges set
        :return: the ranges, in pfns
        """
        is_private = pgmap["type"] == self.constant("MEMORY_DEVICE_PRIVATE")
        is_coherent = pgmap["type"] == self.constant("MEMORY_DEVICE_COHERENT")
        self.percpu_ref_init(pgmap)
        pgmap["nr_range"] = 0
        ranges = []
        for i in range(nr_range):
            start = pgmap[f"ranges[{i}].start"] // self.units.page_size
            end = (pgmap[f"ranges[{i}].end"] + 1) // self.units.page_size
            self.pagemap_range(pgmap, start, end, nid, linear=not is_private)
            # References are taken for all pages that drivers may hand out; not
            # of private and coherent memory, whose pages start out free.
            if not (is_private or is_coherent):
                self.percpu_ref_get_many(pgmap, self.pfn_len(pgmap, start, end))
            pgmap["nr_range"] = i + 1
            ranges.append((start, end))
        return ranges

    def constant(self, name: str) -> int:
        return self.memory.layouts.constant(name)

    def altmap(self, pgmap: Struct) -> Struct | None:
        """``pgmap_altmap()``."""
        if pgmap["flags"] & PGMAP_ALTMAP_VALID:
            return self.memory.struct("vmem_altmap", pgmap.addr("altmap"))
        return None

    def pfn_len(self, pgmap: Struct, start: int, end: int) -> int:
        """``pfn_len()``: how many references a range holds."""
        return (end - self.pfn_first(pgmap, start)) >> pgmap["vmemmap_shift"]

    def pfn_first(self, pgmap: Struct, start: int) -> int:
        """``pfn_first()``: the first pfn after the altmap."""
        altmap = self.altmap(pgmap)
        return start if altmap is None else start + altmap["reserve"] + altmap["free"]

    def pagemap_range(self, pgmap: Struct, start: int, end: int, nid: int, linear: bool) -> None:
        """``pagemap_range()``: of pfns."""
        altmap = self.altmap(pgmap)
        self.pgmap_array.store_range(start, end - 1, pgmap.va)
        if linear and self.memory.arch.maps_memory:
            # arch_add_memory(); private memory can't be accessed, so it has none.
            pa = start * self.units.page_size
            size = (end - start) * self.units.page_size
            self.tables.map_range(self.addresses.va(pa), pa, size, KERNEL_LARGE)
        self.add_pages(start, end, nid, altmap, pgmap)
        if altmap is not None:
            self.memmap_init_altmap(altmap, nid)
        self.sections.taint_zone_device(start, end)
        self.memmap_init_zone_device(start, end, nid, altmap, pgmap)

    def add_pages(
        self, start: int, end: int, nid: int, altmap: Struct | None, pgmap: Struct | None
    ) -> None:
        """``__add_pages()``: cut at section boundaries."""
        pfn = start
        while pfn < end:
            next_pfn = min(
                end, (pfn // self.units.pages_per_section + 1) * self.units.pages_per_section
            )
            self.sections.sparse_add_section(pfn, next_pfn - pfn, nid, altmap, pgmap, self.vmemmap)
            pfn = next_pfn

    def memmap_init_altmap(self, altmap: Struct, nid: int) -> None:
        """
        ``memmap_init_range()`` of ZONE_DEVICE: the struct pages of the frames
        that hold struct pages. Those of the reserved ones stay as they are.
        """
        start = altmap["base_pfn"] + altmap["reserve"]
        pages = self.memmap.fresh(start, altmap["free"], "ZONE_DEVICE", nid)
        pages[:, 0] |= self.memmap.flag("reserved")
        self.memmap.store(start, pages)

    def memmap_init_zone_device(
        self, start: int, end: int, nid: int, altmap: Struct | None, pgmap: Struct
    ) -> None:
        """``memmap_init_zone_device()``: the struct pages of the device's own memory."""
        start = self.pfn_first(pgmap, start)
        per_compound = pgmap_vmemmap_nr(pgmap)
        refcount = self.idle_refcount(pgmap)
        if per_compound == 1:
            for pfn in range(start, end, _BATCH):
                count = min(_BATCH, end - pfn)
                self.memmap.store(
                    pfn, self.memmap.fresh_device(pfn, count, nid, pgmap.va, refcount)
                )
            return
        model: CompoundCopy | None = None
        for head in range(start, end, per_compound):
            is_early = self.sections.is_early(head // self.units.pages_per_section)
            count = self.vmemmap.compound_nr_pages(head, altmap, pgmap, is_early)
            try:
                if model is not None and model.store(head, count):
                    continue
                self.memmap_init_compound(head, count, nid, pgmap, refcount)
            except KeyError:
                # The kernel would fault: it initialises whole compound pages.
                raise UsageError(
                    f"the range from {start * self.units.page_size:#x} ends within a compound"
                    " page that the kernel initialises as a whole"
                ) from None
            model = model or CompoundCopy(self.memmap, head, count, per_compound)

    def memmap_init_compound(
        self, head: int, count: int, nid: int, pgmap: Struct, refcount: int
    ) -> None:
        """
        ``memmap_init_compound()``: head, then tails in ascending order. The
        order counts where the vmemmap maps several of them to one place.
        """
        memmap = self.memmap
        order = pgmap["vmemmap_shift"]
        first = memmap.fresh_device(head, 2, nid, pgmap.va, refcount)
        first[0, 0] |= memmap.flag("head")
        first[1] = memmap.device_tails(head, 1, order, nid)[0]
        memmap.store(head, first)
        if not self.behaviour.prep_compound_head_last:
            memmap.prep_compound_head(head, order)
        tails = memmap.device_tails(head, min(count - 2, _BATCH), order, nid)
        for done in range(2, count, _BATCH):
            memmap.store(head + done, tails[: min(count - done, _BATCH)])
        if self.behaviour.prep_compound_head_last:
            memmap.prep_compound_head(head, order)

    def idle_refcount(self, pgmap: Struct) -> int:
        """``__init_zone_device_page()``: the reference count of a page nobody uses."""
        free = {"MEMORY_DEVICE_PRIVATE", "MEMORY_DEVICE_COHERENT"}
        if self.behaviour.idle_pages_free:
            free |= {"MEMORY_DEVICE_FS_DAX", "MEMORY_DEVICE_PCI_P2PDMA"}
        return int(pgmap["type"] not in {self.constant(name) for name in free})

    # lib/percpu-refcount.c

    def percpu_ref_init(self, pgmap: Struct) -> None:
        """``percpu_ref_init()``: per-CPU counters, and a bias in the shared one."""
        pgmap["ref.percpu_count_ptr"] = self.percpu.alloc()
        data = self.memory.struct(
            "percpu_ref_data", self.sections.alloc(self.memory.layouts.sizeof("percpu_ref_data"))
        )
        pgmap["ref.data"] = data.va
        data["ref"] = pgmap.addr("ref")
        data["count.counter"] = PERCPU_COUNT_BIAS + 1

    def percpu_ref_get_many(self, pgmap: Struct, count: int) -> None:
        """``percpu_ref_get_many()``, on whichever CPU; only the sum means anything."""
        pointer = pgmap["ref.percpu_count_ptr"]
        self.percpu.add(pointer, 0, count + 3)
        self.percpu.add(pointer, 1, -3)
