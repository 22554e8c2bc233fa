# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Encodes symbols as the kernel's own table of them.

Source: ``scripts/kallsyms.c``. No compression is attempted: a token is a
character, as it is in the kernel's table for the characters that names use.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .kernel_image import Symbol

__all__ = ("Kallsyms", "encode")


@dataclass(frozen=True)
class Kallsyms:
    """The tables, all but ``kallsyms_offsets``, and the symbols in their order."""

    symbols: Sequence[Symbol]
    names: bytes
    markers: bytes
    seqs_of_names: bytes
    token_table: bytes
    token_index: bytes
    #: byte order as :mod:`struct` writes it
    mark: str = "<"

    @property
    def num_syms(self) -> bytes:
        return struct.pack(f"{self.mark}I", len(self.symbols))

    def offsets_absolute_percpu(self, relative_base: int) -> bytes:
        """
        ``kallsyms_offsets`` with KALLSYMS_ABSOLUTE_PERCPU (x86-64 before 6.15):
        per-CPU symbols as they are, others as a negative offset from
        ``kallsyms_relative_base``.
        """
        return b"".join(
            struct.pack(
                f"{self.mark}i",
                symbol.address
                if symbol.address < relative_base
                else _negative(symbol, relative_base),
            )
            for symbol in self.symbols
        )

    def offsets_place_relative(self, address: int) -> bytes:
        """
        ``kallsyms_offsets`` relative to where each is stored (7.0 and later).

        :param address: of ``kallsyms_offsets``
        """
        return b"".join(
            struct.pack(f"{self.mark}i", symbol.address - (address + 4 * i))
            for i, symbol in enumerate(self.symbols)
        )


def _negative(symbol: Symbol, relative_base: int) -> int:
    return relative_base - symbol.address - 1


def encode(symbols: Sequence[Symbol], seqs_size: int = 3, mark: str = "<") -> Kallsyms:
    """
    Encode symbols.

    :param seqs_size: bytes in an entry of ``kallsyms_seqs_of_names``
    :param mark: byte order as :mod:`struct` writes it
    """
    symbols = sorted(symbols, key=lambda symbol: symbol.address)
    names = bytearray()
    markers = []
    used: set[int] = set()
    for i, symbol in enumerate(symbols):
        if i % 256 == 0:
            markers.append(len(names))
        text = (symbol.type + symbol.name).encode("ascii")
        used.update(text)
        if len(text) > 0x7F:
            names += bytes((len(text) & 0x7F | 0x80, len(text) >> 7))
        else:
            names.append(len(text))
        names += text
    table = bytearray()
    index = []
    for char in range(256):
        index.append(len(table))
        if char in used:
            table.append(char)
        table.append(0)
    by_name = sorted(range(len(symbols)), key=lambda i: (symbols[i].name, symbols[i].address))
    return Kallsyms(
        symbols=symbols,
        names=bytes(names),
        markers=struct.pack(f"{mark}{len(markers)}I", *markers),
        # Big-endian, most significant byte first (scripts/kallsyms.c: write_src()).
        seqs_of_names=b"".join(seq.to_bytes(seqs_size, "big") for seq in by_name),
        token_table=bytes(table),
        token_index=struct.pack(f"{mark}256H", *index),
        mark=mark,
    )
