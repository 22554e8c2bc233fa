# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU memory: an area for each CPU, at ``pointer + __per_cpu_offset[cpu]``."""

from __future__ import annotations

from .objects import KernelMemory

__all__ = ("NR_CPUS", "Percpu")

#: CPUs of the simulated machine
NR_CPUS = 2


class Percpu:
    """
    Counters of one word a CPU.

    :param start: the linker's ``__per_cpu_start``, what pointers are counted from
    :param areas: virtual address of each CPU's area
    :param size: bytes of an area
    """

    def __init__(self, memory: KernelMemory, start: int, areas: list[int], size: int) -> None:
        self.memory = memory
        self.start = start
        self.areas = areas
        self.size = size
        self._used = 64

    @property
    def offsets(self) -> list[int]:
        """What ``__per_cpu_offset`` holds."""
        return [area - self.start & (1 << 64) - 1 for area in self.areas]

    def alloc(self) -> int:
        """Allocate a zeroed counter; return the per-CPU pointer to it."""
        if self._used + 8 > self.size:
            raise ValueError("per-CPU memory is full")
        pointer = self.start + self._used
        self._used += 8
        return pointer

    def address(self, pointer: int, cpu: int) -> int:
        """Return the address of one CPU's counter."""
        return self.areas[cpu] + pointer - self.start

    def add(self, pointer: int, cpu: int, value: int) -> None:
        """Add to one CPU's counter."""
        va = self.address(pointer, cpu)
        self.memory.write_int(va, self.memory.read_int(va) + value)
