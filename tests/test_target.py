# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each reason why a target can't be read has its own message."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from drgn import Architecture, FaultError, Platform, Program
from kdumpling import KdumpBuilder

from vmemscope.errors import ExitStatus, TargetError
from vmemscope.target import live, open_core, open_live, open_qemu, qemu
from vmemscope.target.qmp import Event, Monitor, MonitorError

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
            answers = (GREETING, {"return": {}}, {"return": MTREE})
            with served(lambda: listener.accept()[0], answers) as heard:
                with pytest.raises(TargetError, match=r"over TCP.*--vmcoreinfo"):
                    open_qemu(address)
                assert [command["execute"] for command in heard] == [
                    "qmp_capabilities",
                    "human-monitor-command",
                ]

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
            assert monitor.events == [Event("STOP", 7.25), Event("RESUME", 7.5)]
            assert monitor.wait_for("STOP").time == 7.25
            assert heard[-1] == {"execute": "query-status", "arguments": {"a": 1}}

    def test_waits_for_an_event(self) -> None:
        mine, theirs = socket.socketpair()
        answers = (GREETING, {"return": {}}, [{"return": {}}, event("RESUME", 1, 0)])
        with mine, served(lambda: theirs, answers):
            monitor = Monitor(mine)
            monitor.execute("cont")
            assert monitor.wait_for("RESUME") == Event("RESUME", 1.0)

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
