# SPDX-License-Identifier: LGPL-2.1-or-later
"""What random damage once broke, each by the least of it that does."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from drgn import Object, offsetof

from .answers import problems, problems_of
from .child import Answer, run
from .dump import PAGE, Damage
from .session import Session

Sessions = Callable[[str], Session]


def answers(session: Session, damage: Damage, *commands: Sequence[str]) -> tuple[Answer, ...]:
    """Run commands on a damaged dump, and check the answers."""
    with session.dump.damaged(damage) as path:
        ran = run([(*command, "-c", path) for command in commands], judge=problems_of)
    assert problems(ran) == []
    return ran.answers


def report(session: Session, damage: Damage) -> Any:
    """Return the report on a damaged dump."""
    (answer,) = answers(session, damage, ("pgmap", "--format", "json"))
    return json.loads(answer.out)


def write(session: Session, address: int, data: bytes) -> Damage:
    """Write to a virtual address."""
    offset = session.dump.offset(session.map.physical(address) or 0)
    assert offset is not None
    return Damage(f"{data!r} at {address:#x}", ((offset, data),))


def without(session: Session, *addresses: int) -> Damage:
    """Leave physical pages out."""
    return Damage("absent", absent=frozenset(one // PAGE * PAGE for one in addresses))


class TestSections:
    ALL = (("pgmap",), ("memmap",), ("hugetlb",), ("page", "0x1000"))

    def test_pointer_to_the_table_is_not_in_the_dump(self, session: Sessions) -> None:
        image = session("6.1-all")
        pointer = image.map.physical(image.map.view.prog["mem_section"].address_)
        for answer in answers(image, without(image, pointer), *self.ALL):
            assert answer.status == 3
            assert "mem_section" in answer.err

    def test_table_is_somewhere_in_memory(self, session: Sessions) -> None:
        image = session("6.1-all")
        address = image.map.view.prog["mem_section"].address_
        # Text of the kernel's symbols, taken for a table of pointers.
        elsewhere = int(image.map.view.keys["SYMBOL(kallsyms_names)"], 16)
        damage = write(image, address, elsewhere.to_bytes(8, "little"))
        for answer in answers(image, damage, *self.ALL):
            assert answer.status == 3
            assert "vmemmap can't be found" in answer.err
            assert answer.seconds < 5


def test_entries_of_a_missing_table_may_be_what_a_frame_is_counted_for(session: Sessions) -> None:
    # A tail frame of a compound page of 1 GiB is mapped by tables of which one is missing:
    # that the others have fewer entries than its reference count is no leak.
    image = session("6.1-all")
    start = next(pagemap.ranges[0][0] for pagemap in image.map.pagemaps[1:2])
    entry = image.map.view.path(image.map.view.page_va(start + 0x10000))[-1]
    document = report(image, without(image, entry.at // PAGE * PAGE))
    found = next(one for one in document["pgmaps"] if one["name"] == "dax1.0")
    assert (found["vmemmap"]["unreadable"], found["findings"]) == (512, [])
    outcome = next(one for one in found["rules"] if one["rule"] == "refcount-high")
    assert outcome["outcome"] == "checked"
    assert "512 more entries" in outcome["reason"]


class TestModules:
    def test_list_that_can_not_be_read_is_reported_in_a_line(self, session: Sessions) -> None:
        image = session("6.1-all")
        # What they say of themselves is for people; that it is one line is for all.
        first = image.map.view.prog["btf_modules"].next.value_()
        damage = without(image, image.map.physical(first))
        (answer,) = answers(image, damage, ("pgmap", "--all"))
        assert answer.err.startswith("vmemscope: warning: cannot read the list of modules' BTF")
        (answer,) = answers(image, damage, ("pgmap", "--all", "-q"))
        assert answer.err == ""

    def test_name_is_escaped(self, session: Sessions) -> None:
        image = session("6.1-all")
        prog = image.map.view.prog
        module, btf, btf_module = (
            prog.type(f"struct {name}") for name in ("module", "btf", "btf_module")
        )
        head = prog["btf_modules"].address_
        # In a page of zeros that is nobody's: module, btf and btf_module, one after the other.
        physical, address = spare_page(image)
        raw = bytearray(PAGE)
        put(raw, offsetof(module, "name"), b"\x1b[2J\nevil\xff")
        put(raw, 2048 + offsetof(btf, "data_size"), b"\xff\xff\xff\x7f")
        put(raw, 3072 + offsetof(btf_module, "btf"), (address + 2048).to_bytes(8, "little"))
        put(raw, 3072 + offsetof(btf_module, "module"), address.to_bytes(8, "little"))
        node = 3072 + offsetof(btf_module, "list")
        put(raw, node, head.to_bytes(8, "little") * 2)
        link = write(image, head, (address + node).to_bytes(8, "little"))
        offset = image.dump.offset(physical)
        assert offset is not None
        damage = Damage("a module", ((offset, bytes(raw)), *link.writes))
        (answer,) = answers(image, damage, ("pgmap", "--all"))
        (line,) = answer.err.splitlines()
        assert "\\x1b[2J evil\\xff" in line


def put(raw: bytearray, offset: int, data: bytes) -> None:
    raw[offset : offset + len(data)] = data


def spare_page(session: Session) -> tuple[int, int]:
    """Find a page of zeros in RAM that nothing is known to be in; physical and virtual address."""
    base = session.map.view.prog["page_offset_base"].value_()
    used = {place.offset // PAGE for places in session.map.places.values() for place in places}
    for load in session.dump.loads:
        for at in range(load.size - PAGE, 0, -PAGE):
            data = session.dump.read(load.offset + at, PAGE)
            if (
                not any(data)
                and (load.offset + at) // PAGE not in used
                and load.paddr + at < 1 << 28
            ):
                return load.paddr + at, base + load.paddr + at
    raise AssertionError("no page is free")


class TestMemmap:
    """What is said of sections and counters presumes that all pagemaps and all RAM are known."""

    def test_pagemaps_that_can_not_be_read_leave_no_stale_sections(self, session: Sessions) -> None:
        image = session("7.2-all")
        prog = image.map.view.prog
        node = prog["pgmap_array"].xa_head.value_() - 2
        for address in (prog["pgmap_array"].address_, node):
            damage = without(image, image.map.physical(address))
            (answer,) = answers(image, damage, ("memmap", "--format", "json"))
            document = json.loads(answer.out)
            assert (answer.status, document["findings"]) == (4, [])
            skipped = {one["rule"] for one in document["rules"] if one["outcome"] == "skipped"}
            assert skipped >= {"section-stale", "memmap-counter"}

    def test_resources_that_can_not_be_read_leave_none(self, session: Sessions) -> None:
        image = session("7.2-all")
        first = image.map.view.prog["iomem_resource"].child.value_()
        damage = without(image, image.map.physical(first))
        (answer,) = answers(image, damage, ("memmap", "--format", "json"))
        assert (answer.status, json.loads(answer.out)["findings"]) == (4, [])

    def test_altmap_that_makes_no_sense(self, session: Sessions) -> None:
        image = session("6.1-all")
        prog = image.map.view.prog
        pagemap = Object(prog, "struct dev_pagemap", address=image.map.pagemaps[2].address)
        for reserve in (1 << 63, (1 << 63) - 1, (1 << 64) - 1):
            damage = write(image, pagemap.altmap.reserve.address_, reserve.to_bytes(8, "little"))
            command = ("memmap",), ("pgmap",), ("page", "0x2c0000"), ("page", "0x2cffff")
            answers(image, damage, *command)


def test_types_without_a_member_that_only_modules_take(session: Sessions) -> None:
    # Damaged BTF may call the list of struct btf_module anything.
    image = session("6.12-all")
    start, stop = (image.map.view.prog.symbol(f"__{one}_BTF").address for one in ("start", "stop"))
    blob = image.map.view.prog.read(start, stop - start)
    damage = write(image, start + blob.index(b"\0list\0") + 1, b"tsil")
    for answer in answers(image, damage, ("pgmap",), ("memmap",), ("pgmap", "--all")):
        assert answer.status in (0, 1, 3, 4)


class TestTypes:
    """Members that became something else."""

    ALL = TestSections.ALL

    @staticmethod
    def member(session: Session, name: str, bits: int, type_id: int) -> Damage:
        """Give the members of that name and place another type."""
        prog = session.map.view.prog
        start, stop = (prog.symbol(one).address for one in ("__start_BTF", "__stop_BTF"))
        blob = prog.read(start, stop - start)
        header, strings = struct.unpack_from("<I", blob, 4)[0], struct.unpack_from("<I", blob, 16)
        text = blob[header + strings[0] :]
        word = struct.pack("<I", text.index(b"\0" + name.encode() + b"\0") + 1)
        writes: list[tuple[int, bytes]] = []
        for at in range(header, header + strings[0] - 12, 4):
            if blob[at : at + 4] == word and blob[at + 8 : at + 12] == struct.pack("<I", bits):
                damage = write(session, start + at + 4, type_id.to_bytes(4, "little"))
                writes += damage.writes
        assert writes
        return Damage(f"{name} is of type {type_id}", tuple(writes))

    @staticmethod
    def type_id(session: Session, name: str) -> int:
        from vmemscope.types.btf import Btf
        from vmemscope.types.btf_records import BtfKind

        prog = session.map.view.prog
        start, stop = (prog.symbol(one).address for one in ("__start_BTF", "__stop_BTF"))
        found = Btf(prog.read(start, stop - start)).find(name, BtfKind.STRUCT)
        assert found is not None
        return found

    def test_integer_that_became_a_struct(self, session: Sessions) -> None:
        # vmem_altmap->reserve
        image = session("6.12-all")
        damage = self.member(image, "reserve", 128, self.type_id(image, "range"))
        for answer in answers(image, damage, *self.ALL):
            assert answer.status == 3
            assert "altmap.reserve is struct range, not an integer" in answer.err

    def test_what_no_check_beforehand_knows_of(self, session: Sessions) -> None:
        # percpu_ref->percpu_count_ptr
        image = session("6.12-all")
        damage = self.member(image, "percpu_count_ptr", 0, self.type_id(image, "range"))
        (answer,) = answers(image, damage, ("pgmap",))
        assert answer.status == 3
        assert "the kernel's types make no sense" in answer.err


def test_zones_that_can_not_be_read_share_no_frame_that_is_known(session: Sessions) -> None:
    # Then what frame a folio's tail pages should map is not known, either.
    image = session("7.2-all")
    for nid in range(2):
        node = image.map.view.prog["node_data"][nid]
        zones = {image.map.physical(zone.zone_start_pfn.address_) or 0 for zone in node.node_zones}
        damage = without(image, *zones)
        (answer,) = answers(image, damage, ("hugetlb", "--format", "json"))
        document = json.loads(answer.out)
        assert document["findings"] == []
        outcome = next(one for one in document["rules"] if one["rule"] == "hugetlb-tail-frame")
        assert outcome["outcome"] == "skipped" or "not known" in outcome["reason"]
