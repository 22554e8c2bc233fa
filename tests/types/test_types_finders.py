# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn types and objects made of BTF, in a program with a few bytes of memory."""

from __future__ import annotations

import logging

import btf_writer as w
import pytest
from btf_writer import BtfWriter
from drgn import (
    Architecture,
    FindObjectFlags,
    Object,
    Platform,
    PlatformFlags,
    Program,
    Qualifiers,
    TypeKind,
    cast,
    offsetof,
    sizeof,
)

from vmemscope.errors import TypesError
from vmemscope.types.btf import Btf
from vmemscope.types.btf_sections import BtfError
from vmemscope.types.finders import BtfTypes, ObjectFinder, register_types
from vmemscope.types.symbols import ListedSymbols, SymbolEntry, symbol_finder

PLATFORMS = {
    "little": Platform(
        Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN
    ),
    "big": Platform(Architecture.S390X, PlatformFlags.IS_64_BIT),
}


def make_program(
    writer: BtfWriter,
    *modules: BtfWriter,
    symbols: dict[str, int] | list[SymbolEntry] | None = None,
    byteorder: str = "little",
) -> Program:
    """Make a program of a kernel with some BTF, modules and symbols, and no memory."""
    prog = Program(PLATFORMS[byteorder])

    def load_modules(vmlinux: BtfTypes) -> list[BtfTypes]:
        loaded.append(prog)
        return [
            BtfTypes(prog, Btf(module.build(), vmlinux.btf, f"module{i}"), vmlinux)
            for i, module in enumerate(modules)
        ]

    loaded: list[Program] = []
    register_types(prog, Btf(writer.build()), load_modules)
    if isinstance(symbols, dict):
        table = ListedSymbols.from_mapping(symbols)
    else:
        table = ListedSymbols(symbols or [])
    prog.register_symbol_finder("vmemscope", symbol_finder(table), enable_index=0)
    return prog


@pytest.fixture(params=["little", "big"])
def byteorder(request):
    return request.param


@pytest.fixture
def basics():
    """A writer with the base types, and their ids by name."""
    b = BtfWriter()
    ids = {
        "int": b.int("int", 4, w.SIGNED),
        "unsigned int": b.int("unsigned int", 4),
        "unsigned long": b.int("long unsigned int", 8),
        "long": b.int("long int", 8, w.SIGNED),
        "char": b.int("char", 1),
        "signed char": b.int("signed char", 1, w.SIGNED),
        "_Bool": b.int("_Bool", 1, w.BOOL),
        "double": b.add(w.FLOAT, "double", 8),
    }
    return b, ids


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [
        ("unsigned long", 8, TypeKind.INT),
        ("long unsigned int", 8, TypeKind.INT),
        ("unsigned int long", 8, TypeKind.INT),
        ("long", 8, TypeKind.INT),
        ("signed long int", 8, TypeKind.INT),
        ("unsigned", 4, TypeKind.INT),
        ("signed int", 4, TypeKind.INT),
        ("signed", 4, TypeKind.INT),
        ("char", 1, TypeKind.INT),
        ("_Bool", 1, TypeKind.BOOL),
        ("double", 8, TypeKind.FLOAT),
    ],
)
def test_base_types_by_any_spelling(basics, name, size, kind):
    found = make_program(basics[0]).type(name)
    assert (found.kind, found.size) == (kind, size)


def test_char_is_as_the_kernel_has_it(basics):
    # Linux 6.2 builds with -funsigned-char.
    prog = make_program(basics[0])
    assert not prog.type("char").is_signed
    assert prog.type("signed char").is_signed


def test_struct(basics):
    b, ids = basics
    # struct list_head refers to itself.
    pointer = b.next_id + 1
    list_head = b.struct("list_head", 16, ("next", pointer, 0), ("prev", pointer, 64))
    b.ptr(list_head)
    union = b.union(None, 16, ("lru", list_head, 0), ("private", ids["unsigned long"], 0))
    b.struct(
        "page",
        40,
        ("flags", ids["unsigned long"], 0),
        (None, union, 64),
        ("_refcount", ids["int"], 192),
        ("order", ids["unsigned int"], 224, 5),
        ("zone", ids["unsigned int"], 229, 3),
        ("data", b.array(ids["char"], 0), 256),
    )
    prog = make_program(b)

    list_type = prog.type("struct list_head")
    assert list_type.members[0].type.type_name() == "struct list_head *"
    assert list_type.members[0].type.type.members[1].name == "prev"

    page = prog.type("struct page")
    assert page.size == 40
    assert offsetof(page, "lru.prev") == 16
    assert offsetof(page, "private") == 8
    assert page.members[1].name is None
    order, zone = page.member("order"), page.member("zone")
    assert (order.bit_offset, order.bit_field_size) == (224, 5)
    assert (zone.bit_offset, zone.bit_field_size) == (229, 3)
    flexible = page.member("data").type
    assert (flexible.kind, flexible.length) == (TypeKind.ARRAY, None)
    # Each type is made once.
    assert repr(prog.type("struct page")) == repr(page)


def test_values_in_memory(byteorder):
    b = BtfWriter(byteorder)
    unsigned = b.int("unsigned int", 4)
    # At the bits that DWARF's DW_AT_data_bit_offset gives, as pahole does.
    b.struct("s", 8, ("word", unsigned, 0), ("a", unsigned, 32, 5), ("b", unsigned, 37, 3))
    prog = make_program(b, byteorder=byteorder)
    memory = (0x11223344).to_bytes(4, byteorder) + bytes([0b01000011, 0, 0, 0])
    prog.add_memory_segment(0x1000, 8, lambda a, n, offset, p: memory[offset : offset + n])
    s = Object(prog, "struct s", address=0x1000)
    assert s.word == 0x11223344
    assert (s.a, s.b) == ((3, 2) if byteorder == "little" else (8, 3))


def test_bit_fields_of_old_encoders(basics):
    # No kind_flag: an INT of fewer bits than its bytes.
    b, _ = basics
    odd = b.int("unsigned int", 4, bits=3, offset=2)
    b.struct("s", 4, ("a", odd, 8))
    member = make_program(b).type("struct s").members[0]
    assert (member.bit_offset, member.bit_field_size) == (10, 3)


def test_enum(basics):
    b, _ = basics
    b.enum("zone_type", {"ZONE_DMA": 0, "ZONE_DEVICE": 4})
    b.enum("answer", {"NO": -1}, signed=True)
    b.enum("tiny", {"T": 200}, size=1)
    b.enum64("big", {"BIG": 1 << 40})
    b.enum64("small", {"SMALL": -(1 << 40)}, signed=True)
    b.enum("forward", {})
    b.enum(None, {"SECTION_MAP_LAST_BIT": 5})
    prog = make_program(b)

    found = prog.type("enum zone_type")
    assert [tuple(e) for e in found.enumerators] == [("ZONE_DMA", 0), ("ZONE_DEVICE", 4)]
    assert not found.type.is_signed
    assert prog.type("enum answer").type.is_signed
    assert sizeof(prog.type("enum tiny")) == 1
    assert sizeof(prog.type("enum big")) == 8
    assert not prog.type("enum forward").is_complete()

    assert prog["ZONE_DEVICE"].value_() == 4
    assert prog["ZONE_DEVICE"].type_.type_name() == "enum zone_type"
    assert prog["NO"].value_() == -1
    assert prog["BIG"].value_() == 1 << 40
    assert prog["SMALL"].value_() == -(1 << 40)
    assert prog.constant("SECTION_MAP_LAST_BIT") == 5
    with pytest.raises(LookupError):
        prog.constant("ZONE_MOVABLE")
    with pytest.raises(LookupError):
        prog.variable("ZONE_DEVICE")


def test_qualifiers_and_typedefs(basics):
    b, ids = basics
    const = b.add(w.CONST, None, ids["char"])
    both = b.add(w.VOLATILE, None, const)
    tag = b.add(w.TYPE_TAG, "user", both)
    restrict = b.add(w.RESTRICT, None, b.ptr(tag))
    b.add(w.TYPEDEF, "string_t", restrict)
    void = b.add(w.CONST, None, 0)
    b.add(w.TYPEDEF, "cookie_t", b.ptr(void))
    prog = make_program(b)
    found = prog.type("string_t").type
    assert found.qualifiers == Qualifiers.RESTRICT
    assert found.type.type_name() == "const volatile char"
    assert prog.type("cookie_t").type.type_name() == "const void *"


def test_array_of_arrays(basics):
    b, ids = basics
    b.add(w.TYPEDEF, "matrix_t", b.array(b.array(ids["int"], 3), 2))
    found = make_program(b).type("matrix_t").type
    assert found.type_name() == "int [2][3]"
    assert sizeof(found) == 24


def test_function(basics):
    b, ids = basics
    proto = b.proto(ids["int"], ("format", b.ptr(ids["char"])), (None, 0))
    b.add(w.FUNC, "printk", proto, vlen=1)
    b.add(w.FUNC, "inlined", proto, vlen=0)
    b.add(w.TYPEDEF, "callback_t", b.ptr(b.proto(0)))
    prog = make_program(b, symbols={"printk": 0xFFFF0000})
    function = prog.function("printk")
    assert function.address_ == 0xFFFF0000
    assert function.type_.is_variadic
    assert [p.name for p in function.type_.parameters] == ["format"]
    assert function.type_.parameters[0].type.type_name() == "char *"
    assert prog["printk"].address_ == 0xFFFF0000
    # Described, but nowhere.
    with pytest.raises(LookupError):
        prog.function("inlined")
    with pytest.raises(LookupError):
        prog.variable("printk")
    assert prog.type("callback_t").type.type.type.kind == TypeKind.VOID


def test_variables(basics):
    b, ids = basics
    b.struct("xarray", 16, ("xa_flags", ids["unsigned int"], 32))
    percpu = b.add(w.VAR, "numa_node", ids["int"], [1])
    b.add(w.DATASEC, ".data..percpu", 4, [percpu, 0, 4], vlen=1)
    prog = make_program(b, symbols={"pgmap_array": 0x1000, "numa_node": 0x20, "unknown": 0x30})
    # From the table, ...
    assert prog["pgmap_array"].address_ == 0x1000
    assert prog["pgmap_array"].type_.type_name() == "struct xarray"
    # ... from BTF, ...
    assert prog.variable("numa_node").type_.type_name() == "int"
    # ... and not known, or not there.
    for name in ("unknown", "init_mm"):
        with pytest.raises(KeyError):
            prog[name]


def test_variable_whose_type_is_missing(basics):
    # Not a KeyError, which helpers take for a kernel without the variable.
    prog = make_program(basics[0], symbols={"pgmap_array": 0x1000})
    with pytest.raises(TypesError, match="variable pgmap_array, but lacks its type, struct xarray"):
        prog["pgmap_array"]


def test_variable_that_changed_its_type(basics):
    b, ids = basics
    b.struct("old", 4, ("a", ids["int"], 0))
    prog = make_program(b, symbols={"v": 0x1000})
    finder = ObjectFinder(None, {"v": ("struct new", "struct old")})
    found = finder(prog, "v", FindObjectFlags.VARIABLE, None)
    assert found.type_.type_name() == "struct old"


@pytest.mark.parametrize("byteorder", ["little", "big"], indirect=True)
def test_variable_of_another_architecture(byteorder):
    b = BtfWriter(byteorder)
    b.int("unsigned long", 8)
    prog = make_program(b, symbols={"phys_base": 0x2000}, byteorder=byteorder)
    if byteorder == "little":
        assert prog["phys_base"].type_.type_name() == "unsigned long"
    else:
        with pytest.raises(KeyError):
            prog["phys_base"]


def test_symbols_that_share_a_name(basics, caplog):
    b, _ = basics
    b.struct("list_head", 16)
    entries = [
        SymbolEntry("modules", 0x1000, "t"),
        SymbolEntry("modules", 0x2000, "d"),
        SymbolEntry("iomem_resource", 0x3000, "t"),
        SymbolEntry("btf_modules", 0x4000, "d"),
        SymbolEntry("btf_modules", 0x5000, "D"),
    ]
    b.struct("resource", 8)
    prog = make_program(b, symbols=entries)
    assert prog["modules"].address_ == 0x2000
    # kallsyms of 7.2 has data as text.
    assert prog["iomem_resource"].address_ == 0x3000
    assert prog["btf_modules"].address_ == 0x5000
    assert not caplog.records

    entries.append(SymbolEntry("modules", 0x6000, "b"))
    with caplog.at_level(logging.WARNING):
        assert make_program(b, symbols=entries)["modules"].address_ == 0x2000
    assert "2 symbols modules" in caplog.text


def test_forward(basics):
    b, ids = basics
    one = b.ptr(b.add(w.FWD, "once"))
    b.struct("once", 8, ("a", ids["int"], 0))
    two = b.ptr(b.add(w.FWD, "twice"))
    b.struct("twice", 8, ("a", ids["int"], 0))
    b.struct("twice", 16, ("b", ids["int"], 0))
    none = b.ptr(b.add(w.FWD, "never", flag=True))
    b.struct("holder", 24, ("one", one, 0), ("two", two, 64), ("none", none, 128))
    prog = make_program(b)
    # By name, what is complete comes first; a pointer to a forward declaration
    # is to the definition if it can only be one.
    assert prog.type("struct once").is_complete()
    assert prog.type("struct twice").size == 8
    members = prog.type("struct holder").members
    assert members[0].type.type.is_complete()
    assert not members[1].type.type.is_complete()
    assert members[2].type.type_name() == "union never *"
    assert not prog.type("union never").is_complete()
    with pytest.raises(LookupError):
        prog.type("struct never")


def test_modules(basics):
    base, ids = basics
    base.struct("device", 8, ("id", ids["int"], 0))
    first, second = BtfWriter(base=base), BtfWriter(base=base)
    first.struct("pmem_device", 16, ("dev", ids["int"], 0))
    first.struct("device", 32)
    first.enum(None, {"PMEM_MODE": 3})
    # Ids of one module are not those of another.
    second.struct("nd_pfn", 8, ("self", second.next_id + 1, 0))
    second.ptr(second.next_id - 1)
    prog = make_program(base, first, second)
    assert prog.type("struct pmem_device").size == 16
    assert prog.type("struct nd_pfn").members[0].type.type_name() == "struct nd_pfn *"
    # vmlinux comes first.
    assert prog.type("struct device").size == 8
    # drgn helpers take a constant that exists for a feature of the kernel.
    with pytest.raises(KeyError):
        prog["PMEM_MODE"]
    with pytest.raises(LookupError):
        prog.type("struct nothing")


def test_modules_are_loaded_once_and_when_needed(basics):
    base, ids = basics
    base.struct("device", 8, ("id", ids["int"], 0))
    calls = []
    prog = Program(PLATFORMS["little"])

    def load(vmlinux: BtfTypes) -> list[BtfTypes]:
        calls.append(prog.type("struct device").size)
        # Must not come back here.
        with pytest.raises(LookupError):
            prog.type("struct nothing")
        return []

    register_types(prog, Btf(base.build()), load)
    prog.type("struct device")
    prog.type("unsigned long")
    prog.type("short")
    assert not calls
    for _ in range(2):
        with pytest.raises(LookupError):
            prog.type("struct nothing")
    assert calls == [8]


def test_other_files_are_not_known(basics):
    b, _ = basics
    b.struct("page", 64)
    prog = make_program(b, symbols={"pgmap_array": 0x1000})
    with pytest.raises(LookupError):
        prog.type("struct page", "mm/internal.h")
    with pytest.raises(LookupError):
        prog.object("pgmap_array", filename="mm/memremap.c")


def loop_of_pointers(b: BtfWriter) -> int:
    return b.ptr(b.next_id + 1) and b.ptr(b.next_id - 1)


def long_chain(b: BtfWriter) -> int:
    last = 1
    for _ in range(5000):
        last = b.ptr(last)
    return last


@pytest.mark.parametrize(
    ("add", "message"),
    [
        pytest.param(loop_of_pointers, "chain of types without end", id="pointers"),
        pytest.param(lambda b: b.add(w.CONST, None, b.next_id), "without end", id="const"),
        pytest.param(lambda b: b.array(b.next_id, 1), "without end", id="array"),
        pytest.param(lambda b: b.proto(b.next_id), "without end", id="function"),
        pytest.param(long_chain, "without end", id="long"),
        pytest.param(lambda b: b.ptr(0xFFFF), "there is no type 65535", id="no such type"),
        pytest.param(lambda b: b.add(w.DATASEC, "x"), "DATASEC is no type", id="datasec"),
        pytest.param(lambda b: b.add(w.INT, None, 4, [32]), "INT has no name", id="no name"),
        pytest.param(lambda b: b.enum("e", {"A": 1}, size=3), "enum of 3 bytes", id="enum size"),
    ],
)
def test_damage(basics, add, message):
    b, _ = basics
    type_id = add(b)
    b.add(w.TYPEDEF, "bad_t", type_id)
    b.struct("bad", 8, ("member", type_id, 0), ("good", 1, 0))
    prog = make_program(b)
    with pytest.raises(BtfError, match=message):
        prog.type("bad_t")
    # A member only when it is used, each time.
    bad = prog.type("struct bad")
    assert bad.members[1].type.type_name() == "int"
    for _ in range(2):
        with pytest.raises(BtfError, match=message):
            _ = bad.members[0].type
    assert prog.type("unsigned long").size == 8


def test_bit_field_of_a_struct(basics):
    b, ids = basics
    inner = b.struct("inner", 4, ("a", ids["int"], 0))
    b.struct("outer", 4, ("bad", inner, 0, 3))
    prog = make_program(b)
    with pytest.raises(BtfError, match="as bit-field"):
        _ = prog.type("struct outer").members[0].type


def test_cast_to_a_type_of_btf(basics):
    b, ids = basics
    b.struct("dev_pagemap", 152, ("vmemmap_shift", ids["unsigned long"], 0))
    prog = make_program(b)
    pgmap = cast("struct dev_pagemap *", Object(prog, "void *", 0xFF00))
    assert pgmap.vmemmap_shift.address_of_().value_() == 0xFF00
