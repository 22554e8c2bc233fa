# SPDX-License-Identifier: LGPL-2.1-or-later
"""attach_types(): from a kernel's memory to types in drgn."""

from __future__ import annotations

import logging
import sys

import btf_writer as w
import pytest
from btf_writer import BtfWriter
from drgn import FaultError, Object, Program, ProgramFlags
from kernel_memory import KernelMemory

import vmemscope.types
from vmemscope.errors import TypesError
from vmemscope.types import TypesSource, attach_types
from vmemscope.types.btf_sections import BtfError

TEXT = 0xFFFFFFFF81000000
# As far from all else as an offset of kallsyms reaches.
UNMAPPED = 0xFFFFFFFF90000000


def kernel_btf(byteorder: str = "little") -> tuple[BtfWriter, dict[str, int]]:
    """What attaching itself needs, and a type to be found."""
    b = BtfWriter(byteorder)
    ids = {"int": b.int("int", 4, w.SIGNED), "char": b.int("char", 1)}
    ids["unsigned long"] = b.int("long unsigned int", 8)
    list_pointer = b.next_id + 1
    list_head = b.struct("list_head", 16, ("next", list_pointer, 0), ("prev", list_pointer, 64))
    b.ptr(list_head)
    void_pointer = b.ptr(0)
    module = b.struct("module", 56, ("name", b.array(ids["char"], 56), 0))
    btf = b.struct("btf", 16, ("data", void_pointer, 0), ("data_size", ids["int"], 64))
    b.struct(
        "btf_module",
        32,
        ("list", list_head, 0),
        ("btf", b.ptr(btf), 128),
        ("module", b.ptr(module), 192),
    )
    ids["page"] = b.struct("page", 64, ("flags", ids["unsigned long"], 0))
    b.struct("xarray", 16)
    b.enum("pageflags", {"PG_head": 6})
    return b, ids


class Kernel(KernelMemory):
    """A kernel with BTF, with modules that have some too, and with kallsyms."""

    def __init__(self, byteorder: str = "little", *, modules: int = 2) -> None:
        super().__init__(byteorder=byteorder)
        self.writer, self.ids = kernel_btf(byteorder)
        self.pgmap_array = self.add((0x1234).to_bytes(8, byteorder) * 2)
        self.start_btf = self.add(self.writer.build())
        self.stop_btf = self.start + len(self.data)
        self.modules = [self.add(bytes(32)) for _ in range(modules)]
        self.head = self.add(bytes(16))
        for i, address in enumerate(self.modules):
            writer = BtfWriter(byteorder, self.writer)
            writer.struct(f"device_{i}", 8 + i, ("page", writer.next_id + 1, 0))
            writer.ptr(self.ids["page"])
            blob = writer.build()
            size = len(blob).to_bytes(4, byteorder)
            btf = self.add(self.words(self.add(blob)) + size + bytes(4))
            name = self.add(f"mod{i}".encode().ljust(56, b"\0"))
            self.patch(address + 16, self.words(btf, name))
        links = [*self.modules, self.head]
        for at, following in zip([self.head, *self.modules], links, strict=True):
            self.patch(at, self.words(following))
        self.symbols = [
            ("_stext", TEXT, "T"),
            ("pgmap_array", self.pgmap_array, "b"),
            ("__start_BTF", self.start_btf, "R"),
            ("__stop_BTF", self.stop_btf, "R"),
            ("btf_modules", self.head, "d"),
        ]

    def words(self, *values: int) -> bytes:
        return b"".join((value & (1 << 64) - 1).to_bytes(8, self.byteorder) for value in values)

    def without(self, *names: str) -> Kernel:
        self.symbols = [symbol for symbol in self.symbols if symbol[0] not in names]
        return self

    def kernel(self, extra=None) -> Program:
        self.add_kallsyms(self.symbols)
        return super().kernel(extra)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("source", ["auto", "btf", TypesSource.BTF])
def test_btf(byteorder, source):
    kernel = Kernel(byteorder)
    if byteorder == "big":
        # Of s390x, drgn asks for more.
        kernel.keys |= {"KERNELOFFSET": "0", "NUMBER(phys_base)": "0"}
    prog = kernel.kernel()
    assert attach_types(prog, source) is TypesSource.BTF
    assert prog["pgmap_array"].address_ == kernel.pgmap_array
    assert prog["PG_head"].value_() == 6
    assert prog.symbol("pgmap_array").address == kernel.pgmap_array
    assert prog.symbol(TEXT).name == "_stext"
    assert prog.type("struct page").size == 64
    assert Object(prog, "unsigned long", address=kernel.pgmap_array) == 0x1234
    # From the modules.
    assert prog.type("struct device_0").size == 8
    assert prog.type("struct device_1").members[0].type.type_name() == "struct page *"
    with pytest.raises(LookupError):
        prog.type("struct device_2")


def test_little_is_read():
    kernel = Kernel()
    prog = kernel.kernel()
    kernel.reads = 0
    attach_types(prog)
    assert kernel.reads <= 7


def test_source_is_text():
    assert str(TypesSource.BTF) == f"{TypesSource.BTF}" == "btf"
    with pytest.raises(ValueError, match="ctf"):
        attach_types(Program(), "ctf")


def test_btf_from_elsewhere():
    # A kernel that has none of its own.
    kernel = Kernel(modules=0).without("__start_BTF", "__stop_BTF", "btf_modules")
    writer, _ = kernel_btf()
    writer.struct("folio", 128)
    prog = kernel.kernel()
    attach_types(prog, btf=writer.build())
    assert prog.type("struct folio").size == 128
    with pytest.raises(LookupError):
        prog.type("struct nothing")


def corrupt_module(kernel: Kernel) -> None:
    blob = kernel.data.index(b"\x9f\xeb", kernel.stop_btf - kernel.start)
    kernel.data[blob] = 0


def unreadable_module(kernel: Kernel) -> None:
    kernel.patch(kernel.modules[0] + 16, kernel.words(0xFFFF000000000000))


def huge_module(kernel: Kernel) -> None:
    address = int.from_bytes(kernel.data[kernel.modules[0] + 16 - kernel.start :][:8], "little")
    kernel.patch(address + 8, (1 << 30).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt_module, "BTF of mod0 is damaged: magic"),
        (unreadable_module, "cannot read the BTF of mod0"),
        (huge_module, "BTF of mod0 is 1073741824 bytes long"),
    ],
)
def test_a_damaged_module_is_left_out(damage, message, caplog):
    kernel = Kernel()
    damage(kernel)
    prog = kernel.kernel()
    attach_types(prog)
    assert prog.type("struct device_1").size == 9
    with pytest.raises(LookupError):
        prog.type("struct device_0")
    assert message in caplog.text


def test_a_list_of_modules_without_end(monkeypatch, caplog):
    monkeypatch.setattr("vmemscope.types.modules._MAX_MODULES", 20)
    kernel = Kernel()
    kernel.patch(kernel.modules[1], kernel.words(kernel.modules[0]))
    prog = kernel.kernel()
    attach_types(prog)
    assert prog.type("struct device_1").size == 9
    assert "does not end" in caplog.text


def test_a_list_of_modules_that_leads_nowhere(caplog):
    kernel = Kernel()
    kernel.patch(kernel.modules[0], kernel.words(0xFFFF000000000000))
    prog = kernel.kernel()
    attach_types(prog)
    assert prog.type("struct device_0").size == 8
    with pytest.raises(LookupError):
        prog.type("struct device_1")
    assert "list of modules" in caplog.text


def test_no_kernel():
    with pytest.raises(TypesError, match="not a Linux kernel"):
        attach_types(Program())


@pytest.mark.parametrize("source", ["auto", "btf"])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        pytest.param(
            lambda: Kernel().without("__start_BTF"),
            r"kernel 6\.12\.0-test has no BTF \(CONFIG_DEBUG_INFO_BTF is off\)",
            id="no BTF",
        ),
        pytest.param(lambda: _patched("start_btf", b"\0"), "magic is", id="damaged"),
        pytest.param(lambda: _moved("__stop_BTF", TEXT), "BTF can't be from", id="backwards"),
        pytest.param(
            lambda: _moved("__stop_BTF", (1 << 64) - 4096), "BTF can't be from", id="huge"
        ),
        pytest.param(lambda: _unmapped(), "cannot read the kernel's BTF", id="unmapped"),
    ],
)
def test_no_btf(kernel, message, source):
    prog = kernel().kernel()
    before = prog.enabled_type_finders(), prog.enabled_symbol_finders()
    with pytest.raises(TypesError, match=message) as raised:
        attach_types(prog, source)
    assert "-s" in raised.value.hint
    # It is left as it was.
    assert (prog.enabled_type_finders(), prog.enabled_symbol_finders()) == before


def _patched(attribute: str, data: bytes) -> Kernel:
    kernel = Kernel()
    kernel.patch(getattr(kernel, attribute), data)
    return kernel


def _moved(name: str, address: int) -> Kernel:
    kernel = Kernel()
    kernel.symbols = [(n, address if n == name else a, kind) for n, a, kind in kernel.symbols]
    return kernel


def _unmapped() -> Kernel:
    kernel = _moved("__start_BTF", UNMAPPED).without("__stop_BTF")
    kernel.symbols.append(("__stop_BTF", UNMAPPED + 0x1000, "R"))
    return kernel


@pytest.mark.parametrize("source", ["auto", "btf"])
def test_no_kallsyms(source):
    kernel = KernelMemory()
    kernel.keys["OSRELEASE"] = "5.10.0-42-amd64"
    kernel.add(bytes(64))
    with pytest.raises(TypesError, match=r"5\.10\.0-42-amd64 does not say .*Linux 6\.0"):
        attach_types(kernel.kernel(), source)


class TestRunningKernel:
    """The kernel that runs here has files for what else is in its memory."""

    @pytest.fixture(autouse=True)
    def running(self, monkeypatch, tmp_path):
        monkeypatch.setattr(vmemscope.types, "_is_running_kernel", lambda prog: True)
        self.sys_btf = tmp_path / "vmlinux"
        self.proc_kallsyms = tmp_path / "kallsyms"
        monkeypatch.setattr(vmemscope.types, "_SYS_BTF", str(self.sys_btf))
        monkeypatch.setattr(vmemscope.types, "_PROC_KALLSYMS", str(self.proc_kallsyms))

    def test_sys_btf(self):
        kernel = Kernel().without("__start_BTF")
        writer, _ = kernel_btf()
        writer.struct("folio", 128)
        self.sys_btf.write_bytes(writer.build())
        prog = kernel.kernel()
        attach_types(prog)
        assert prog.type("struct folio").size == 128

    def test_without_sys_btf(self):
        prog = Kernel().kernel()
        attach_types(prog)
        assert prog.type("struct page").size == 64

    def test_proc_kallsyms(self):
        kernel = Kernel()
        lines = [f"{address:016x} {letter} {name}" for name, address, letter in kernel.symbols]
        self.proc_kallsyms.write_text("\n".join(lines) + "\n")
        prog = Program(kernel.kernel().platform)
        prog.set_linux_kernel_custom(
            "OSRELEASE=5.10.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=1000\nNUMBER(phys_base)=0\n",
            True,
        )
        kernel.add_to(prog)
        attach_types(prog)
        assert prog["pgmap_array"].address_ == kernel.pgmap_array

    def test_neither(self):
        kernel = KernelMemory()
        kernel.add(bytes(64))
        with pytest.raises(TypesError, match="does not say where its symbol table is"):
            attach_types(kernel.kernel(), "btf")


def test_running_kernel():
    prog = Program()
    assert not vmemscope.types._is_running_kernel(prog)
    assert not prog.flags & ProgramFlags.IS_LIVE


BUILD_ID = "0123456789abcdef0123456789abcdef01234567"


class TestDwarf:
    """Files that are of no use; those that are, are for tests with real kernels."""

    @pytest.fixture
    def prog(self):
        return Kernel().kernel({"BUILD-ID": BUILD_ID})

    @pytest.mark.parametrize("source", ["auto", "dwarf"])
    def test_missing(self, prog, source, tmp_path):
        with pytest.raises(TypesError, match=r"cannot read .*vmlinux: No such file"):
            attach_types(prog, source, [tmp_path / "vmlinux"])

    def test_not_elf(self, prog, tmp_path):
        path = tmp_path / "vmlinux"
        path.write_bytes(b"\0" * 100)
        with pytest.raises(TypesError, match="is not an ELF file"):
            attach_types(prog, "dwarf", [path])

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            (b"\x7fELF", "can load nothing from"),
            (b"\x7fELF\2\1\1" + bytes(9), "can load nothing from"),
            (b"\x7fELF\2\1\1" + bytes(9) + b"\4\0" + bytes(46), "is a dump"),
            (b"\x7fELF\2\2\1" + bytes(9) + b"\0\4" + bytes(46), "is a dump"),
        ],
    )
    def test_no_symbols(self, prog, tmp_path, contents, message):
        path = tmp_path / "vmcore"
        path.write_bytes(contents)
        with pytest.raises(TypesError, match=message) as raised:
            attach_types(prog, "dwarf", [path])
        assert str(path) in str(raised.value)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs any ELF file")
    def test_of_another_kernel(self, prog):
        message = rf"{sys.executable} \((no )?build ID.*belong to kernel .*\(build ID {BUILD_ID}\)"
        with pytest.raises(TypesError, match=message) as raised:
            attach_types(prog, "dwarf", [sys.executable])
        assert "-s" in raised.value.hint

    def test_none(self, prog):
        with pytest.raises(TypesError, match=f"no debugging symbols .*{BUILD_ID}"):
            attach_types(prog, "dwarf")


def test_fault_is_not_a_miss(caplog):
    # A variable can be found whatever its memory is.
    kernel = _moved("pgmap_array", UNMAPPED)
    prog = kernel.kernel()
    with caplog.at_level(logging.WARNING):
        attach_types(prog)
        assert prog["pgmap_array"].address_ == UNMAPPED
    with pytest.raises(FaultError):
        prog["pgmap_array"].read_()
    assert not caplog.records


def test_error_is_of_the_package():
    assert issubclass(BtfError, TypesError)
