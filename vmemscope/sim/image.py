# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The result: a vmcore.

An ELF file with VMCOREINFO and a segment for each run of adjacent pages that
exist, physical addresses beside those of the direct map, as the kernel's own
``/proc/vmcore`` has them. Pages of zeros are holes in the file.
"""

from __future__ import annotations

import io
import os

import kdumpling
import numpy as np

from ..errors import UsageError
from .faults import Planted, plant, plant_hugetlb
from .finish import finish
from .kernel import SimulatedKernel
from .memory import Bytes
from .scenario import Scenario

__all__ = ("Image",)

#: of struct elf64_hdr
_E_MACHINE = 18

#: program headers are counted in 16 bits, of which one value and the note go away
_MAX_SEGMENTS = 0xFFFF - 2


class Image:
    """A kernel at the moment it is dumped."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel
        #: the faults in it, in the scenario's order, those of HugeTLB last
        self.planted: list[Planted] = [plant(kernel, fault) for fault in kernel.scenario.faults]
        self.planted += [plant_hugetlb(kernel, fault) for fault in kernel.scenario.hugetlb_faults]
        #: VMCOREINFO, as text
        self.vmcoreinfo = finish(kernel)

    @property
    def scenario(self) -> Scenario:
        return self.kernel.scenario

    def write(self, path: str | os.PathLike[str]) -> None:
        """
        Write the vmcore.

        :raises OSError: if that fails
        """
        self.kernel.memmap.flush()
        segments = list(self.kernel.physical.segments())
        if len(segments) > _MAX_SEGMENTS:
            raise UsageError(f"scenario {self.scenario.name} is too large to dump")
        tables = self._tables()
        units = self.kernel.units
        builder = kdumpling.KdumpBuilder(self.kernel.arch.elf)
        builder.set_vmcoreinfo(self.vmcoreinfo)
        for cpu, registers in self.kernel.registers():
            builder.add_cpu_context(cpu, registers, pid=1)
        for pfn, count in segments:
            address = pfn << units.page_shift
            builder.add_memory_segment(
                address, _Hole(count * units.page_size), self.kernel.addresses.va(address)
            )
        # The builder lays out and writes the headers; the data it would write
        # whole, zeros included.
        builder.write(os.fspath(path))
        with open(path, "r+b", buffering=0) as file:
            if (machine := self.kernel.arch.machine) is not None:
                file.seek(_E_MACHINE)
                file.write(machine.to_bytes(2, units.order))
            offset = file.seek(0, os.SEEK_END)
            for segment in segments:
                for pfn, rows in self.kernel.physical.rows(*segment):
                    if tables:
                        rows = np.stack([tables.get(pfn + i, row) for i, row in enumerate(rows)])
                    _write_sparse(file, offset, rows)
                    offset += rows.nbytes
            file.truncate(offset)

    def _tables(self) -> dict[int, Bytes]:
        """Return the pages of page tables in the architecture's format, by pfn."""
        kernel, units = self.kernel, self.kernel.units
        if kernel.arch.convert is None:
            return {}
        found: dict[int, Bytes] = {}
        pending = [kernel.tables.root << units.page_shift]
        levels = kernel.tables.levels
        for (shift, bits), lower in zip(levels, (*levels[1:], None), strict=True):
            below: list[int] = []
            for address in pending:
                first, into = divmod(address, units.page_size)
                frames = range(first, first + kernel.tables.table_frames(shift))
                entries = np.concatenate([kernel.physical.words(pfn) for pfn in frames])
                entries = entries[into // 8 :][: 1 << bits].astype(np.uint64)
                converted = kernel.arch.convert(entries, shift, lower is None)
                if lower is not None and kernel.arch.invalid_tables:
                    name = "pte" if lower is levels[-1] else "pmd"
                    converted[converted == 0] = np.uint64(kernel.image[f"invalid_{name}_table"])
                data = converted.astype(kernel.arch.entries).view(np.uint8)
                for i, pfn in enumerate(frames):
                    page = found.setdefault(pfn, kernel.physical.page(pfn).copy())
                    part = data[i * units.page_size :][: units.page_size]
                    page[into : into + len(part)] = part
                if lower is not None:
                    below += kernel.tables.below(entries)
            # Several entries may share a table, and a fault make one of anything.
            pending = [
                table
                for table in dict.fromkeys(below)
                if table // units.page_size in kernel.physical
            ]
        return found


class _Hole(io.BytesIO):
    """A file that has a size but no content."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = self._size + offset if whence == os.SEEK_END else offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        return b""


def _write_sparse(file: io.FileIO, offset: int, rows: Bytes) -> None:
    """Write pages, each a row, to a file from an offset on, leaving out those of zeros."""
    size = rows.shape[1]
    used = np.flatnonzero(rows.view(np.uint64).any(axis=1))
    for part in np.split(used, np.flatnonzero(np.diff(used) != 1) + 1):
        if len(part):
            file.seek(offset + int(part[0]) * size)
            file.write(rows[part[0] : part[-1] + 1].data)
