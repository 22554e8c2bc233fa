# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writes BTF for tests: fixtures are code, not blobs.

Written from Documentation/bpf/btf.rst, apart from the reader and from the
simulator, which must be able to disagree with it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = range(1, 9)
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT = range(9, 17)
DECL_TAG, TYPE_TAG, ENUM64 = range(17, 20)

SIGNED, CHAR, BOOL = 1, 2, 4


class BtfWriter:
    """
    Collects types, which get the ids 1, 2, ... or go on from those of *base*.

    Each method adds one type and returns its id.
    """

    def __init__(self, byteorder: str = "little", base: BtfWriter | None = None) -> None:
        self.prefix = "<" if byteorder == "little" else ">"
        self.base = base
        self.next_id = 1 if base is None else base.next_id
        self.start_string = 0 if base is None else base.start_string + len(base.strings)
        self.strings = bytearray(b"\0" if base is None else b"")
        self.offsets: dict[str, int] = {}
        self.types = bytearray()

    def string(self, text: str | None) -> int:
        """Add a string, or find it; in the base too, as pahole does."""
        if not text:
            return 0
        if self.base is not None and text in self.base.offsets:
            return self.base.offsets[text]
        if text not in self.offsets:
            self.offsets[text] = self.start_string + len(self.strings)
            self.strings += text.encode() + b"\0"
        return self.offsets[text]

    def add(
        self,
        kind: int,
        name: str | None = None,
        size_or_type: int = 0,
        tail: Sequence[int] = (),
        *,
        vlen: int = 0,
        flag: bool = False,
    ) -> int:
        """Add a record with the 32-bit words that follow it."""
        words = [self.string(name), flag << 31 | kind << 24 | vlen, size_or_type, *tail]
        self.types += struct.pack(
            f"{self.prefix}{len(words)}I", *(word & 0xFFFFFFFF for word in words)
        )
        self.next_id += 1
        return self.next_id - 1

    def int(
        self, name: str, size: int, encoding: int = 0, *, bits: int = 0, offset: int = 0
    ) -> int:
        word = encoding << 24 | offset << 16 | (bits or 8 * size)
        return self.add(INT, name, size, [word])

    def ptr(self, type_id: int) -> int:
        return self.add(PTR, None, type_id)

    def array(self, element: int, length: int, index: int = 1) -> int:
        return self.add(ARRAY, None, 0, [element, index, length])

    def compound(
        self,
        kind: int,
        name: str | None,
        size: int,
        members: Sequence[tuple[str | None, int, int] | tuple[str | None, int, int, int]],
    ) -> int:
        """Add a STRUCT or UNION of (name, type, bit offset[, bit-field size])."""
        flag = any(len(member) == 4 for member in members)
        tail: list[int] = []
        for name_, type_id, offset, *bits in members:
            tail += [self.string(name_), type_id, (bits[0] << 24 if bits else 0) | offset]
        return self.add(kind, name, size, tail, vlen=len(members), flag=flag)

    def struct(self, name: str | None, size: int, *members: tuple) -> int:
        return self.compound(STRUCT, name, size, members)

    def union(self, name: str | None, size: int, *members: tuple) -> int:
        return self.compound(UNION, name, size, members)

    def enum(
        self, name: str | None, values: dict[str, int], *, size: int = 4, signed: bool = False
    ) -> int:
        tail: list[int] = []
        for key, value in values.items():
            tail += [self.string(key), value]
        return self.add(ENUM, name, size, tail, vlen=len(values), flag=signed)

    def enum64(self, name: str | None, values: dict[str, int], *, signed: bool = False) -> int:
        tail: list[int] = []
        for key, value in values.items():
            tail += [self.string(key), value & 0xFFFFFFFF, value >> 32]
        return self.add(ENUM64, name, 8, tail, vlen=len(values), flag=signed)

    def proto(self, returns: int, *parameters: tuple[str | None, int]) -> int:
        tail: list[int] = []
        for name, type_id in parameters:
            tail += [self.string(name), type_id]
        return self.add(FUNC_PROTO, None, returns, tail, vlen=len(parameters))

    def build(self, *, layout: Sequence[tuple[int, int]] | None = None) -> bytes:
        """
        Put the blob together.

        :param layout: for each kind, bytes after ``struct btf_type`` and bytes
            for each of vlen (``struct btf_layout``); none with ``None``
        """
        sections = [len(self.types), len(self.strings)]
        head = struct.pack(
            f"{self.prefix}HBBI4I",
            0xEB9F,
            1,
            0,
            24 if layout is None else 32,
            0,
            sections[0],
            sections[0],
            sections[1],
        )
        data = bytes(self.types) + bytes(self.strings)
        if layout is not None:
            # Aligned, behind the strings.
            data += bytes(-len(data) % 4)
            head += struct.pack(f"{self.prefix}2I", len(data), 4 * len(layout))
            for info_size, elem_size in layout:
                data += struct.pack(f"{self.prefix}BBH", info_size, elem_size, 0)
        return head + data
