# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each reason why a target can't be read has its own message."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from drgn import Architecture, FaultError, Platform, Program
from kdumpling import KdumpBuilder

from vmemscope.audits.pagemaps import once
from vmemscope.cli.main import main
from vmemscope.errors import ExitStatus, TargetError
from vmemscope.machine import Kernel
from vmemscope.target import live, open_core, open_live, open_qemu, qemu
from vmemscope.target.elf import read_elf
from vmemscope.target.qmp import Monitor, MonitorError, QmpEvent

from .kernels import DEVICE, KERNELS, Dumps, filtered
from .test_kdump import kdump_file

GREETING = {"QMP": {"version": {}, "capabilities": []}}
#: what QEMU's monitor prints for "info mtree -f", in short
MTREE = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, ram): no memory at all

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000dffff (prio 0, rom): pc.ram @00000000000c0000
  00000000000e0000-00000000000fffff (prio -1, romd): pc.bios
  0000000000100000-000000003fffffff (prio 0, ram): pc.ram @0000000000100000
  0000000080000000-00000000800fffff (prio 1, ramd): 0000:01:00.0 BAR 0 mmaps[0]
  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi
  0000000100000000-000000011fffffff (prio 0, nv-ram): memory0
  0000000120000000-000000014fffffff (prio 0, nv-ram): memory1

FlatView #2
 AS "other", root: other
 Root memory region: other
  0000000200000000-00000002ffffffff (prio 0, ram): somebody's
"""


def write_core(path: Path, vmcoreinfo: str | None) -> Path:
    builder = KdumpBuilder(arch="x86_64")
    if vmcoreinfo is not None:
        builder.set_vmcoreinfo(vmcoreinfo)
    builder.add_memory_segment(0x1000, b"\0" * 4096)
    builder.write(str(path))
    return path


class TestCore:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"cannot open .*nothing: No such file or directory"):
            open_core(str(tmp_path / "nothing"))

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="is a directory"):
            open_core(str(tmp_path))

    @pytest.mark.parametrize("content", [b"hello\n", b"\x7fEL", bytes(range(256)) * 40])
    def test_no_dump(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(TargetError, match=r"is not a kernel dump; give an ELF"):
            open_core(str(path))

    @pytest.mark.parametrize(
        ("content", "what", "hint"),
        [
            (b"", "it is empty", ""),
            (gzip.compress(b"KDUMP   ", mtime=0), "compressed with gzip", "gzip -dk"),
            (lzma.compress(b"KDUMP   "), "compressed with xz", "xz -dk"),
            (lzma.compress(b"K" * 99, lzma.FORMAT_ALONE), "compressed with lzma", "unlzma"),
            (bz2.compress(b"KDUMP   "), "compressed with bzip2", "bzip2 -dk"),
            (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with zstd", "zstd -d"),
            (b"\x04\x22\x4d\x18\x64", "compressed with lz4", "lz4 -d"),
            (b"\x89LZO\0\r\n\x1a\n\x10", "compressed with lzop", "lzop -d"),
            (b"PK\3\4" + bytes(100), "a zip archive", "unzip"),
            (b"x" * 257 + b"ustar\0", "a tar archive", "tar xf"),
            (b"EMiL\1\0\0\0", "a LiME memory image", "makedumpfile, kdump or QEMU"),
            (b"LibvirtQemudSave\2", "saved by libvirt", "virsh dump --memory-only"),
            (b"QEVM\0\0\0\3", "a migration stream of QEMU", "dump-guest-memory"),
            (b"QFI\xfb\0\0\0\3", "a qcow2 disk image", "virsh dump"),
            (b"\xd2\xbe\xd2\xbe\x08\0", "a VMware snapshot", "vmss2core"),
            (b"PAGEDU64", "a Windows dump", ""),
            (bytes.fromhex("a8190173618f23fd00000005"), "a stand-alone dump of s390", "zgetdump"),
            (b"OSRELEASE=6.1.0\n", "a VMCOREINFO note", "--vmcoreinfo"),
            (b'{"schema": "vmemscope.pgmap/1"}', "a JSON document", "vmemscope diff"),
            (bytes(0x202) + b"HdrS" + bytes(100), "a kernel image", "-c"),
            (bytes(8192), "starts with zeros", "raw image of memory"),
        ],
    )
    def test_what_else_a_file_can_be(
        self, tmp_path: Path, content: bytes, what: str, hint: str
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(TargetError, match="is not a kernel dump: ") as caught:
            open_core(str(path))
        assert what in str(caught.value)
        assert hint in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("kind", "what"), [(1, "an object file"), (2, "an executable"), (3, "a shared object")]
    )
    @pytest.mark.parametrize("order", ["little", "big"])
    def test_an_elf_file_that_is_no_core(
        self, tmp_path: Path, kind: int, what: str, order: str
    ) -> None:
        path = tmp_path / "vmlinux"
        head = b"\x7fELF\2" + (b"\1" if order == "little" else b"\2") + bytes(10)
        path.write_bytes(head + kind.to_bytes(2, order) + bytes(100))  # type: ignore[arg-type]
        with pytest.raises(TargetError, match=f"it is {what}.* file with -s"):
            open_core(str(path))

    def test_a_fifo_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(TargetError, match="is not a regular file"):
            open_core(str(tmp_path / "fifo"))
        with pytest.raises(TargetError, match="is not a regular file"):
            open_core("/dev/zero")
        with pytest.raises(TargetError, match="cannot open"):
            open_core("a\0b")

    @pytest.mark.parametrize("magic", [b"\x7fELF", b"KDUMP   ", b"DISKDUMP", b"makedumpfile"])
    def test_cut_off_in_its_header(self, tmp_path: Path, magic: bytes) -> None:
        path = tmp_path / "vmcore"
        path.write_bytes(magic + b"\0" * 20)
        with pytest.raises(TargetError, match=r"cannot read .*vmcore.* damaged; compare its size"):
            open_core(str(path))

    def test_no_vmcoreinfo(self, tmp_path: Path) -> None:
        path = write_core(tmp_path / "vmcore", None)
        with pytest.raises(
            TargetError, match="has no usable VMCOREINFO, and none is in its memory"
        ):
            open_core(str(path))

    def test_vmcoreinfo_without_what_translation_needs(self, tmp_path: Path) -> None:
        path = write_core(tmp_path / "vmcore", "OSRELEASE=6.1.0\n")
        with pytest.raises(TargetError, match="has no usable VMCOREINFO"):
            open_core(str(path))

    def test_vmcoreinfo_file_that_is_none(self, tmp_path: Path) -> None:
        path = write_core(tmp_path / "vmcore", None)
        (tmp_path / "note").write_text("nothing\n")
        with pytest.raises(TargetError, match="holds no VMCOREINFO"):
            open_core(str(path), str(tmp_path / "note"))
        with pytest.raises(TargetError, match=r"cannot read VMCOREINFO from .*: No such file"):
            open_core(str(path), str(tmp_path / "missing"))


def without_note(core: Path, path: Path) -> Path:
    """Copy a dump without the name of its VMCOREINFO note, which memory has, too."""
    data = bytearray(core.read_bytes())
    at = data.index(b"VMCOREINFO\0")
    assert at < 4096
    data[at] = ord("X")
    path.write_bytes(data)
    return path


def with_note(core: Path, path: Path, note: bytes, pfn: int) -> Path:
    """Copy a dump, with something else at the start of a frame that it has."""
    data = bytearray(core.read_bytes())
    loads, _ = read_elf(str(core))
    (load,) = [one for one in loads if 0 <= (pfn << 12) - one.paddr < one.filesz]
    at = load.offset + (pfn << 12) - load.paddr
    data[at : at + len(note)] = note
    path.write_bytes(data)
    return path


def elf_note(text: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}III12s", 11, len(text), 0, b"VMCOREINFO") + text


class TestVmcoreinfo:
    """Where VMCOREINFO can come from, and whether it is of the kernel in the dump."""

    @pytest.fixture
    def core(self, dumps: Dumps) -> Path:
        return dumps.core("devdax-2m", "6.12")

    @pytest.fixture
    def text(self, core: Path) -> bytes:
        return bytes(open_core(str(core)).prog["VMCOREINFO"].string_())

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("scenario", ["devdax-2m", "4-level"])
    def test_found_in_memory(
        self, dumps: Dumps, tmp_path: Path, scenario: str, kernel: str
    ) -> None:
        core = dumps.core(scenario, kernel)
        target = open_core(str(without_note(core, tmp_path / "vmcore")))
        assert target.vmcoreinfo == open_core(str(core)).vmcoreinfo
        (note,) = target.notes
        assert note.startswith("VMCOREINFO was found in memory at physical address 0x")
        audited = once(Kernel.open_core(str(tmp_path / "vmcore")))
        assert audited.pagemaps == once(Kernel.open_core(str(core))).pagemaps
        assert audited.findings == ()

    def test_found_in_a_kdump_file(self, core: Path, tmp_path: Path) -> None:
        memory = core.read_bytes()
        loads, _ = read_elf(str(core))
        pages = {
            (one.paddr + at) >> 12: memory[one.offset + at :][:4096]
            for one in loads
            for at in range(0, one.filesz, 4096)
            if one.paddr + at < 1 << 28
        }
        path = tmp_path / "vmcore"
        path.write_bytes(kdump_file(pages, compressed=True, vmcoreinfo=""))
        target = open_core(str(path))
        assert target.vmcoreinfo == open_core(str(core)).vmcoreinfo
        assert any("was found in memory" in note for note in target.notes)

    def test_of_several_the_one_that_fits(
        self, core: Path, dumps: Dumps, tmp_path: Path, text: bytes
    ) -> None:
        # Of another boot, of another kernel, and one that is cut off, each before it.
        other = dumps.core("mixed", "7.2")
        another = bytes(open_core(str(other)).prog["VMCOREINFO"].string_())
        moved = text.replace(b"SYMBOL(init_uts_ns)=ffffffff", b"SYMBOL(init_uts_ns)=fffffffe")
        path = without_note(core, tmp_path / "vmcore")
        data = path.read_bytes()
        unused = [
            (one.paddr + at) >> 12
            for one in read_elf(str(path))[0]
            for at in range(0, one.filesz, 4096)
            if not any(data[one.offset + at :][:4096])
        ]
        for pfn, note in zip(unused[:3], (another, moved, text[:100]), strict=True):
            path = with_note(path, path, elf_note(note), pfn)
        target = open_core(str(path))
        assert target.vmcoreinfo == open_core(str(core)).vmcoreinfo
        (said,) = [one for one in target.notes if "found in memory" in one]
        found = int(said.split("address ")[1].split(";")[0], 16)
        if any(pfn << 12 < found for pfn in unused[:3]):
            assert "it fits the kernel there, others do not (" in said

    def test_none_of_several_fits(self, core: Path, tmp_path: Path, text: bytes) -> None:
        path = without_note(core, tmp_path / "vmcore")
        data = path.read_bytes()
        broken = data
        for name in (b"SYMBOL(init_uts_ns)", b"SYMBOL(swapper_pg_dir)"):
            broken = broken.replace(name + b"=ffffffff", name + b"=fffffffe")
        assert broken != data
        path.write_bytes(broken)
        with pytest.raises(TargetError, match="none is in its memory"):
            open_core(str(path))

    @pytest.mark.parametrize("form", ["text", "zeros", "elf", "page", "big"])
    def test_given_in_any_form(self, core: Path, tmp_path: Path, text: bytes, form: str) -> None:
        note = tmp_path / "note"
        note.write_bytes(
            {
                "text": text,
                "zeros": text + bytes(100),
                "elf": elf_note(text),
                "page": elf_note(text).ljust(8192, b"\0"),
                "big": elf_note(text, ">").ljust(8192, b"\0"),
            }[form]
        )
        path = without_note(core, tmp_path / "vmcore")
        assert open_core(str(path), str(note)).vmcoreinfo == open_core(str(core)).vmcoreinfo
        # Beside the dump's own, which is the same.
        assert open_core(str(core), str(note)).notes == ()

    @pytest.mark.parametrize("keep", [1, 9, 20, 40, 100, 300])
    @pytest.mark.parametrize("elf", [False, True])
    def test_cut_off(self, core: Path, tmp_path: Path, text: bytes, keep: int, elf: bool) -> None:
        note = tmp_path / "note"
        note.write_bytes((elf_note(text) if elf else text)[:keep])
        with pytest.raises(TargetError, match=r"holds no VMCOREINFO|not complete|is not of the"):
            open_core(str(core), str(note))

    @pytest.mark.parametrize("own", [True, False])
    def test_of_another_boot(self, core: Path, tmp_path: Path, own: bool, dumps: Dumps) -> None:
        # The same kernel, elsewhere.
        seed = 'ram = "256M"\nseed = 7\n' + DEVICE
        note = tmp_path / "note"
        other = dumps.core(seed, "6.12")
        note.write_bytes(bytes(open_core(str(other)).prog["VMCOREINFO"].string_()))
        path = core if own else without_note(core, tmp_path / "vmcore")
        with pytest.raises(TargetError, match="is not of the kernel in") as caught:
            open_core(str(path), str(note))
        assert ("leave --vmcoreinfo out" in str(caught.value)) == own
        assert "vmlinux" not in str(caught.value)

    def test_of_another_kernel_at_the_same_place(
        self, core: Path, tmp_path: Path, text: bytes
    ) -> None:
        note = tmp_path / "note"
        note.write_bytes(text.replace(b"OSRELEASE=6.12.117", b"OSRELEASE=6.12.999"))
        with pytest.raises(TargetError, match=r"it is of Linux 6.12.999.*runs 6.12.117"):
            open_core(str(core), str(note))

    def test_the_kernels_name_is_lost(self, core: Path, tmp_path: Path, text: bytes) -> None:
        # Then the page tables say whether they are those of the note.
        keys = open_core(str(core)).vmcoreinfo
        place = int(keys["SYMBOL(init_uts_ns)"], 16) - 0xFFFFFFFF80000000
        place += int(keys["NUMBER(phys_base)"])
        path = tmp_path / "vmcore"
        filtered(core, path, {place >> 12})
        note = tmp_path / "note"
        note.write_bytes(text)
        assert open_core(str(path), str(note)).vmcoreinfo == keys
        note.write_bytes(
            text.replace(b"SYMBOL(swapper_pg_dir)=ffff", b"SYMBOL(swapper_pg_dir)=fffe")
        )
        with pytest.raises(TargetError, match=r"is not of the kernel|cannot read"):
            open_core(str(path), str(note))


class TestKernel:
    def test_no_kcore_names_the_other_targets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live, "_KCORE", str(tmp_path / "kcore"))
        with pytest.raises(TargetError, match=r"there is no .*-c.*--qemu.*--sim") as caught:
            open_live()
        assert caught.value.exit_status is ExitStatus.CANNOT_AUDIT

    def test_without_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(TargetError, match=r"not permitted to read .*run as root"):
            open_live()

    def test_lockdown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lockdown = tmp_path / "lockdown"
        lockdown.write_text("none integrity [confidentiality]\n")

        def refuse(*args: object) -> int:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(live, "_LOCKDOWN", str(lockdown))
        with pytest.raises(TargetError, match="locked down"):
            open_live()


class TestQemu:
    def test_no_socket(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"cannot connect to QMP at unix:.*-qmp"):
            open_qemu(f"unix:{tmp_path}/missing.sock")

    def test_port_where_nobody_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(TargetError, match="cannot connect to QMP"):
            open_qemu(f"127.0.0.1:{port}")

    def test_busy_monitor_ends_in_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(qemu, "_TIMEOUT", 1)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "busy.sock"))
            listener.listen()
            with pytest.raises(TargetError, match="one client at a time"):
                open_qemu(str(tmp_path / "busy.sock"))

    def test_over_tcp_there_is_no_vmcoreinfo(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            # No answer to query-target: a monitor that lets less through.
            refused = {"error": {"class": "CommandNotFound", "desc": "not permitted"}}
            answers = (GREETING, {"return": {}}, refused, {"return": MTREE})
            with served(lambda: listener.accept()[0], answers) as heard:
                with pytest.raises(TargetError, match=r"over TCP.*--vmcoreinfo"):
                    open_qemu(address)
                assert [command["execute"] for command in heard] == [
                    "qmp_capabilities",
                    "query-target",
                    "human-monitor-command",
                ]

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("loongarch64", "loongarch64"),
            ("mips64el", "mips64el"),
            ("arm", "arm"),
            ("\x1b", r"\x1b"),
        ],
    )
    def test_another_architecture_is_refused(
        self, name: str, shown: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing else is asked of the monitor, and nothing of the guest is read."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            answers = (GREETING, {"return": {}}, {"return": {"arch": name}})
            with served(lambda: listener.accept()[0], answers):
                assert main(["pgmap", "--qemu", address]) == 3
        assert capsys.readouterr().err == (
            f"vmemscope: error: architecture {shown} is not supported; supported: arm64, ppc64le,"
            " riscv64, s390x, x86_64\n"
        )

    def test_something_that_does_not_talk_qmp(self, tmp_path: Path) -> None:
        # In a process of its own: drgn does not let other threads run while it waits.
        path = str(tmp_path / "other.sock")
        with subprocess.Popen(
            [sys.executable, "-c", _SMTP, path], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
            with pytest.raises(TargetError, match="cannot talk QMP"):
                open_qemu(path)

    @pytest.mark.parametrize("readable", [True, False])
    def test_qemu_that_refuses_to_dump(
        self, readable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As while it migrates the guest: the note is looked for in memory, and says why."""
        found = b"OSRELEASE=7.2.13\n"
        monkeypatch.setattr(qemu, "notes_in_memory", lambda prog, ram: [(0x1000, found)])
        monkeypatch.setattr(qemu, "found_by_walk", lambda prog, text: True)
        monkeypatch.setattr(qemu, "_attach", lambda *of: None)
        logged = ["QEMU process memory reading enabled"] if readable else []
        monkeypatch.setattr(qemu, "_messages_of_drgn", lambda: nullcontext(logged))

        def program(text: bytes) -> Program:
            # All that follows is as ever.
            raise TargetError(f"opened with {text!r}")

        monkeypatch.setattr(qemu, "new_program", program)
        device = {"return": [{"name": "device[0]", "type": "child<vmcoreinfo>"}]}
        answers = (
            *(GREETING, {"return": {}}, {"return": {"arch": "x86_64"}}, {"return": MTREE}),
            *({"return": []}, device, {"return": {}}, {"return": {"running": True}}),
            {"error": {"class": "GenericError", "desc": "migration in progress\x1b"}},
        )
        notes: list[str] = []
        scan = qemu._scan
        monkeypatch.setattr(qemu, "_scan", lambda at, ram, into, why: scan(at, ram, notes, why))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "qmp"))
            listener.listen()
            with (
                served(lambda: listener.accept()[0], answers, []) as heard,
                pytest.raises(TargetError) as caught,
            ):
                open_qemu(f"unix:{tmp_path}/qmp")
        assert heard[-1]["execute"] == "dump-guest-memory"
        refused = r"QEMU refused to dump it (migration in progress\x1b)"
        if readable:
            assert str(caught.value) == f"opened with {found!r}"
            assert notes == [
                f"VMCOREINFO was found in memory at physical address 0x1000; {refused}"
            ]
        else:
            assert str(caught.value).startswith(
                f"the guest's VMCOREINFO can't be had: {refused}, and to search its memory"
            )

    def test_where_ram_is(self) -> None:
        mine, theirs = socket.socketpair()
        with mine, served(lambda: theirs, (GREETING, {"return": {}}, {"return": MTREE})):
            assert qemu._ram_ranges(Monitor(mine)) == [
                (0, 0x9FFFF),
                (0x100000, 0x3FFFFFFF),
                (0x100000000, 0x14FFFFFFF),
            ]

    @pytest.mark.parametrize("text", ["", "no such command", MTREE.replace(" ram)", " ramd)")])
    def test_where_ram_is_not_told(self, text: str) -> None:
        text = text.replace("nv-ram", "i/o")
        mine, theirs = socket.socketpair()
        with mine, served(lambda: theirs, (GREETING, {"return": {}}, {"return": text})):
            monitor = Monitor(mine)
            with pytest.raises(MonitorError, match="where the guest has RAM"):
                qemu._ram_ranges(monitor)

    def test_nothing_is_read_outside_of_ram(self) -> None:
        """Not even by drgn itself, on its way through page tables that are no more."""
        reads: list[tuple[int, int]] = []

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            reads.append((address, count))
            return bytes(count)

        prog = Program(Platform(Architecture.X86_64))
        prog.add_memory_segment(0, (1 << 64) - 1, read, physical=True)
        ram = [(0, 0x9FFFF), (0x100000, 0x1FFFFF), (1 << 32, (1 << 33) - 1)]
        qemu._keep_to(ram, prog)
        for address in (0, 0x9FFF8, 0x100000, 0x1FFFF8, 1 << 32, (1 << 33) - 8):
            assert prog.read(address, 8, physical=True) == bytes(8)
        for address in (0xA0000, 0xFFFF8, 0x200000, (1 << 32) - 8, 1 << 33, 1 << 52, (1 << 64) - 9):
            with pytest.raises(FaultError, match="not RAM"):
                prog.read(address, 8, physical=True)
        # Across a bound, only what is RAM is asked for.
        with pytest.raises(FaultError, match="not RAM"):
            prog.read(0x9FFF8, 16, physical=True)
        assert all(any(s <= a and a + n - 1 <= e for s, e in ram) for a, n in reads)

    def test_listens_to_drgn_without_letting_more_be_shown(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("drgn")
        level = logger.level
        with qemu._messages_of_drgn() as messages:
            logger.debug("QEMU process memory reading enabled")
            logger.error("oh")
        assert messages == ["QEMU process memory reading enabled", "oh"]
        assert logger.level == level
        logger.error("later")
        assert len(messages) == 2
        assert "enabled" not in caplog.text


class TestMonitor:
    def test_events_come_in_between(self) -> None:
        mine, theirs = socket.socketpair()
        answers = (
            GREETING,
            {"return": {}},
            [event("STOP", 7, 250000), event("RESUME", 7, 500000), {"return": {"running": True}}],
        )
        with mine, served(lambda: theirs, answers) as heard:
            monitor = Monitor(mine)
            assert monitor.execute("query-status", {"a": 1}) == {"running": True}
            assert monitor.events == [QmpEvent("STOP", 7.25), QmpEvent("RESUME", 7.5)]
            assert monitor.wait_for("STOP").time == 7.25
            assert heard[-1] == {"execute": "query-status", "arguments": {"a": 1}}

    def test_waits_for_an_event(self) -> None:
        mine, theirs = socket.socketpair()
        answers = (GREETING, {"return": {}}, [{"return": {}}, event("RESUME", 1, 0)])
        with mine, served(lambda: theirs, answers):
            monitor = Monitor(mine)
            monitor.execute("cont")
            assert monitor.wait_for("RESUME") == QmpEvent("RESUME", 1.0)

    def test_file_descriptor_goes_along(self, tmp_path: Path) -> None:
        mine, theirs = socket.socketpair()
        received: list[int] = []
        answers = (GREETING, {"return": {}}, {"return": {}})
        with (
            mine,
            open(tmp_path / "file", "w+") as file,
            served(lambda: theirs, answers, received),
        ):
            Monitor(mine).execute("getfd", {"fdname": "x"}, file.fileno())
            (descriptor,) = received
            assert os.path.sameopenfile(descriptor, file.fileno())
            os.close(descriptor)

    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            ((), "connection was closed"),
            (({"hello": 1},), "no QMP greeting"),
            (("220 smtp ready",), "the answer is not QMP"),
            (("[]",), "the answer is not QMP"),
            ((GREETING, {"error": {"class": "X", "desc": "no coffee"}}), "no coffee"),
            ((GREETING, {"error": None}), "None"),
            ((GREETING, {"neither": 1}), "neither an answer nor an event"),
            ((GREETING, {"event": "STOP", "timestamp": 1}), "neither an answer nor an event"),
        ],
    )
    def test_what_is_no_monitor(self, answers: tuple[Any, ...], message: str) -> None:
        mine, theirs = socket.socketpair()
        with (
            mine,
            served(lambda: theirs, answers),
            pytest.raises(MonitorError, match=message),
        ):
            Monitor(mine)

    def test_no_answer(self) -> None:
        mine, theirs = socket.socketpair()
        mine.settimeout(0.1)
        with mine, theirs, pytest.raises(TimeoutError):
            Monitor(mine)

    def test_message_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vmemscope.target.qmp._MAX_MESSAGE", 1000)
        mine, theirs = socket.socketpair()
        with mine, theirs:
            theirs.sendall(b"{" * 2000)
            with pytest.raises(MonitorError, match="more than 1000 bytes"):
                Monitor(mine)


@contextmanager
def served(
    accept: Any, answers: tuple[Any, ...], received: list[int] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """
    Play a monitor: send the first answer, then one for each command, and hang up.

    :param accept: gets the socket to play on
    :param answers: a message each, or several in a list, or text
    :param received: gets file descriptors that come along
    :return: gets the commands
    """
    heard: list[dict[str, Any]] = []

    def play() -> None:
        with accept() as connection:
            for number, answer in enumerate(answers):
                if number:
                    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 4)
                    heard.append(json.loads(data))
                    if received is not None:
                        received.extend(descriptors)
                for message in answer if isinstance(answer, list) else [answer]:
                    text = message if isinstance(message, str) else json.dumps(message)
                    connection.sendall(text.encode() + b"\r\n")

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield heard
    finally:
        thread.join()


def event(name: str, seconds: int, microseconds: int) -> dict[str, Any]:
    timestamp = {"seconds": seconds, "microseconds": microseconds}
    return {"event": name, "data": {}, "timestamp": timestamp}


_SMTP = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listening", flush=True)
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"220 smtp ready\\r\\n")
"""
