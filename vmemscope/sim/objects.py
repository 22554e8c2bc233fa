# SPDX-License-Identifier: LGPL-2.1-or-later
"""Places structures of the kernel in simulated memory, member by member."""

from __future__ import annotations

from .addresses import AddressSpace
from .architectures import SimulatedArch
from .layouts import Layouts
from .memory import Memory

__all__ = ("KernelMemory", "Struct", "list_add_tail")

_U64 = (1 << 64) - 1


class KernelMemory:
    """Kernel memory by virtual address: the direct map, the kernel image, modules."""

    def __init__(
        self, memory: Memory, addresses: AddressSpace, layouts: Layouts, arch: SimulatedArch
    ) -> None:
        self.physical = memory
        self.addresses = addresses
        self.layouts = layouts
        self.arch = arch
        self.units = memory.units
        #: module memory: virtual address, size and physical address of a mapping
        self.modules: list[tuple[int, int, int]] = []

    def pa(self, va: int) -> int:
        """Return the physical address of kernel memory."""
        for start, size, pa in self.modules:
            if start <= va < start + size:
                return pa + va - start
        return self.addresses.pa(va)

    def read(self, va: int, size: int) -> bytes:
        return self.physical.read(self.pa(va), size)

    def write(self, va: int, data: bytes) -> None:
        self.physical.write(self.pa(va), data)

    def read_int(self, va: int, size: int = 8) -> int:
        return int.from_bytes(self.read(va, size), self.units.order)

    def write_int(self, va: int, value: int, size: int = 8) -> None:
        self.write(va, (value & ((1 << size * 8) - 1)).to_bytes(size, self.units.order))

    def struct(self, name: str, va: int) -> Struct:
        """Return a structure at an address."""
        return Struct(self, name, va)


class Struct:
    """
    A structure at a virtual address; members are items::

        pgmap["altmap.base_pfn"] = 0x120000
        node["slots[3]"] = entry
    """

    def __init__(self, memory: KernelMemory, name: str, va: int) -> None:
        self.memory = memory
        self.name = name
        self.va = va

    def __contains__(self, path: str) -> bool:
        return self.memory.layouts.has_member(self.name, path)

    def __setitem__(self, path: str, value: int) -> None:
        member = self.memory.layouts.member(self.name, path)
        va = self.va + member.offset
        if member.bits is not None:
            shift, bits = member.shift(self.memory.units.order), member.bits[1]
            mask = ((1 << bits) - 1) << shift
            value = self.memory.read_int(va, member.size) & ~mask | value << shift & mask
        self.memory.write_int(va, value, member.size)

    def __getitem__(self, path: str) -> int:
        member = self.memory.layouts.member(self.name, path)
        value = self.memory.read_int(self.va + member.offset, member.size)
        if member.bits is not None:
            shift, bits = member.shift(self.memory.units.order), member.bits[1]
            value = value >> shift & ((1 << bits) - 1)
        return value

    def set_bytes(self, path: str, data: bytes) -> None:
        """Set an array of characters, NUL-terminated unless it is full."""
        member = self.memory.layouts.member(self.name, path)
        if len(data) > member.size:
            raise ValueError(f"{data!r} does not fit in {self.name}.{path}")
        self.memory.write(self.va + member.offset, data.ljust(member.size, b"\0"))

    def addr(self, path: str) -> int:
        """Return the virtual address of a member."""
        return self.va + self.memory.layouts.offsetof(self.name, path)

    def init_list(self, path: str) -> None:
        """INIT_LIST_HEAD() of a ``struct list_head`` member."""
        self[f"{path}.next"] = self[f"{path}.prev"] = self.addr(path)


def list_add_tail(memory: KernelMemory, new: int, head: int) -> None:
    """``include/linux/list.h: list_add_tail()``; both are addresses of ``struct list_head``."""
    prev = memory.read_int(head + 8)
    memory.write_int(head + 8, new)
    memory.write_int(new, head)
    memory.write_int(new + 8, prev)
    memory.write_int(prev, new)
