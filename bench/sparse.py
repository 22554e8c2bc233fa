# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels with terabytes of device memory, written straight to a sparse dump.

The simulator (:mod:`vmemscope.sim`) makes all but what grows with the device: the
last level of page tables, and the reference counts of the frames, are written
here, a whole section at a time, as ``vmemmap_populate_compound_pages()`` would
leave them. The device's own struct pages are left out: nothing but zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdumpling
import numpy as np

from vmemscope.sim.finish import finish
from vmemscope.sim.image import _Hole
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.memmap import LIST_POISON2
from vmemscope.sim.objects import Struct
from vmemscope.sim.pagetable import KERNEL, TABLE
from vmemscope.sim.scenario_toml import parse_scenario
from vmemscope.sim.units import GIB, MIB, Units
from vmemscope.sim.vmemmap import Vmemmap

__all__ = ("write_sparse",)

_ENTRIES = 512
PAGE_SHIFT, PMD_SHIFT = 12, 21
PAGE_SIZE, PAGES_PER_SECTION = Units().page_size, Units().pages_per_section
#: sections whose tables are made at a time
_BATCH = 512


class _Recording(Vmemmap):
    """Remembers which sections were to be populated."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sections: list[int] = []

    def populate_section_memmap(
        self, pfn: int, count: int, nid: int, altmap: Struct | None, pgmap: Struct
    ) -> None:
        assert count == PAGES_PER_SECTION
        self.sections.append(pfn)
        self.nr_memmap_pages += self.section_nr_vmemmap_pages(pfn, count, altmap, pgmap)


class _Kernel(SimulatedKernel):
    vmemmap: _Recording
    vmemmap_type = _Recording

    def _driver_init(self) -> None:
        super()._driver_init()
        setattr(self.memremap, "memmap_init_zone_device", lambda *_: None)  # noqa: B010


def write_sparse(path: Path, size: int, align: int, kernel: str = "6.12") -> None:
    """
    Write a dump of a kernel with one devdax.

    :param size: of the device in bytes, whole GiB
    :param align: of its compound pages in bytes, 2 MiB or 1 GiB
    """
    sections = size // (PAGES_PER_SECTION * PAGE_SIZE)
    # Frames that are handed out together: tables, and frames of heads and of tails.
    if align == 2 * MIB:
        group, tables_at, counts = 1, [0], [1] + [1, 7] * 64
    else:
        group, tables_at, counts = 8, [0, *range(3, 10)], [1, 1, 4095] + [1] * 7
    frames = sections // group * len(counts)
    # As much again as their struct pages take, and what lies below 4 GiB.
    ram = -(-frames * PAGE_SIZE * 17 // 16 // GIB) + 5
    built = _Kernel(
        parse_scenario(
            f'kernel = "{kernel}"\nram = "{ram}G"\n[[pagemap]]\nname = "dax0.0"\n'
            f'type = "devdax"\nstart = {1 << 40}\nsize = {size}\nalign = "{align // MIB}M"\n',
            "sparse",
        )
    )
    run = max(built.pages.runs, key=lambda run: run.end - run.start)
    first = run.start
    built.pages.take(first, first + frames)
    _count_references(built, first, frames, np.array(counts, dtype=np.uint64))

    populated: list[int] = built.vmemmap.sections
    where = first + np.arange(sections // group)[:, None] * len(counts) + np.array(tables_at)
    tables = where.ravel()
    for pfn, table in zip(populated, tables.tolist(), strict=True):
        va = built.addresses.pfn_to_page(pfn)
        built.tables.set(va, PMD_SHIFT, table << PAGE_SHIFT | TABLE)
    note = finish(built)

    builder = kdumpling.KdumpBuilder("x86_64")
    builder.set_vmcoreinfo(note)
    for start, end, _ in built.ram:
        address = start << PAGE_SHIFT
        builder.add_memory_segment(
            address, _Hole((end - start) << PAGE_SHIFT), built.addresses.va(address)
        )
    builder.write(str(path))
    with open(path, "r+b") as file:
        offset = file.seek(0, 2)
        offsets = []
        for start, end, _ in built.ram:
            offsets.append((start, end, offset - (start << PAGE_SHIFT)))
            offset += (end - start) << PAGE_SHIFT
        file.truncate(offset)

        def write(pfn: int, data: memoryview) -> None:
            base = next(base for start, end, base in offsets if start <= pfn < end)
            file.seek(base + (pfn << PAGE_SHIFT))
            file.write(data)

        for segment in built.physical.segments():
            for pfn, rows in built.physical.rows(*segment):
                for i, page in enumerate(rows):
                    if page.any():
                        write(pfn + i, page.data)
        for batch in range(0, sections, _BATCH):
            numbers = np.arange(batch, min(batch + _BATCH, sections))
            entries = _entries(numbers, first, len(counts), align)
            for table, row in zip(tables[numbers].tolist(), entries, strict=True):
                write(table, row.data)


def _entries(sections: np.ndarray, first: int, group: int, align: int) -> np.ndarray:
    """Make the last-level tables of sections, shape ``(n, 512)``."""
    if align == 2 * MIB:
        head = first + sections[:, None] * group + 1 + 2 * np.arange(64)
        pfn = np.repeat((head + 1)[:, :, None], 8, axis=2)
        pfn[:, :, 0] = head
        pfn = pfn.reshape(-1, _ENTRIES)
    else:
        head = first + sections // 8 * group + 1
        pfn = np.repeat((head + 1)[:, None], _ENTRIES, axis=1)
        pfn[sections % 8 == 0, 0] = head[sections % 8 == 0]
    found: np.ndarray = pfn.astype("<u8") << np.uint64(PAGE_SHIFT) | np.uint64(KERNEL)
    return found


def _count_references(built: SimulatedKernel, first: int, frames: int, counts: np.ndarray) -> None:
    """Make the struct pages of frames what they are after ``prep_new_page()`` and mapping."""
    done = 0
    private = built.layouts.offsetof("page", "private") // 8
    for view in built.memmap.views(first, frames):
        number = np.arange(done, done + len(view)) % len(counts)
        view[:, 1] = 0
        view[:, 2] = built.arch.poison + LIST_POISON2
        view[:, private] = 0
        view[:, 6] = counts[number] << np.uint64(32) | np.uint64(0xFFFF_FFFF)
        done += len(view)
    assert done == frames
