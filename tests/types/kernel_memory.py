# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel's virtual memory made of byte strings, with its VMCOREINFO."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from drgn import Architecture, FaultError, Platform, PlatformFlags, Program
from kallsyms_writer import Symbols, encode

PLATFORMS = {
    "little": Platform(
        Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN
    ),
    "big": Platform(Architecture.S390X, PlatformFlags.IS_64_BIT),
}

RELATIVE_BASE, ABSOLUTE_PERCPU, PLACE_RELATIVE, ABSOLUTE = (
    "relative base",
    "absolute percpu",
    "place relative",
    "absolute",
)
ENCODINGS = (RELATIVE_BASE, ABSOLUTE_PERCPU, PLACE_RELATIVE, ABSOLUTE)


class KernelMemory:
    """
    Parts of a kernel's image, one after the other.

    :param start: kernel virtual address of the first part
    """

    def __init__(self, start: int = 0xFFFFFFFF82000000, byteorder: str = "little") -> None:
        self.start = start
        self.byteorder = byteorder
        self.data = bytearray()
        self.keys = {"OSRELEASE": "6.12.0-test", "PAGESIZE": "4096"}
        self.reads = 0
        self.markers = 0

    def add(self, data: bytes) -> int:
        """Add a part; returns its address."""
        self.data += bytes(-len(self.data) % 8)
        address = self.start + len(self.data)
        self.data += data
        return address

    def add_kallsyms(
        self, symbols: Symbols, encoding: str = PLACE_RELATIVE, *, merges: int = 12
    ) -> None:
        """Add the tables of kallsyms, and VMCOREINFO's word of them."""
        prefix = "<" if self.byteorder == "little" else ">"
        tables = encode(symbols, self.byteorder, merges=merges)
        for name in (
            "kallsyms_num_syms",
            "kallsyms_names",
            "kallsyms_markers",
            "kallsyms_token_table",
            "kallsyms_token_index",
        ):
            self.set_symbol(name, self.add(getattr(tables, name)))
        # Only tests set it: no kernel has it.
        self.markers = int(self.keys.pop("SYMBOL(kallsyms_markers)"), 16)
        addresses = [address for _, address, _ in symbols]
        self.set_symbol("_stext", {s[0]: s[1] for s in symbols}.get("_stext", 0))
        if encoding == ABSOLUTE:
            self.set_symbol(
                "kallsyms_addresses",
                self.add(struct.pack(f"{prefix}{len(addresses)}Q", *addresses)),
            )
            return
        place = self.add(b"")
        self.set_symbol("kallsyms_offsets", place)
        base = min(address for address in addresses if address >= 1 << 63)
        if encoding == RELATIVE_BASE:
            offsets = [address - base for address in addresses]
        elif encoding == ABSOLUTE_PERCPU:
            offsets = [a if a < 1 << 31 else base - 1 - a for a in addresses]
        else:
            offsets = [a - (place + 4 * i) for i, a in enumerate(addresses)]
        self.add(b"".join(struct.pack(prefix + "I", offset & 0xFFFFFFFF) for offset in offsets))
        if encoding != PLACE_RELATIVE:
            self.set_symbol("kallsyms_relative_base", self.add(struct.pack(prefix + "Q", base)))

    def set_symbol(self, name: str, address: int) -> None:
        """Add a symbol to VMCOREINFO."""
        self.keys[f"SYMBOL({name})"] = f"{address:x}"

    def address_of(self, name: str) -> int:
        """Get a symbol of VMCOREINFO."""
        return int(self.keys[f"SYMBOL({name})"], 16)

    def patch(self, address: int, data: bytes) -> None:
        """Overwrite some bytes."""
        at = address - self.start
        self.data[at : at + len(data)] = data

    def add_to(self, prog: Program) -> None:
        """Put the memory into a program, as virtual memory."""

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            self.reads += 1
            if offset + count > len(self.data):
                raise FaultError("beyond the test's memory", address)
            return bytes(self.data[offset : offset + count])

        # What lies behind the last part faults, as unmapped memory does.
        prog.add_memory_segment(self.start, (len(self.data) | 0xFFF) + 0x100000, read)

    def program(self) -> Program:
        """Make a program with nothing but this memory."""
        prog = Program(PLATFORMS[self.byteorder])
        self.add_to(prog)
        return prog

    def kernel(self, extra: Mapping[str, str] | None = None) -> Program:
        """Make a program of a Linux kernel."""
        keys = {"SYMBOL(swapper_pg_dir)": f"{self.start:x}", "NUMBER(phys_base)": "0"}
        keys |= self.keys
        keys |= extra or {}
        text = "".join(f"{key}={value}\n" for key, value in keys.items())
        prog = Program(PLATFORMS[self.byteorder])
        prog.set_linux_kernel_custom(text, False)
        self.add_to(prog)
        return prog
