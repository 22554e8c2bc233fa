# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BTF reader: every kind of record, split BTF, and damage of every kind."""

from __future__ import annotations

import random
import struct

import btf_writer as w
import pytest
from btf_writer import BtfWriter

from vmemscope.errors import TypesError
from vmemscope.types.btf import Btf
from vmemscope.types.btf_records import BtfKind, Enumerator, Member, Parameter
from vmemscope.types.btf_sections import BtfError

BOTH_ORDERS = pytest.mark.parametrize("byteorder", ["little", "big"])


def every_kind(byteorder: str = "little") -> tuple[BtfWriter, dict[str, int]]:
    """One type of each kind; ids by what they are called here."""
    b = BtfWriter(byteorder)
    ids = {}
    ids["int"] = b.int("int", 4, w.SIGNED)
    ids["ulong"] = b.int("long unsigned int", 8)
    ids["ptr"] = b.ptr(ids["int"])
    ids["array"] = b.array(ids["int"], 5)
    ids["struct"] = b.struct("page", 64, ("flags", ids["ulong"], 0), (None, 6, 64))
    ids["union"] = b.union(None, 8, ("lru", ids["ptr"], 0), ("bits", ids["int"], 0, 3))
    ids["enum"] = b.enum("pageflags", {"PG_locked": 0, "PG_head": 6})
    ids["enum_signed"] = b.enum("answer", {"NO": -1, "YES": 1}, signed=True)
    ids["fwd"] = b.add(w.FWD, "device")
    ids["fwd_union"] = b.add(w.FWD, "thing", flag=True)
    ids["typedef"] = b.add(w.TYPEDEF, "pfn_t", ids["ulong"])
    ids["volatile"] = b.add(w.VOLATILE, None, ids["int"])
    ids["const"] = b.add(w.CONST, None, ids["volatile"])
    ids["restrict"] = b.add(w.RESTRICT, None, ids["ptr"])
    ids["proto"] = b.proto(ids["int"], ("n", ids["ulong"]), (None, 0))
    ids["func"] = b.add(w.FUNC, "printk", ids["proto"], vlen=1)
    ids["var"] = b.add(w.VAR, "runqueues", ids["struct"], [1])
    ids["datasec"] = b.add(w.DATASEC, ".data..percpu", 64, [ids["var"], 0, 64], vlen=1)
    ids["float"] = b.add(w.FLOAT, "double", 8)
    ids["decl_tag"] = b.add(w.DECL_TAG, "bpf_fastcall", ids["func"], [-1])
    ids["type_tag"] = b.add(w.TYPE_TAG, "rcu", ids["int"])
    ids["enum64"] = b.enum64("big", {"BIG": 1 << 40})
    ids["enum64_signed"] = b.enum64("small", {"SMALL": -(1 << 40)}, signed=True)
    ids["last"] = b.add(w.TYPEDEF, "last_t", ids["int"])
    return b, ids


@BOTH_ORDERS
def test_every_kind(byteorder):
    b, ids = every_kind(byteorder)
    btf = Btf(b.build())
    assert btf.byteorder == byteorder
    assert len(btf) == len(ids) == btf.end_id - 1
    kinds = [btf.record(type_id).kind for type_id in ids.values()]
    assert set(kinds) == set(BtfKind) - {BtfKind.VOID}
    # If the length of one were wrong, the last would not be where it is.
    assert btf.record(ids["last"]).name == "last_t"
    assert btf.record(0).kind == BtfKind.VOID

    record = btf.record(ids["struct"])
    assert (record.name, record.size_or_type, record.kind_flag) == ("page", 64, False)
    assert btf.members(record) == [
        Member("flags", ids["ulong"], 0, None),
        Member(None, ids["union"], 64, None),
    ]
    record = btf.record(ids["union"])
    assert record.name is None
    assert record.kind_flag
    assert btf.members(record) == [
        Member("lru", ids["ptr"], 0, None),
        Member("bits", ids["int"], 0, 3),
    ]
    assert btf.array(btf.record(ids["array"])) == (ids["int"], 5)
    assert btf.word(btf.record(ids["int"])) == w.SIGNED << 24 | 32
    assert btf.parameters(btf.record(ids["proto"])) == [
        Parameter("n", ids["ulong"]),
        Parameter(None, 0),
    ]
    assert btf.record(ids["fwd_union"]).kind_flag
    assert btf.ids(BtfKind.ENUM, BtfKind.ENUM64) == [
        ids["enum"],
        ids["enum_signed"],
        ids["enum64"],
        ids["enum64_signed"],
    ]


@BOTH_ORDERS
@pytest.mark.parametrize(
    ("name", "enumerators"),
    [
        ("enum", [("PG_locked", 0), ("PG_head", 6)]),
        ("enum_signed", [("NO", -1), ("YES", 1)]),
        ("enum64", [("BIG", 1 << 40)]),
        ("enum64_signed", [("SMALL", -(1 << 40))]),
    ],
)
def test_enumerators(byteorder, name, enumerators):
    b, ids = every_kind(byteorder)
    btf = Btf(b.build())
    assert btf.enumerators(btf.record(ids[name])) == [Enumerator(*item) for item in enumerators]
    for key, value in enumerators:
        assert btf.find_enumerator(key) == (ids[name], value)


def test_find():
    b, ids = every_kind()
    btf = Btf(b.build())
    assert btf.find("page", BtfKind.STRUCT) == ids["struct"]
    assert btf.find("page", BtfKind.UNION, BtfKind.ENUM) is None
    assert btf.find("page") is None
    # A whole name, not a part of one, and what is a string but no type.
    for name in ("pag", "age", "page\0", "", "flags", "long unsigned int\0page"):
        assert btf.find(name, *BtfKind) is None
    # Shorter and longer than what names are compared by first.
    assert btf.find("int", BtfKind.INT) == ids["int"]
    assert btf.find(".data..percpu", BtfKind.DATASEC) == ids["datasec"]
    assert btf.find_enumerator("pageflags") is None
    assert btf.find_enumerator("PG_writeback") is None
    assert btf.find_enumerator("") is None


def test_names_that_start_alike():
    b = BtfWriter()
    names = [f"hugetlb_{i}" for i in range(300)] + ["hugetlb_", "hugetlb", "hugetl"]
    ids = [b.int(name, 4) for name in names]
    btf = Btf(b.build())
    assert [btf.find(name, BtfKind.INT) for name in names] == ids


def test_a_name_of_several_types():
    b = BtfWriter()
    first = b.add(w.FWD, "slot")
    second = b.struct("slot", 8)
    third = b.struct("slot", 16)
    b.add(w.TYPEDEF, "slot", second)
    btf = Btf(b.build())
    assert list(btf.find_all("slot", BtfKind.STRUCT, BtfKind.FWD)) == [first, second, third]
    assert btf.find("slot", BtfKind.STRUCT) == second


def test_a_string_that_is_there_twice():
    b = BtfWriter()
    b.int("dup", 4)
    # An encoder that does not look for equal strings.
    b.strings += b"dup\0"
    at = len(b.strings) - 4
    b.types += struct.pack("<4I", at, w.INT << 24, 8, 64)
    btf = Btf(b.build())
    assert list(btf.find_all("dup", BtfKind.INT)) == [1, 2]


def test_enumerators_of_old_encoders_are_signed():
    # None of the enums has kind_flag: then it was not known to the encoder.
    b = BtfWriter()
    type_id = b.enum("answer", {"NO": -1, "YES": 1})
    plain = b.enum("plain", {"A": 1})
    btf = Btf(b.build())
    assert btf.is_signed(btf.record(type_id))
    assert not btf.is_signed(btf.record(plain))
    assert btf.find_enumerator("NO") == (type_id, -1)

    b.enum("other", {"B": -1}, signed=True)
    btf = Btf(b.build())
    assert not btf.is_signed(btf.record(type_id))
    assert btf.find_enumerator("NO") == (type_id, 0xFFFFFFFF)


def test_partial_ints():
    b = BtfWriter()
    b.int("int", 4, w.SIGNED)
    odd = b.int("int", 4, w.SIGNED, bits=3, offset=5)
    assert Btf(b.build()).partial_ints == {odd: (5, 3)}


@BOTH_ORDERS
def test_split(byteorder):
    base, ids = every_kind(byteorder)
    module = BtfWriter(byteorder, base)
    pointer = module.ptr(ids["struct"])
    own = module.struct("pmem_device", 16, ("page", pointer, 0), ("flags", ids["ulong"], 64))
    # Its name is a string of the base.
    shared = module.struct("flags", 4, ("PG_head", ids["int"], 0))
    enum = module.enum("mode", {"MODE_RAW": 2})

    vmlinux = Btf(base.build())
    btf = Btf(module.build(), vmlinux, "nd_pmem")
    assert btf.start_id == vmlinux.end_id == pointer
    assert btf.find("pmem_device", BtfKind.STRUCT) == own
    assert btf.find("flags", BtfKind.STRUCT) == shared
    assert btf.members(btf.record(own)) == [
        Member("page", pointer, 0, None),
        Member("flags", ids["ulong"], 64, None),
    ]
    assert btf.members(btf.record(shared))[0].name == "PG_head"
    assert btf.find_enumerator("MODE_RAW") == (enum, 2)
    # What is the base's is read from there.
    assert btf.record(ids["struct"]) == vmlinux.record(ids["struct"])
    assert btf.members(btf.record(ids["struct"])) == vmlinux.members(btf.record(ids["struct"]))
    assert btf.array(btf.record(ids["array"])) == (ids["int"], 5)
    assert btf.string(1) == vmlinux.string(1)
    assert btf.find("page", BtfKind.STRUCT) is None
    assert btf.record(0).kind == BtfKind.VOID


def test_split_without_strings_or_types():
    base, ids = every_kind()
    module = BtfWriter(base=base)
    vmlinux = Btf(base.build())
    assert len(Btf(module.build(), vmlinux)) == 0
    type_id = module.ptr(ids["int"])
    btf = Btf(module.build(), vmlinux)
    assert btf.record(type_id).kind == BtfKind.PTR
    assert btf.find("nothing", *BtfKind) is None


def test_split_of_another_byte_order():
    base, _ = every_kind("little")
    with pytest.raises(BtfError, match="byte order"):
        Btf(every_kind("big")[0].build(), Btf(base.build()))


def test_many_records():
    # More than the reader processes at a time, and longer records.
    b = BtfWriter()
    values = {f"V{i}": i for i in range(20000)}
    for i in range(15000):
        b.int(f"i{i}", 4)
        if i % 5000 == 4000:
            b.enum(f"e{i}", values)
    last = b.add(w.TYPEDEF, "end_t", 1)
    btf = Btf(b.build())
    assert btf.end_id == b.next_id
    assert btf.find("end_t", BtfKind.TYPEDEF) == last
    assert btf.find("i14999", BtfKind.INT) == last - 1
    assert btf.find_enumerator("V19999") == (btf.find("e4000", BtfKind.ENUM), 19999)


@pytest.mark.parametrize("words", [1, 2, 3, 5, 9, 64])
def test_pieces(monkeypatch, words):
    # Wherever one piece ends and the next one starts.
    b, ids = every_kind()
    expected = Btf(b.build())
    monkeypatch.setattr("vmemscope.types.btf._CHUNK_WORDS", words)
    btf = Btf(b.build())
    assert [btf.record(i) for i in ids.values()] == [expected.record(i) for i in ids.values()]


def test_other_buffers():
    data = every_kind()[0].build()
    assert len(Btf(bytearray(data))) == len(Btf(memoryview(data))) == len(Btf(data + b"more"))


UNKNOWN_KIND = 100


def with_unknown_kind() -> BtfWriter:
    b = BtfWriter()
    b.int("int", 4)
    b.add(UNKNOWN_KIND, "new", 0, [1, 2, 3, 4, 5], vlen=2)
    b.add(w.TYPEDEF, "after_t", 1)
    return b


def test_unknown_kind_stops():
    with pytest.raises(BtfError, match="type 2 is of unknown kind 100"):
        Btf(with_unknown_kind().build())


def test_unknown_kind_with_layout():
    layout = [(0, 0)] * UNKNOWN_KIND + [(4, 8)]
    btf = Btf(with_unknown_kind().build(layout=layout))
    assert btf.find("after_t", BtfKind.TYPEDEF) == 3
    # It can be stepped over, but not understood.
    with pytest.raises(BtfError, match="type 2 is of unknown kind 100"):
        btf.record(2)
    with pytest.raises(BtfError, match="layout of kind 100"):
        Btf(with_unknown_kind().build(layout=[(0, 0)] * UNKNOWN_KIND + [(5, 8)]))


def patched(data: bytes, at: int, value: int, size: int = 4) -> bytes:
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


HEADER = 24


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda d: b"", "0 bytes are too few", id="empty"),
        pytest.param(lambda d: d[:23], "23 bytes are too few", id="short header"),
        pytest.param(lambda d: bytes(len(d)), "magic is 0x0000", id="zeros"),
        pytest.param(lambda d: patched(d, 0, 0xEB9E, 2), "magic is", id="magic"),
        pytest.param(lambda d: patched(d, 2, 2, 1), "version is 2", id="version"),
        pytest.param(lambda d: patched(d, 4, 12), "header length is 12", id="hdr_len small"),
        pytest.param(lambda d: patched(d, 4, 1 << 31), "header length", id="hdr_len large"),
        pytest.param(lambda d: patched(d, 8, 1 << 31), "type section ends", id="type_off"),
        pytest.param(lambda d: patched(d, 12, 0xFFFFFFFF), "type section ends", id="type_len"),
        pytest.param(
            lambda d: patched(d, 12, word(d, 12) - 2),
            "not a multiple of 4",
            id="type_len odd",
        ),
        pytest.param(
            lambda d: patched(d, 12, word(d, 12) - 4),
            "ends inside type",
            id="type_len one word less",
        ),
        pytest.param(
            lambda d: patched(d, 12, word(d, 12) - 12 * 4),
            "ends inside type",
            id="inside a tail",
        ),
        pytest.param(lambda d: patched(d, 16, 1 << 30), "string section ends", id="str_off"),
        pytest.param(lambda d: patched(d, 20, 1 << 30), "string section ends", id="str_len"),
        pytest.param(lambda d: patched(d, 20, 0), "string section is empty", id="no strings"),
        pytest.param(lambda d: d[:-1], "string section ends", id="cut"),
        pytest.param(lambda d: d[:-1] + b"x", "last string doesn't end", id="no last zero"),
        pytest.param(
            lambda d: patched(patched(d, 16, word(d, 16) + 1), 20, word(d, 20) - 1),
            "first string is not empty",
            id="strings off by one",
        ),
        pytest.param(
            lambda d: patched(d, HEADER, 0xFFFFFF), "name of type 1 is outside", id="name"
        ),
        pytest.param(lambda d: patched(d, HEADER + 4, 0), "unknown kind 0", id="kind 0"),
        pytest.param(
            lambda d: patched(d, HEADER + 4, w.STRUCT << 24 | 0xFFFFFF),
            "ends inside type 1",
            id="vlen",
        ),
        pytest.param(
            lambda d: patched(d, HEADER + 4, 0x7F << 24), "unknown kind 127", id="kind 127"
        ),
    ],
)
def test_damage(damage, message):
    data = every_kind()[0].build()
    with pytest.raises(BtfError, match=message) as raised:
        Btf(damage(data))
    assert isinstance(raised.value, TypesError)
    assert "vmlinux" in str(raised.value)


def test_ids_out_of_range():
    b, ids = every_kind()
    btf = Btf(b.build(), name="nd_pmem")
    for type_id in (len(ids) + 1, 1 << 31, -1):
        with pytest.raises(BtfError, match=f"nd_pmem is damaged: there is no type {type_id}"):
            btf.record(type_id)
    with pytest.raises(BtfError, match="string offset 0xffffff"):
        btf.string(0xFFFFFF)


def test_member_name_out_of_range():
    b = BtfWriter()
    b.int("int", 4)
    b.add(w.STRUCT, "s", 4, [0xFFFF, 1, 0], vlen=1)
    b.add(w.ENUM, "e", 4, [0xFFFF, 1], vlen=1)
    b.add(w.FUNC_PROTO, None, 1, [0xFFFF, 1], vlen=1)
    btf = Btf(b.build())
    with pytest.raises(BtfError, match="string offset"):
        btf.members(btf.record(2))
    with pytest.raises(BtfError, match="string offset"):
        btf.enumerators(btf.record(3))
    with pytest.raises(BtfError, match="string offset"):
        btf.parameters(btf.record(4))


def read_all(btf: Btf) -> None:
    """Decode every record."""
    for type_id in range(btf.start_id, btf.end_id):
        record = btf.record(type_id)
        if record.kind in (BtfKind.STRUCT, BtfKind.UNION):
            btf.members(record)
        elif record.kind in (BtfKind.ENUM, BtfKind.ENUM64):
            btf.enumerators(record)
        elif record.kind == BtfKind.FUNC_PROTO:
            btf.parameters(record)
        elif record.kind == BtfKind.ARRAY:
            btf.array(record)
        elif record.kind in (BtfKind.INT, BtfKind.VAR, BtfKind.DECL_TAG):
            btf.word(record)


def test_every_byte_changed():
    # Whatever is wrong with a blob, nothing but BtfError comes out of it.
    data = every_kind()[0].build()
    generator = random.Random(1)
    for at in range(len(data)):
        for value in (0, 0xFF, data[at] ^ 0x80, generator.randrange(256)):
            try:
                btf = Btf(patched(data, at, value, 1))
                read_all(btf)
                btf.find("page", *BtfKind)
                btf.find_enumerator("PG_head")
            except BtfError:
                pass


def test_every_length():
    data = every_kind()[0].build()
    for length in range(len(data)):
        with pytest.raises(BtfError):
            Btf(data[:length])
