# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cut the types that the simulator needs out of a real kernel's BTF.

    python -m vmemscope.sim.layouts.extract RAW.btf --release 6.1.0-56-amd64 -o 6.1.json

``RAW.btf`` is what ``/sys/kernel/btf/vmlinux`` holds, or the ``.BTF`` section
of a vmlinux. The result is read by :mod:`vmemscope.sim.layouts`, which also
describes its format. It is closed: whatever a kept type embeds is kept whole,
and a structure that is only pointed to becomes a forward declaration, unless it
is one of :data:`STRUCTS`.

The BTF format is described in the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ("extract", "main")

#: structures and unions that are kept whole
STRUCTS = (
    "btf",
    "btf_module",
    "bus_type",
    "cpumask",
    "dax_region",
    "dev_dax",
    "dev_dax_range",
    "dev_pagemap",
    "dev_pagemap_ops",
    "dev_printk_info",
    "device",
    "device_private",
    "elf64_sym",
    "folio",
    "gendisk",
    "hstate",
    "klist",
    "klist_node",
    "kobject",
    "kset",
    "list_head",
    "mem_section",
    "mem_section_usage",
    "mm_struct",
    "mod_kallsyms",
    "module",
    "new_utsname",
    "page",
    "percpu_ref",
    "percpu_ref_data",
    "pglist_data",
    "prb_data_ring",
    "prb_desc",
    "prb_desc_ring",
    "printk_info",
    "printk_ringbuffer",
    "range",
    "resource",
    "static_key_false",
    "static_key_true",
    "subsys_private",
    "uts_namespace",
    "vmem_altmap",
    "xa_node",
    "xarray",
    "zone",
)
#: structures that are too large to keep whole, with the members that are kept
PARTS = {
    "task_struct": ("tasks", "pid", "mm", "comm"),
}
#: typedefs that are kept (what the others mention comes along)
TYPEDEFS = (
    "atomic_long_t",
    "atomic_t",
    "bool",
    "cpumask_t",
    "nodemask_t",
    "p4d_t",
    "pgd_t",
    "pgprot_t",
    "phys_addr_t",
    "pmd_t",
    "pte_t",
    "pud_t",
    "resource_size_t",
    "s64",
    "size_t",
    "u16",
    "u32",
    "u64",
    "u8",
    "uint64_t",
    "vmemmap_t",
)
#: enumerations with a tag
ENUMS = (
    "bootmem_type",
    "compound_dtor_id",
    "desc_state",
    "hugetlb_page_flags",
    "memory_type",
    "migratetype",
    "mod_mem_type",
    "module_state",
    "node_stat_item",
    "node_states",
    "pageflags",
    "pagetype",
    "printk_info_flags",
    "zone_stat_item",
    "zone_type",
    "zone_watermarks",
)
#: enumerations without one are named by an enumerator of theirs
ANONYMOUS_ENUMS = ("IORES_DESC_NONE", "SECTION_INFO", "SECTION_MARKED_PRESENT_BIT")
#: base types that drgn or a table of globals may ask for by name
INTS = ("_Bool", "char", "int", "long int", "long unsigned int", "unsigned char", "unsigned int")
#: functions whose presence drgn goes by
FUNCS = ("vmemmap_populate",)

_KINDS = {
    1: "int",
    2: "ptr",
    3: "array",
    4: "struct",
    5: "union",
    6: "enum",
    7: "fwd",
    8: "typedef",
    9: "volatile",
    10: "const",
    11: "restrict",
    12: "func",
    13: "func_proto",
    14: "var",
    15: "datasec",
    16: "float",
    17: "decl_tag",
    18: "type_tag",
    19: "enum64",
}
_AGGREGATES = ("struct", "union")
_MODIFIERS = ("typedef", "volatile", "const", "restrict", "type_tag")


@dataclass
class _Type:
    """A BTF type record, with names and offsets decoded."""

    kind: str
    name: str
    kind_flag: bool
    #: bytes, or the id of the type referred to
    size_or_type: int
    #: what follows the record, by kind
    rest: list[Any] = field(default_factory=list)


def _read(data: bytes) -> list[_Type]:
    """Decode all type records; the position in the list is the BTF type id."""
    magic, version, _, header, type_off, type_len, str_off, str_len = struct.unpack_from(
        "<HBBIIIII", data
    )
    if magic != 0xEB9F or version != 1:
        raise ValueError("not raw little-endian BTF, version 1")
    strings = data[header + str_off : header + str_off + str_len]

    def name_at(offset: int) -> str:
        return strings[offset : strings.index(0, offset)].decode("ascii")

    types = [_Type("void", "", False, 0)]
    pos = header + type_off
    end = pos + type_len
    while pos < end:
        name, info, size_or_type = struct.unpack_from("<III", data, pos)
        pos += 12
        vlen, kind = info & 0xFFFF, _KINDS[info >> 24 & 0x1F]
        t = _Type(kind, name_at(name), bool(info >> 31), size_or_type)
        if kind in ("int", "var", "decl_tag"):
            t.rest = list(struct.unpack_from("<I", data, pos))
            pos += 4
        elif kind == "array":
            t.rest = list(struct.unpack_from("<III", data, pos))
            pos += 12
        elif kind in (*_AGGREGATES, "enum", "enum64", "datasec"):
            for _ in range(vlen):
                if kind == "enum":
                    n, value = struct.unpack_from("<Ii" if t.kind_flag else "<II", data, pos)
                    t.rest.append((name_at(n), value))
                    pos += 8
                elif kind == "enum64":
                    n, low, high = struct.unpack_from("<III", data, pos)
                    value = high << 32 | low
                    if t.kind_flag and value >> 63:
                        value -= 1 << 64
                    t.rest.append((name_at(n), value))
                    pos += 12
                else:
                    n, member_type, offset = struct.unpack_from("<III", data, pos)
                    t.rest.append((name_at(n) if kind != "datasec" else "", member_type, offset))
                    pos += 12
        elif kind == "func_proto":
            for _ in range(vlen):
                n, param = struct.unpack_from("<II", data, pos)
                t.rest.append((name_at(n), param))
                pos += 8
        types.append(t)
    return types


class _Extractor:
    """Collects types and gives them new ids, in the order they are met."""

    def __init__(self, types: list[_Type]) -> None:
        self.types = types
        for i in self._roots(_AGGREGATES, tuple(PARTS)):
            types[i].rest = [one for one in types[i].rest if one[0] in PARTS[types[i].name]]
        self.whole = set(self._roots(_AGGREGATES, (*STRUCTS, *PARTS)))
        self.records: list[dict[str, Any]] = []
        #: BTF type id, or (kind, tag) of a forward declaration -> new id
        self.ids: dict[int | tuple[str, str], int] = {0: 0}

    def _roots(self, kinds: tuple[str, ...], names: tuple[str, ...]) -> Iterator[int]:
        wanted = dict.fromkeys(names)
        for i, t in enumerate(self.types):
            if t.kind in kinds and t.name in wanted:
                # Name clashes: the first definition with members is the kernel proper's.
                del wanted[t.name]
                yield i

    def run(self) -> list[dict[str, Any]]:
        self._find_embedded()
        for i in sorted(self.whole):
            self._visit(i)
        for kinds, names in (
            (("int",), INTS),
            (("typedef",), TYPEDEFS),
            (("enum", "enum64"), ENUMS),
            (("func",), FUNCS),
        ):
            for i in self._roots(kinds, names):
                self._visit(i)
        for i, t in enumerate(self.types):
            if t.kind == "enum" and {name for name, _ in t.rest}.intersection(ANONYMOUS_ENUMS):
                self._visit(i)
        return self.records

    def _find_embedded(self) -> None:
        """Grow the set of whole structures by what they embed."""
        todo = list(self.whole)
        seen = set(todo)

        def embeds(type_id: int) -> Iterator[int]:
            t = self.types[type_id]
            if t.kind in _AGGREGATES:
                yield from (member for _, member, _ in t.rest)
            elif t.kind in _MODIFIERS:
                yield t.size_or_type
            elif t.kind == "array":
                yield t.rest[0]

        while todo:
            type_id = todo.pop()
            if self.types[type_id].kind in _AGGREGATES:
                self.whole.add(type_id)
            for other in embeds(type_id):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)

    def _add(self, key: int | tuple[str, str], record: dict[str, Any]) -> int:
        self.records.append(record)
        self.ids[key] = len(self.records)
        return len(self.records)

    def _visit(self, type_id: int) -> int:
        if type_id in self.ids:
            return self.ids[type_id]
        t = self.types[type_id]
        if t.kind == "type_tag":
            # Transparent (__user, __rcu ...): nothing here looks at it.
            return self._visit(t.size_or_type)
        if t.kind in _AGGREGATES and type_id not in self.whole and t.name:
            return self._forward(t.kind, t.name)
        if t.kind == "fwd":
            return self._forward("union" if t.kind_flag else "struct", t.name)
        record: dict[str, Any] = {"kind": t.kind}
        if t.name:
            record["name"] = t.name
        new_id = self._add(type_id, record)
        if t.kind in ("ptr", *_MODIFIERS, "func"):
            record["type"] = self._visit(t.size_or_type)
        elif t.kind == "int":
            (word,) = t.rest
            encoding = {0: "unsigned", 1: "signed", 2: "char", 4: "bool", 3: "signed char"}
            record.update(size=t.size_or_type, bits=word & 0xFF)
            record["encoding"] = encoding[word >> 24 & 0xF]
        elif t.kind == "float":
            record["size"] = t.size_or_type
        elif t.kind == "array":
            element, index, count = t.rest
            record.update(type=self._visit(element), index=self._visit(index), count=count)
        elif t.kind in ("enum", "enum64"):
            record.update(size=t.size_or_type, signed=t.kind_flag)
            record["values"] = [list(value) for value in t.rest]
        elif t.kind == "func_proto":
            record["type"] = self._visit(t.size_or_type)
            record["params"] = [[name, self._visit(param)] for name, param in t.rest]
        elif t.kind in _AGGREGATES:
            record["size"] = t.size_or_type
            record["members"] = members = []
            for name, member_type, offset in t.rest:
                member: list[Any] = [name, self._visit(member_type), offset]
                if t.kind_flag:
                    member[2] = offset & 0xFFFFFF
                    if offset >> 24:
                        member.append(offset >> 24)
                members.append(member)
        else:
            raise ValueError(f"no rule for {t.kind} {t.name!r}")
        return new_id

    def _forward(self, kind: str, name: str) -> int:
        for i in self.whole:
            if self.types[i].name == name and self.types[i].kind == kind:
                return self._visit(i)
        key = (kind, name)
        if key in self.ids:
            return self.ids[key]
        return self._add(key, {"kind": "fwd", "name": name, "of": kind})


def extract(data: bytes, release: str) -> dict[str, Any]:
    """
    Make the content of a layout file.

    :param data: raw BTF of a vmlinux
    :param release: the kernel's release (BTF does not hold it)
    """
    return {"release": release, "types": _Extractor(_read(data)).run()}


def _dump(layout: dict[str, Any]) -> str:
    """Format with one type a line."""
    lines = [
        f"  {json.dumps({'id': i, **record}, separators=(', ', ': '))}"
        for i, record in enumerate(layout["types"], 1)
    ]
    head = json.dumps(layout["release"])
    return f'{{"release": {head}, "types": [\n' + ",\n".join(lines) + "\n]}\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vmemscope.sim.layouts.extract",
        description="cut the types that the simulator needs out of a kernel's raw BTF",
    )
    parser.add_argument("btf", type=Path, help="raw BTF file")
    parser.add_argument("--release", required=True, help="release of the kernel it is from")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    try:
        text = _dump(extract(args.btf.read_bytes(), args.release))
        args.output.write_text(text, encoding="ascii")
    except (OSError, ValueError, struct.error) as e:
        print(f"cannot extract from {args.btf}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
