# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The records of BTF, as ``include/uapi/linux/btf.h`` defines them.

:mod:`.btf` reads them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ("TAIL_WORDS", "BtfKind", "Enumerator", "Member", "Parameter", "Record")


class BtfKind(IntEnum):
    """``BTF_KIND_*``"""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class Record(NamedTuple):
    """``struct btf_type``: one type, without the words that follow it in the section."""

    id: int
    kind: BtfKind
    #: Bit 31 of ``info``: signed enum, union FWD, bit-field sizes in offsets.
    kind_flag: bool
    #: Number of members, enumerators, parameters; linkage of a FUNC.
    vlen: int
    #: Bytes (INT, ENUM, ENUM64, STRUCT, UNION, DATASEC, FLOAT), or a type id.
    size_or_type: int
    #: Name, tag; ``None`` if anonymous.
    name: str | None
    #: Index, in 32-bit words, of the first word after ``struct btf_type``.
    tail: int


class Member(NamedTuple):
    """``struct btf_member`` of a STRUCT or UNION."""

    name: str | None
    type_id: int
    #: Bits from the start of the structure.
    bit_offset: int
    #: Bits; ``None`` if the member is no bit-field.
    bit_field_size: int | None


class Enumerator(NamedTuple):
    """``struct btf_enum`` or ``struct btf_enum64``."""

    name: str
    value: int


class Parameter(NamedTuple):
    """``struct btf_param`` of a FUNC_PROTO; both 0 and ``None`` for ``...``"""

    name: str | None
    type_id: int


#: 32-bit words that follow struct btf_type (3 words): a fixed number, and a number for
#: each of vlen
TAIL_WORDS: Final[dict[BtfKind, tuple[int, int]]] = {
    BtfKind.INT: (1, 0),
    BtfKind.PTR: (0, 0),
    BtfKind.ARRAY: (3, 0),
    BtfKind.STRUCT: (0, 3),
    BtfKind.UNION: (0, 3),
    BtfKind.ENUM: (0, 2),
    BtfKind.FWD: (0, 0),
    BtfKind.TYPEDEF: (0, 0),
    BtfKind.VOLATILE: (0, 0),
    BtfKind.CONST: (0, 0),
    BtfKind.RESTRICT: (0, 0),
    BtfKind.FUNC: (0, 0),
    BtfKind.FUNC_PROTO: (0, 2),
    BtfKind.VAR: (1, 0),
    BtfKind.DATASEC: (0, 3),
    BtfKind.FLOAT: (0, 0),
    BtfKind.DECL_TAG: (1, 0),
    BtfKind.TYPE_TAG: (0, 0),
    BtfKind.ENUM64: (0, 3),
}
