# SPDX-License-Identifier: LGPL-2.1-or-later
"""
makedumpfile's kdump files of all architectures, which say their machine.

libkdumpfile 0.5 can't translate the addresses of some: what is read through it must be
physical memory alone. The same kernel's ELF dump, which it has no part in, says what to expect.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
import lzallright
import pytest

from vmemscope.cli.main import main
from vmemscope.target import open_core, page_codecs
from vmemscope.target.elf import note_segments, read_elf
from vmemscope.target.notes import read_cpus

from .kernels import DEVICE, image, write
from .test_kdump import flattened, kdump_file

COMMANDS = (("pgmap", "--all"), ("memmap",), ("hugetlb",))
#: names of simulated architectures -> what their kernels call them
MACHINES = {
    "x86_64": "x86_64",
    "arm64": "aarch64",
    "arm64-16k": "aarch64",
    "arm64-64k": "aarch64",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "ppc64le-64k": "ppc64le",
    "s390x": "s390x",
}
Codec = tuple[int, Callable[[bytes], bytes]]
LZO: Codec = (0x2, lambda page: bytes(lzallright.LZOCompressor().compress(page)))
ZSTD: Codec = (0x20, lambda page: bytes(cramjam.zstd.compress(page)))


#: machine -> a register's name in a scenario, and its place in the note (struct user_pt_regs, ...)
REGISTERS = {
    "x86_64": ("RDI", 14),
    "aarch64": ("x0", 0),
    "riscv64": ("10", 10),
    "ppc64le": ("3", 3),
    "s390x": ("4", 4),
}


class Simulated(NamedTuple):
    """A simulated kernel, as an ELF dump and as what a kdump file has of it."""

    name: str
    core: Path
    machine: str
    order: str
    vmcoreinfo: str
    #: page frame number -> content
    pages: dict[int, bytes]

    @property
    def page_size(self) -> int:
        return len(next(iter(self.pages.values())))

    def kdump(self, name: str, codec: Codec | None = None, **other: Any) -> Path:
        """Write a kdump file."""
        path = self.core.with_name(name)
        options = {"order": self.order, "vmcoreinfo": self.vmcoreinfo, "machine": self.machine}
        path.write_bytes(kdump_file(self.pages, codec=codec, **{**options, **other}))
        return path


def simulated(arch: str, directory: Path) -> Simulated:
    core = Path(write(image(DEVICE, f"7.2@{arch}"), directory))
    target = open_core(str(core))
    size = int(target.vmcoreinfo["PAGESIZE"])
    data = core.read_bytes()
    pages = {
        (load.paddr + at) // size: data[load.offset + at : load.offset + at + size]
        for load in read_elf(str(core))[0]
        for at in range(0, load.filesz, size)
    }
    text = target.prog["VMCOREINFO"].string_().decode()
    return Simulated(f"7.2@{arch}", core, MACHINES[arch], "<>"[data[5] - 1], text, pages)


@pytest.fixture(scope="module", params=MACHINES)
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    return simulated(request.param, tmp_path_factory.mktemp("kernel"))


@pytest.fixture
def no_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have nothing that is not Python's own to decompress pages with."""
    for module in ("lzallright", "cramjam", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    page_codecs._decompressor.cache_clear()
    yield
    page_codecs._decompressor.cache_clear()


def document(
    path: Path, capsys: pytest.CaptureFixture[str], *command: str
) -> tuple[int, dict[str, Any]]:
    """Return exit status and document of an audit, without what is of the file alone."""
    status = main([*command, "--format", "json", "-c", str(path)])
    out, errors = capsys.readouterr()
    assert out, errors
    found = json.loads(out)
    del found["target"]["path"]
    return status, {**found, "timings": None}


@pytest.fixture
def same(kernel: Simulated, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], None]:
    """Check that a kdump file is read as the ELF dump is."""
    return lambda path: check_same(kernel, path, capsys)


def check_same(
    kernel: Simulated,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    commands: Sequence[Sequence[str]] = COMMANDS[:1],
) -> None:
    for command in commands:
        assert document(path, capsys, *command) == document(kernel.core, capsys, *command)


def test_it_is_read_as_the_elf_dump_is(
    kernel: Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    check_same(kernel, kernel.kdump("kdump", compressed=True), capsys, COMMANDS)


def test_flattened(kernel: Simulated, same: Callable[[Path], None]) -> None:
    path = kernel.kdump("flat", ZSTD)
    path.write_bytes(flattened(path.read_bytes(), piece=1 << 20))
    same(path)


def test_the_registers_of_the_crash(kernel: Simulated, tmp_path: Path) -> None:
    """
    Those of the ELF dump, whose notes makedumpfile copies as they are: page by page, compressed,
    flattened in pieces that end anywhere in the headers and in the notes.
    """
    name, index = REGISTERS[kernel.machine]
    text = f'{DEVICE}[crash]\ncpu = 1\nregisters = {{"{name}" = "fedcba9876543210"}}\n'
    core = Path(write(image(text, kernel.name), tmp_path))
    cpus = open_core(str(core)).cpus()
    assert [cpu.registers[index] for cpu in cpus] == [0, 0xFEDCBA9876543210]
    with core.open("rb") as file:
        ((offset, size),) = note_segments(file.fileno())
    path = kernel.kdump("crash", ZSTD, notes=core.read_bytes()[offset : offset + size])
    plain = path.read_bytes()
    assert open_core(str(path)).cpus() == cpus
    for piece in (4096 + 52, kernel.page_size, 1 << 20):
        path.write_bytes(flattened(plain, piece=piece))
        assert open_core(str(path)).cpus() == cpus
    # Half of the notes: nothing is made up of what is missing.
    notes = (2 * kernel.page_size) - size
    path.write_bytes(flattened(plain[: notes + size // 2]))
    assert all(cpu in cpus for cpu in read_cpus(str(path), kernel.order))


def test_without_vmcoreinfo(kernel: Simulated, same: Callable[[Path], None]) -> None:
    """makedumpfile copies a dump that has none at level 0 and 1: it is searched for."""
    path = kernel.kdump("none", LZO, vmcoreinfo="")
    assert any("was found in memory" in note for note in open_core(str(path)).notes)
    same(path)


@pytest.mark.usefixtures("no_modules")
def test_libkdumpfile_decompresses_what_no_module_does(
    kernel: Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    No package has to be installed for what could be read without it.

    Of s390x and ppc64 with 4K pages, libkdumpfile wants what a real kernel has in the first
    page of memory, and a simulated one lacks: one line says which package it takes instead.
    """
    for codec in (LZO, ZSTD):
        path = kernel.kdump("kdump", codec)
        if (kernel.machine, kernel.page_size) in (("ppc64le", 4096), ("s390x", 4096)):
            assert main(["pgmap", "-c", str(path)]) == 3
            (line,) = capsys.readouterr().err.splitlines()
            assert "; pip install 'vmemscope[kdump]'" in line
        else:
            check_same(kernel, path, capsys)


def test_what_is_left_out_is_not_read(
    kernel: Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    """The frame behind the device's first struct pages is no page of zeros."""
    _, whole = document(kernel.core, capsys, "pgmap", "--all")
    start = whole["pgmaps"][0]["ranges"][0]["start"]
    _, page = document(kernel.core, capsys, "page", start)
    pages = {pfn: page_ for pfn, page_ in kernel.pages.items() if pfn != page["frame"]["pfn"]}
    assert len(pages) == len(kernel.pages) - 1
    path = kernel._replace(pages=pages).kdump("left", compressed=True)
    status, found = document(path, capsys, "pgmap", "--all")
    assert status == 4
    assert found["summary"]["errors"] == 0
    assert found["summary"]["not_read"]
    assert found["pgmaps"][0]["frames"] == whole["pgmaps"][0]["frames"]


@pytest.mark.parametrize(
    "machine",
    ["loongarch64", "mips64", "ppc64", "ppc", "i686", "armv7l", "s390", "alpha", "sparc64"],
)
def test_another_machine_is_refused(
    tmp_path: Path, machine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line that names it, before anything is read: there is nothing to be read."""
    path = tmp_path / "vmcore"
    for vmcoreinfo in ("", "OSRELEASE=7.2.0\nPAGESIZE=4096\n"):
        data = kdump_file({5: bytes(4096)}, machine=machine, vmcoreinfo=vmcoreinfo)
        for content in (data, flattened(data)):
            path.write_bytes(content)
            assert main(["pgmap", "-c", str(path)]) == 3
            assert capsys.readouterr().err == (
                f"vmemscope: error: architecture {machine} is not supported; supported: arm64,"
                " ppc64le, riscv64, s390x, x86_64\n"
            )


def test_machine_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(kdump_file({5: bytes(4096)}, machine="\x1b[2Jx\n"))
    assert main(["pgmap", "-c", str(path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert r"architecture \x1b[2Jx\n is not supported" in line


@pytest.mark.parametrize("name", ["", "Unknown", "S390X"])
def test_names_of_qemu_are_no_machines(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """QEMU writes these for whatever it emulates: VMCOREINFO says what it is."""
    kernel = simulated("s390x", tmp_path)
    check_same(kernel, kernel.kdump("kdump", machine=name), capsys)
