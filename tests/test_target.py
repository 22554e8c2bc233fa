# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each way of not being able to look has its own message."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kdumpling import KdumpBuilder

from vmemscope.errors import ExitStatus, TargetError
from vmemscope.target import live, open_core, open_kernel, open_qemu, qemu


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
        with pytest.raises(TargetError, match=r"Is a directory|not a regular file"):
            open_core(str(tmp_path))

    @pytest.mark.parametrize("content", [b"", b"hello\n", b"\x7fEL", b"PK\3\4" + b"\0" * 100])
    def test_no_dump(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(TargetError, match="is not a kernel dump"):
            open_core(str(path))

    @pytest.mark.parametrize("magic", [b"\x7fELF", b"KDUMP   ", b"DISKDUMP", b"makedumpfile"])
    def test_cut_off_in_its_header(self, tmp_path: Path, magic: bytes) -> None:
        path = tmp_path / "vmcore"
        path.write_bytes(magic + b"\0" * 20)
        with pytest.raises(TargetError, match=r"cannot read .*vmcore.* damaged; compare its size"):
            open_core(str(path))

    def test_no_vmcoreinfo(self, tmp_path: Path) -> None:
        path = write_core(tmp_path / "vmcore", None)
        with pytest.raises(TargetError, match=r"has no VMCOREINFO.*-device vmcoreinfo"):
            open_core(str(path))

    def test_vmcoreinfo_without_what_translation_needs(self, tmp_path: Path) -> None:
        path = write_core(tmp_path / "vmcore", "OSRELEASE=6.1.0\n")
        with pytest.raises(TargetError, match="cannot read"):
            open_core(str(path))

    def test_vmcoreinfo_file_that_is_none(self, tmp_path: Path) -> None:
        path = write_core(tmp_path / "vmcore", None)
        (tmp_path / "note").write_text("nothing\n")
        with pytest.raises(TargetError, match="holds no VMCOREINFO"):
            open_core(str(path), str(tmp_path / "note"))
        with pytest.raises(TargetError, match=r"cannot read VMCOREINFO from .*: No such file"):
            open_core(str(path), str(tmp_path / "missing"))


class TestKernel:
    def test_no_kcore_names_the_other_targets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live, "_KCORE", str(tmp_path / "kcore"))
        with pytest.raises(TargetError, match=r"there is no .*-c.*--qemu.*--sim") as caught:
            open_kernel()
        assert caught.value.exit_status is ExitStatus.CANNOT_LOOK

    def test_without_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(TargetError, match=r"not permitted to read .*run as root"):
            open_kernel()

    def test_lockdown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lockdown = tmp_path / "lockdown"
        lockdown.write_text("none integrity [confidentiality]\n")

        def refuse(*args: object) -> int:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(live, "_LOCKDOWN", str(lockdown))
        with pytest.raises(TargetError, match="locked down"):
            open_kernel()


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
