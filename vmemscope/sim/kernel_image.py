# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel image: where symbols are, and what they name.

2 MiB each of text, read-only data, data and zero-initialised data, in this
order, as the linker script has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from zlib import crc32

from .addresses import IMAGE_SIZE
from .objects import KernelMemory, Struct

__all__ = ("IMAGE_SIZE", "KernelImage", "Symbol", "promoted")

#: section -> position, kallsyms type of a symbol in it
_SECTIONS = {"text": (0, "T"), "rodata": (1, "R"), "data": (2, "D"), "bss": (3, "B")}
_SECTION_SIZE = IMAGE_SIZE // len(_SECTIONS)


@dataclass(frozen=True)
class Symbol:
    """A line of kallsyms."""

    name: str
    address: int
    #: as nm prints it; lower case for static
    type: str


def promoted(symbols: Iterable[Symbol]) -> list[Symbol]:
    """
    Name static symbols as clang does that other parts of the kernel use after ThinLTO
    (LLVM's ``getGlobalNameForLocal()``): with a hash of the module, in decimal.
    """
    return [
        replace(one, name=f"{one.name}.llvm.{crc32(one.name.encode()) * 0x9E3779B1}")
        if one.type.islower()
        else one
        for one in symbols
    ]


class KernelImage:
    """
    Gives out addresses in the image.

    :param memory: where variables are that are written as they are defined
    """

    def __init__(self, memory: KernelMemory) -> None:
        self.memory = memory
        #: virtual address of ``_text``
        self.text = text = memory.addresses.text
        self.symbols: list[Symbol] = []
        self._next = {name: self.section(name) for name in _SECTIONS}
        for name in ("_text", "_stext"):
            self.symbols.append(Symbol(name, text, "T"))

    def section(self, name: str) -> int:
        """Return the virtual address of a section."""
        return self.text + _SECTIONS[name][0] * _SECTION_SIZE

    def room(self, section: str, size: int, align: int = 8) -> int:
        """Return room in a section; its bytes are zeros."""
        va = -(-self._next[section] // align) * align
        self._next[section] = va + size
        if va + size > self.section(section) + _SECTION_SIZE:
            raise ValueError(f"the image's {section} is full")
        return va

    def define(
        self, name: str, size: int, section: str = "data", align: int = 8, static: bool = False
    ) -> int:
        """Define a symbol with room of its own; return its address."""
        va = self.room(section, size, align)
        kind = _SECTIONS[section][1]
        self.symbols.append(Symbol(name, va, kind.lower() if static else kind))
        return va

    def define_word(self, name: str, value: int, size: int = 8, static: bool = False) -> None:
        """Define a variable of up to 8 bytes."""
        va = self.define(name, size, "data", size, static)
        self.memory.write_int(va, value, size)

    def define_struct(
        self, name: str, struct: str, section: str = "data", static: bool = False
    ) -> Struct:
        """Define a variable that is a structure."""
        size = self.memory.layouts.sizeof(struct)
        return self.memory.struct(struct, self.define(name, size, section, 64, static))

    def label(self, name: str, address: int, kind: str = "D") -> None:
        """Define a symbol at an address."""
        self.symbols.append(Symbol(name, address, kind))

    def __getitem__(self, name: str) -> int:
        """Return the address of a symbol."""
        for symbol in self.symbols:
            if symbol.name == name:
                return symbol.address
        raise KeyError(name)
