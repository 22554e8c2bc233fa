# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Struct layouts and enumerators of real kernels.

The files beside this module were cut out of the BTF of Debian's kernels by
:mod:`vmemscope.sim.layouts.extract`. A file holds the ``release`` it is from and
a list of ``types``, one a line, close to what ``bpftool btf dump -j`` prints:

* every record has an ``id`` (from 1, in order), a ``kind`` and, unless the
  type is anonymous, a ``name``;
* ``type``, ``index`` and the second item of a member or parameter are ids, 0 is
  ``void``;
* a member is ``[name, type, offset in bits]``, with the size in bits as a
  fourth item for a bit-field;
* ``size`` is in bytes, ``count`` is the number of elements of an array.

The coming kernel, which nobody has booted, has no file: :mod:`.coming` makes its types of
those of 7.2.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from random import Random
from typing import Any

from .coming import RELEASE, coming_types

__all__ = ("VERSIONS", "Layouts", "Member")

#: versions, oldest first: those that there is a file for, and the coming one
VERSIONS = ("6.1", "6.12", "7.2", "next")

_STEP = re.compile(r"\.?(\w+)|\[(\d+)\]")
#: structures whose members are where they are in all kernels; page and folio are unions
#: of what is used in turn
_FIXED = ("page", "folio", "list_head", "hlist_node", "hlist_head")
_TRANSPARENT = ("typedef", "const", "volatile", "restrict")


@dataclass(frozen=True)
class Member:
    """Where a member lies."""

    #: bytes from the start of the outermost structure
    offset: int
    #: bytes; of a bit-field, of the whole bytes that it touches
    size: int
    #: first bit in the byte at :attr:`offset`, and size in bits, of a bit-field
    bits: tuple[int, int] | None = None

    def shift(self, order: str) -> int:
        """Return how far a bit-field is from the least significant bit of its bytes."""
        assert self.bits is not None
        first, bits = self.bits
        return first if order == "little" else 8 * self.size - first - bits


class Layouts:
    """The types of one kernel."""

    def __init__(self, release: str, types: list[dict[str, Any]]) -> None:
        #: the kernel that they were taken from, as ``uname -r`` prints it
        self.release = release
        #: all records; a record's id is its index plus one
        self.types = types
        self._named: dict[tuple[str, str], dict[str, Any]] = {}
        self._constants: dict[str, int] = {}
        for record in types:
            name = record.get("name")
            if name is not None:
                self._named.setdefault((record["kind"], name), record)
            if record["kind"] in ("enum", "enum64"):
                for constant, value in record["values"]:
                    self._constants.setdefault(constant, value)
        self._members: dict[tuple[str, str], Member | None] = {}

    @classmethod
    def load(cls, version: str) -> Layouts:
        """Return the types of one of :data:`VERSIONS`. Don't change the result."""
        return _load(version)

    def __deepcopy__(self, memo: dict[int, object]) -> Layouts:
        # Nobody changes them.
        return self

    def resized(self, size: int) -> Layouts:
        """
        Return the types of this kernel with another ``sizeof(struct page)``.

        Less than 64 bytes: without the members at its end (memcg_data is an option). The
        parts of a ``struct folio`` move with the ``struct page``s that they lie in.

        :param size: bytes, a multiple of 8
        """
        bits = 8 * self.sizeof("page")
        types = []
        for record in self.types:
            if record["kind"] == "struct" and record.get("name") == "page":
                members = [one for one in record["members"] if one[2] < 8 * size]
                record = {**record, "size": size, "members": members}
            elif record["kind"] == "struct" and record.get("name") == "folio":
                members = [
                    [name, type_id, at // bits * size * 8 + at % bits, *rest]
                    for name, type_id, at, *rest in record["members"]
                ]
                parts, rest = divmod(8 * int(record["size"]), bits)
                record = {**record, "size": parts * size + rest // 8, "members": members}
            types.append(record)
        return Layouts(self.release, types)

    def without_orders(self) -> Layouts:
        """
        Return the types of this kernel without the order of sections.

        It is there with CONFIG_SPARSEMEM_VMEMMAP_OPTIMIZATION, which architectures select.
        """
        section = self._named["struct", "mem_section"]
        members = [one for one in section["members"] if one[0] != "compound_page_order"]
        record = {**section, "members": members}
        return Layouts(self.release, [record if one is section else one for one in self.types])

    def with_subsections(self, count: int) -> Layouts:
        """
        Return the types of this kernel with another number of subsections in a section.

        :param count: bits of ``subsection_map``, of which x86-64 has 64
        """
        words = -(-count // 64)
        usage = self._named["struct", "mem_section_usage"]
        (bitmap,) = (one for one in usage["members"] if one[0] == "subsection_map")
        grown = words - int(self._by_id(bitmap[1])["count"])
        array = {**self._by_id(bitmap[1]), "id": len(self.types) + 1, "count": words}
        members = [
            [name, array["id"] if name == bitmap[0] else type_id, at, *rest]
            if at <= bitmap[2]
            else [name, type_id, at + 64 * grown, *rest]
            for name, type_id, at, *rest in usage["members"]
        ]
        record = {**usage, "size": usage["size"] + 8 * grown, "members": members}
        types = [record if one is usage else one for one in self.types] + [array]
        return Layouts(self.release, types)

    def shuffled(self, random: Random) -> Layouts:
        """
        Return the types with the members of structures in random order (RANDSTRUCT).

        Members stay together that share a word. A structure keeps its size, and what has no
        length stays at its end.
        """
        named = [
            one
            for one in self.types
            if one["kind"] == "struct" and one.get("name") not in (None, *_FIXED)
        ]
        # struct mm_struct is one structure without a name.
        inner = [self._by_id(one[1]) for record in named for one in record["members"] if not one[0]]
        ids = {one["id"] for one in (*named, *inner) if one["kind"] == "struct"}
        types = [
            {**one, "members": self._shuffle(one, random)} if one["id"] in ids else one
            for one in self.types
        ]
        return Layouts(self.release, types)

    def _shuffle(self, record: dict[str, Any], random: Random) -> list[list[Any]]:
        cuts = {0, record["size"] * 8}
        cuts |= {at for _, _, at, *_ in record["members"] if at % 64 == 0}
        for _, type_id, at, *bits in record["members"]:
            size = bits[0] if bits else 8 * self._size(self._by_id(type_id))
            cuts -= set(range(at // 64 * 64 + 64, at + size, 64))
        bounds = sorted(cuts)
        parts = [part for part in pairwise(bounds) if part[1] - part[0]]
        order = list(parts)
        last = [order.pop()] if order and self._open_ended(record) else []
        while len(order) > 1 and order == parts[: len(order)]:
            random.shuffle(order)
        order += last
        moved, at = {}, 0
        for start, end in order:
            moved[start] = at - start
            at += end - start
        starts = [start for start, _ in parts]
        return [
            [name, type_id, at + (moved[starts[bisect(starts, at) - 1]] if starts else 0), *bits]
            for name, type_id, at, *bits in record["members"]
        ]

    def _open_ended(self, record: dict[str, Any]) -> bool:
        """Whether a structure, or a member at its end, ends in an array of no length."""
        record = self._resolve(record)
        if record["kind"] == "array":
            return not record["count"] or self._open_ended(self._by_id(record["type"]))
        members = record.get("members", ())
        last = members if record["kind"] == "union" else members[-1:]
        return any(self._open_ended(self._by_id(one[1])) for one in last)

    def constant(self, name: str) -> int:
        """Return the value of an enumerator."""
        return self._constants[name]

    def has_constant(self, name: str) -> bool:
        return name in self._constants

    def sizeof(self, name: str) -> int:
        """Return the size in bytes of a structure, union or typedef."""
        return self._size(self._record(name))

    def offsetof(self, name: str, path: str) -> int:
        """Return the offset in bytes of a member."""
        return self.member(name, path).offset

    def has_member(self, name: str, path: str) -> bool:
        try:
            self.member(name, path)
        except KeyError:
            return False
        return True

    def member(self, name: str, path: str) -> Member:
        """
        Find a member.

        :param name: tag of a structure or union, or name of a typedef of one
        :param path: ``a``, ``a.b``, ``a[2].b``; anonymous members are seen through
        :raises KeyError: if there is none
        """
        key = name, path
        if key not in self._members:
            try:
                self._members[key] = self._find(self._record(name), path)
            except KeyError:
                self._members[key] = None
        found = self._members[key]
        if found is None:
            raise KeyError(f"{name}.{path}")
        return found

    def member_names(self, name: str) -> list[str]:
        """Return the names of a structure's members, those of anonymous ones included."""
        return [member for member, *_ in self._flatten(self._record(name), 0)]

    def _find(self, record: dict[str, Any], path: str) -> Member:
        offset = 0
        bits = None
        for step in _STEP.finditer(path):
            record = self._resolve(record)
            member, index = step.groups()
            if index is not None:
                if record["kind"] != "array":
                    raise KeyError(path)
                record = self._by_id(record["type"])
                offset += int(index) * self._size(record) * 8
                continue
            for found, type_id, found_offset, bit_size in self._flatten(record, 0):
                if found == member:
                    record = self._by_id(type_id)
                    offset += found_offset
                    if bit_size is not None:
                        bits = offset % 8, bit_size
                    break
            else:
                raise KeyError(path)
        if bits is not None:
            return Member(offset // 8, (bits[0] + bits[1] + 7) // 8, bits)
        return Member(offset // 8, self._size(record))

    def _flatten(
        self, record: dict[str, Any], base: int
    ) -> Iterator[tuple[str, int, int, int | None]]:
        for name, type_id, offset, *bit_size in record.get("members", ()):
            if name:
                yield name, type_id, base + offset, bit_size[0] if bit_size else None
            else:
                yield from self._flatten(self._resolve(self._by_id(type_id)), base + offset)

    def _record(self, name: str) -> dict[str, Any]:
        for kind in ("struct", "union", "typedef"):
            if (kind, name) in self._named:
                return self._resolve(self._named[kind, name])
        raise KeyError(name)

    def _by_id(self, type_id: int) -> dict[str, Any]:
        return self.types[type_id - 1] if type_id else {"kind": "void"}

    def _resolve(self, record: dict[str, Any]) -> dict[str, Any]:
        while record["kind"] in _TRANSPARENT:
            record = self._by_id(record["type"])
        return record

    def _size(self, record: dict[str, Any]) -> int:
        record = self._resolve(record)
        if record["kind"] == "array":
            return int(record["count"]) * self._size(self._by_id(record["type"]))
        if record["kind"] == "ptr":
            return 8
        return int(record.get("size", 0))


@cache
def _load(version: str) -> Layouts:
    if version == "next":
        return Layouts(RELEASE, coming_types(_load("7.2").types))
    text = files(__name__).joinpath(f"{version}.json").read_text(encoding="ascii")
    data = json.loads(text)
    return Layouts(data["release"], data["types"])
