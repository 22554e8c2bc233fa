# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writes BTF, the type information that a kernel carries in its own memory.

In: the records of :mod:`vmemscope.sim.layouts`. Out: the bytes between
``__start_BTF`` and ``__stop_BTF``. Format: Documentation/bpf/btf.rst and
include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

__all__ = ("encode",)

_MAGIC = 0xEB9F
_HEADER = "HBBIIIII"
_KINDS = {
    "int": 1,
    "ptr": 2,
    "array": 3,
    "struct": 4,
    "union": 5,
    "enum": 6,
    "fwd": 7,
    "typedef": 8,
    "volatile": 9,
    "const": 10,
    "restrict": 11,
    "func": 12,
    "func_proto": 13,
    "float": 16,
    "enum64": 19,
}
_ENCODINGS = {"unsigned": 0, "signed": 1, "char": 2, "signed char": 3, "bool": 4}
_FUNC_GLOBAL = 1


class _Strings:
    """The string section: each string once, the empty one at offset 0."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._offsets = {"": 0}

    def add(self, text: str) -> int:
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = len(self.data)
            self.data += text.encode("ascii") + b"\0"
        return offset


def encode(types: Iterable[dict[str, Any]], mark: str = "<") -> bytes:
    """
    Encode type records, which get the ids 1, 2, ... in their order.

    :param mark: byte order as :mod:`struct` writes it
    """
    strings = _Strings()
    out = bytearray()
    for record in types:
        out += _encode_type(record, strings, mark)
    size = struct.calcsize(mark + _HEADER)
    header = struct.pack(
        mark + _HEADER, _MAGIC, 1, 0, size, 0, len(out), len(out), len(strings.data)
    )
    return bytes(header + out + strings.data)


def _encode_type(record: dict[str, Any], strings: _Strings, mark: str) -> bytes:
    kind = record["kind"]
    vlen = 0
    kind_flag = False
    size_or_type = record.get("type", record.get("size", 0))
    rest = b""
    if kind == "int":
        rest = struct.pack(f"{mark}I", _ENCODINGS[record["encoding"]] << 24 | record["bits"])
    elif kind == "array":
        rest = struct.pack(f"{mark}III", record["type"], record["index"], record["count"])
        size_or_type = 0
    elif kind in ("struct", "union"):
        members = record["members"]
        vlen = len(members)
        # A member's offset holds a bit-field's size too, for all members of
        # the structure or for none.
        kind_flag = any(len(member) > 3 for member in members)
        rest = b"".join(
            struct.pack(
                f"{mark}III", strings.add(name), type_id, (bits[0] if bits else 0) << 24 | offset
            )
            for name, type_id, offset, *bits in members
        )
    elif kind == "enum":
        vlen = len(record["values"])
        kind_flag = record["signed"]
        rest = b"".join(
            struct.pack(f"{mark}II", strings.add(name), value & 0xFFFFFFFF)
            for name, value in record["values"]
        )
    elif kind == "enum64":
        vlen = len(record["values"])
        kind_flag = record["signed"]
        rest = b"".join(
            struct.pack(
                f"{mark}III", strings.add(name), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
            )
            for name, value in record["values"]
        )
    elif kind == "fwd":
        kind_flag = record["of"] == "union"
    elif kind == "func":
        vlen = _FUNC_GLOBAL
    elif kind == "func_proto":
        vlen = len(record["params"])
        rest = b"".join(
            struct.pack(f"{mark}II", strings.add(name), type_id)
            for name, type_id in record["params"]
        )
    info = kind_flag << 31 | _KINDS[kind] << 24 | vlen
    return struct.pack(f"{mark}III", strings.add(record.get("name", "")), info, size_or_type) + rest
