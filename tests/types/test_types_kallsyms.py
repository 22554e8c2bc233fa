# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols: kallsyms tables in memory, its text, lists, and what drgn makes of them."""

from __future__ import annotations

import struct

import pytest
from drgn import Program, SymbolBinding, SymbolKind
from kernel_memory import (
    ABSOLUTE,
    ABSOLUTE_PERCPU,
    ENCODINGS,
    PLACE_RELATIVE,
    RELATIVE_BASE,
    KernelMemory,
)

from vmemscope.errors import TypesError
from vmemscope.types.kallsyms import KallsymsImage
from vmemscope.types.symbol_text import KallsymsText, SystemMap
from vmemscope.types.symbols import ListedSymbols, SymbolEntry, symbol_finder

TEXT = 0xFFFFFFFF81000000


def some_symbols(count: int = 1500, *, percpu: bool = False) -> list[tuple[str, int, str]]:
    """Symbols as of a kernel: more than four times 256, with aliases and anagrams."""
    symbols = [
        ("_stext", TEXT, "T"),
        ("_text", TEXT, "T"),
        ("init_mm", TEXT + 0x40, "D"),
        # Anagrams of each other.
        ("page_list", TEXT + 0x80, "d"),
        ("list_page", TEXT + 0x90, "d"),
        # The same name twice.
        ("modules", TEXT + 0xA0, "d"),
        ("modules", TEXT + 0xB0, "b"),
        # Codes for two bytes of length.
        ("x" + "".join(chr(ord("A") + i * 7 % 26) for i in range(400)), TEXT + 0xC0, "t"),
    ]
    symbols += [
        (f"symbol_{i:x}_{i % 7}", TEXT + 0x1000 + i * 16, "tTdb"[i % 4]) for i in range(count)
    ]
    symbols.append(("_end", TEXT + 0x4000000, "B"))
    if percpu:
        symbols = [("fixed_percpu_data", 0, "D"), ("cpu_number", 0x1F000, "D"), *symbols]
    return symbols


def image(memory: KernelMemory) -> KallsymsImage:
    return KallsymsImage(memory.program(), memory.keys)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [0, 1500])
def test_round_trip(byteorder, encoding, count):
    symbols = some_symbols(count, percpu=encoding in (ABSOLUTE_PERCPU, ABSOLUTE))
    memory = KernelMemory(byteorder=byteorder)
    memory.add_kallsyms(symbols, encoding)
    table = image(memory)
    assert len(table) == len(symbols)
    assert list(table) == [SymbolEntry(*symbol) for symbol in symbols]
    for symbol in symbols[:: 1 + count // 50]:
        assert SymbolEntry(*symbol) in table.named(symbol[0])
    for name in ("init_m", "nit_mm", "init_mm_", "", "Dinit_mm", "tsil_egap", "init\0mm", "é"):
        assert table.named(name) == []


def test_few_reads():
    # Over QMP, each read costs; and none of the image is read twice.
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols(), RELATIVE_BASE)
    table = image(memory)
    assert memory.reads <= 6
    table.named("init_mm")
    table.containing(TEXT)
    assert memory.reads <= 6


def test_names():
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols())
    table = image(memory)
    assert table.named("init_mm") == [SymbolEntry("init_mm", TEXT + 0x40, "D")]
    assert [entry.address for entry in table.named("modules")] == [TEXT + 0xA0, TEXT + 0xB0]
    assert [entry.address for entry in table.named("list_page")] == [TEXT + 0x90]
    (long,) = [entry for entry in table if entry.name.startswith("xAHO")]
    assert len(long.name) == 401
    assert table.named(long.name) == [long]


GCC = b"Linux version 6.12.1 (user@host) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP\n\0"
CLANG = b"Linux version 6.12.1 (user@host) (clang version 19.1.7, LLD 19.1.7) #1 SMP\n\0"
#: of static variables, as clang names those that ThinLTO makes global
PROMOTED = [
    ("pgmap_array.llvm.974640843467629774", TEXT + 0xD0, "d"),
    ("node_data.llvm.1", TEXT + 0xD8, "d"),
    ("node_data.llvm.2", TEXT + 0xE0, "d"),
    # One of a plain name goes before.
    ("init_mm.llvm.77", TEXT + 0xE8, "d"),
    # No promoted ones: of a function, or of another hash.
    ("bus_kset.123", TEXT + 0xF0, "d"),
    ("bus_kset.cold.llvm", TEXT + 0xF8, "t"),
    ("xbus_kset.llvm.5", TEXT + 0x100, "d"),
]


@pytest.mark.parametrize("count", [0, 1500])
@pytest.mark.parametrize("banner", [GCC, CLANG, None], ids=["gcc", "clang", "unreadable"])
def test_names_that_clang_changed(banner, count):
    memory = KernelMemory()
    at = TEXT if banner is None else memory.add(banner.ljust(512, b"?"))
    memory.add_kallsyms([*some_symbols(count), *PROMOTED, ("linux_banner", at, "D")])
    table = image(memory)

    def named(name: str) -> list[int]:
        return [entry.address - TEXT for entry in table.named(name)]

    clang = banner is not GCC
    assert named("pgmap_array") == ([0xD0] if clang else [])
    assert named("node_data") == ([0xD8, 0xE0] if clang else [])
    assert named("pgmap_array.llvm.974640843467629774") == [0xD0]
    assert named("init_mm") == [0x40]
    assert named("bus_kset") == named("bus_kset.cold") == named("pgmap_arra") == named("") == []


def test_addresses():
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols())
    table = image(memory)

    def names(address: int) -> list[tuple[str, int]]:
        return [(entry.name, size) for entry, size in table.containing(address)]

    assert names(TEXT) == names(TEXT + 0x3F) == [("_stext", 0x40), ("_text", 0x40)]
    assert names(TEXT + 0x40) == [("init_mm", 0x40)]
    assert names(TEXT - 1) == names(0) == names(-1) == names(1 << 64) == []
    # Before a gap, and the last one: of no known size.
    last = TEXT + 0x1000 + 1499 * 16
    assert [size for _, size in names(last)] == [0]
    assert names(last + 1) == []
    assert names(TEXT + 0x4000000) == [("_end", 0)]
    assert names((1 << 64) - 1) == []


@pytest.mark.parametrize("damaged", [None, 0, 1, 3, 4, 5])
def test_without_markers(damaged):
    # They are what makes it fast, not what makes it right.
    symbols = some_symbols()
    memory = KernelMemory()
    memory.add_kallsyms(symbols)
    if damaged is not None:
        memory.data[memory.markers - memory.start + 4 * damaged] ^= 1
    table = image(memory)
    assert (table._starts_by_markers(len(symbols)) is None) == (damaged is not None)
    assert list(table) == [SymbolEntry(*symbol) for symbol in symbols]


def drop(memory: KernelMemory, name: str) -> None:
    del memory.keys[f"SYMBOL({name})"]


@pytest.mark.parametrize(
    "key",
    [
        "kallsyms_names",
        "kallsyms_num_syms",
        "kallsyms_offsets",
        "kallsyms_token_index",
        "kallsyms_token_table",
        "_stext",
    ],
)
def test_missing_keys(key):
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols(10))
    memory.keys["OSRELEASE"] = "5.10.0-42-amd64"
    drop(memory, key)
    with pytest.raises(TypesError, match=rf"5\.10\.0-42-amd64 .* SYMBOL\({key}\) .*6\.0") as raised:
        image(memory)
    assert "-s" in raised.value.hint


def set_word(name: str, value: int, size: int = 4):
    def damage(memory: KernelMemory) -> None:
        memory.patch(memory.address_of(name), value.to_bytes(size, "little"))

    return damage


def no_stext(memory: KernelMemory) -> None:
    memory.set_symbol("_stext", TEXT + 1)


def unmapped(name: str):
    def damage(memory: KernelMemory) -> None:
        memory.set_symbol(name, 0xFFFF000000000000)

    return damage


def endless_token(memory: KernelMemory) -> None:
    # The last code, up to the table that follows.
    at = memory.address_of("kallsyms_token_index")
    end = at - memory.address_of("kallsyms_token_table")
    memory.patch(at - 16, b"x" * 16)
    memory.patch(at + 2 * 255, struct.pack("<H", end - 16))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(set_word("kallsyms_num_syms", 0), "there are 0 symbols", id="none"),
        pytest.param(
            set_word("kallsyms_num_syms", 0xFFFFFFFF), "there are 4294967295 symbols", id="many"
        ),
        pytest.param(
            set_word("kallsyms_num_syms", 100000), "kallsyms_names ends inside", id="more names"
        ),
        pytest.param(endless_token, "token 25[0-9] does not end", id="token"),
        pytest.param(no_stext, "no known encoding", id="other _stext"),
        pytest.param(set_word("kallsyms_offsets", 0), "no known encoding", id="offset"),
        pytest.param(unmapped("kallsyms_names"), "cannot read .*kallsyms_names", id="names"),
        pytest.param(unmapped("kallsyms_num_syms"), "cannot read .*num_syms", id="num_syms"),
        pytest.param(unmapped("kallsyms_offsets"), "cannot read .*offsets", id="offsets"),
        pytest.param(unmapped("kallsyms_token_table"), "cannot read .*table", id="token_table"),
        pytest.param(unmapped("kallsyms_token_index"), "cannot read .*index", id="token_index"),
    ],
)
def test_damage(damage, message):
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols())
    damage(memory)
    with pytest.raises(TypesError, match=message) as raised:
        image(memory)
    assert "-s" in raised.value.hint


def test_keys_that_are_no_addresses():
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols(10))
    memory.keys["SYMBOL(kallsyms_names)"] = "kernel"
    with pytest.raises(TypesError, match="not an address"):
        image(memory)


def test_every_byte_of_the_names_changed():
    # Nothing but TypesError comes out of it, and nothing takes long.
    for at in range(0, 300):
        for flip in (0xFF, 0x80, 1):
            memory = KernelMemory()
            memory.add_kallsyms(some_symbols(20), merges=2)
            memory.data[at + 8] ^= flip
            try:
                table = image(memory)
                list(table)
                table.named("init_mm")
            except TypesError:
                pass


def test_without_a_platform():
    with pytest.raises(TypesError, match="architecture"):
        KallsymsImage(Program(), {})


PROC_KALLSYMS = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000040 t startup
not a line
ffffffff82000000 D init_mm
ffffffff82000100 d modules
ffffffff82000200 d my_init_mm
ffffffffc0000000 t pmem_attach\t[nd_pmem]
ffffffffc0000010 t init_mm\t[nd_pmem]
ffffffffc1000000 t bpf_prog_1\t[bpf]
"""


def test_text():
    table = KallsymsText(PROC_KALLSYMS)
    assert table.named("init_mm") == [SymbolEntry("init_mm", 0xFFFFFFFF82000000, "D")]
    assert table.named("mm") == table.named("pmem_attach") == table.named("line") == []
    assert [entry.name for entry in table] == [
        "fixed_percpu_data",
        "_stext",
        "_text",
        "startup",
        "init_mm",
        "modules",
        "my_init_mm",
    ]
    assert table.containing(0xFFFFFFFF82000080) == [
        (SymbolEntry("init_mm", 0xFFFFFFFF82000000, "D"), 0x100)
    ]


def test_text_without_modules():
    text = PROC_KALLSYMS[: PROC_KALLSYMS.index(b"ffffffffc0")]
    assert len(list(KallsymsText(text))) == 7


def test_text_of_a_kernel_that_hides_addresses():
    lines = [b"0" * 16 + line[16:] for line in PROC_KALLSYMS.splitlines()]
    with pytest.raises(TypesError, match="hides the addresses") as raised:
        KallsymsText(b"\n".join(lines) + b"\n")
    assert "kptr_restrict" in raised.value.hint
    with pytest.raises(TypesError, match="no _stext"):
        KallsymsText(b"")


SLIDE = 0x1C000000
VMCOREINFO = {
    "OSRELEASE": "5.10.0-1-amd64",
    "SYMBOL(_stext)": f"{0xFFFFFFFF81000000 + SLIDE:x}",
    # Not the address of the variable, but what is in it.
    "SYMBOL(mem_section)": "ff11000012345000",
}
SYSTEM_MAP = b"""\
0000000000000000 D __per_cpu_start
0000000000000100 A irq_count
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff82000000 D init_uts_ns
ffffffff82000400 D mem_section
ffffffff82000500 D pgmap_array
"""


def test_system_map_is_moved_to_where_the_kernel_is():
    table = SystemMap(SYSTEM_MAP, VMCOREINFO, "map")
    assert table.named("pgmap_array") == [SymbolEntry("pgmap_array", 0xFFFFFFFF9E000500, "D")]
    assert table.named("irq_count") == [SymbolEntry("irq_count", 0x100, "A")]
    assert table.containing(0xFFFFFFFF9E000410) == [
        (SymbolEntry("mem_section", 0xFFFFFFFF9E000400, "D"), 0x100)
    ]
    image = [TEXT + SLIDE + at for at in (0, 0, 0x1000000, 0x1000400, 0x1000500)]
    assert [entry.address for entry in table] == [0, 0x100, *image]


def test_text_with_names_that_clang_changed():
    lines = [f"{address:x} {letter} {name}" for name, address, letter in PROMOTED]
    text = "\n".join([f"{TEXT:x} T _stext", f"{TEXT + 0x40:x} D init_mm", *lines, ""]).encode()
    for table in (KallsymsText(text), SystemMap(text, {"SYMBOL(_stext)": f"{TEXT:x}"}, "map")):
        assert [entry.address - TEXT for entry in table.named("pgmap_array")] == [0xD0]
        assert [entry.address - TEXT for entry in table.named("node_data")] == [0xD8, 0xE0]
        assert [entry.address - TEXT for entry in table.named("init_mm")] == [0x40]
        assert not any(map(table.named, ("bus_kset", "pgmap_arra", "d pgmap_array", "")))


def test_saved_kallsyms_is_where_the_kernel_is():
    vmcoreinfo = {**VMCOREINFO, "SYMBOL(_stext)": "ffffffff81000000"}
    table = SystemMap(PROC_KALLSYMS, vmcoreinfo, "map")
    assert table.named("init_mm") == [SymbolEntry("init_mm", 0xFFFFFFFF82000000, "D")]
    assert table.named("pmem_attach") == []


def test_system_map_of_another_kernel():
    right = {**VMCOREINFO, "SYMBOL(init_uts_ns)": "ffffffff9e000000"}
    assert SystemMap(SYSTEM_MAP, right, "map").named("init_uts_ns")
    for key in ("SYMBOL(init_uts_ns)", "SYMBOL(swapper_pg_dir)"):
        wrong = {**VMCOREINFO, key: "ffffffff9e000040"}
        text = SYSTEM_MAP.replace(b"init_uts_ns", key[7:-1].encode())
        with pytest.raises(TypesError, match=r"map does not belong to kernel 5\.10\.0-1-amd64"):
            SystemMap(text, wrong, "map")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        # What Debian has in /boot.
        b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n",
        b"\0" * 1000,
        b"0000000000000000 T _stext\n",
    ],
)
def test_system_map_that_is_none(text):
    with pytest.raises(TypesError, match=r"map has no address of _stext.*-dbg"):
        SystemMap(text, VMCOREINFO, "map")


def test_system_map_for_a_kernel_that_does_not_say_where_it_is():
    for stext in ({}, {"SYMBOL(_stext)": "x"}):
        with pytest.raises(TypesError, match="does not say where it is"):
            SystemMap(SYSTEM_MAP, {"OSRELEASE": "5.10", **stext}, "map")


def test_finder():
    entries = [
        SymbolEntry("alias_static", 0x1000, "d"),
        SymbolEntry("alias", 0x1000, "D"),
        SymbolEntry("weak", 0x1100, "W"),
        SymbolEntry("weak_object", 0x1200, "V"),
        SymbolEntry("unique", 0x1300, "u"),
        SymbolEntry("text", 0x1400, "t"),
        SymbolEntry("absolute", 0x1500, "a"),
    ]
    prog = Program()
    prog.register_symbol_finder("test", symbol_finder(ListedSymbols(entries)), enable_index=0)
    assert [(s.name, s.binding, s.kind) for s in prog.symbols()] == [
        ("alias_static", SymbolBinding.UNKNOWN, SymbolKind.OBJECT),
        ("alias", SymbolBinding.GLOBAL, SymbolKind.OBJECT),
        ("weak", SymbolBinding.WEAK, SymbolKind.UNKNOWN),
        ("weak_object", SymbolBinding.WEAK, SymbolKind.OBJECT),
        ("unique", SymbolBinding.UNIQUE, SymbolKind.UNKNOWN),
        ("text", SymbolBinding.UNKNOWN, SymbolKind.FUNC),
        ("absolute", SymbolBinding.UNKNOWN, SymbolKind.UNKNOWN),
    ]
    symbol = prog.symbol("weak")
    assert (symbol.address, symbol.size) == (0x1100, 0x100)
    assert prog.symbol(0x10FF).name == "alias"
    assert [s.name for s in prog.symbols(0x1001)] == ["alias_static", "alias"]
    for missing in ("nothing", 0xFFF, 0x1501):
        with pytest.raises(LookupError):
            prog.symbol(missing)


def test_finder_of_a_mapping():
    prog = Program()
    table = ListedSymbols.from_mapping({"init_mm": 0x2000, "_stext": 0x1000})
    prog.register_symbol_finder("test", symbol_finder(table), enable_index=0)
    assert prog.symbol("init_mm").address == 0x2000
    assert prog.symbol(0x1FFF).name == "_stext"


def test_encodings_do_not_mix_up():
    # A base that is there and is zero is as none.
    memory = KernelMemory()
    memory.add_kallsyms(some_symbols(10), PLACE_RELATIVE)
    memory.set_symbol("kallsyms_relative_base", memory.add(bytes(8)))
    assert image(memory).named("init_mm")[0].address == TEXT + 0x40
