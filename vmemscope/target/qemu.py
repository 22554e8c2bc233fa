# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A running QEMU guest, over its QMP monitor.

drgn reads the memory of the QEMU process if it is permitted to, and otherwise asks the
monitor. Reads are limited to RAM here: the registers of a device can change when they
are read, and a pointer of a structure that was just freed may point to them.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import TargetError
from .base import Target, check_note, new_program, read_vmcoreinfo, target_of
from .qmp import Monitor, MonitorError
from .virtual import complete

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("open_qemu",)

#: seconds to wait for an answer until the monitor counts as busy
_TIMEOUT = 5
_MAX_ADDRESS = (1 << 64) - 1


def open_qemu(address: str, vmcoreinfo: str | None = None) -> Target:
    """
    Attach to a guest.

    To read VMCOREINFO, QEMU writes a dump of one byte, and pauses the guest for that.
    A saved note avoids the pause. :attr:`Target.notes` says how long the pause was, and
    whether reads are slow.

    :param address: ``unix:PATH``, ``PATH`` or ``HOST:PORT``
    :param vmcoreinfo: path of a saved VMCOREINFO note
    :raises TargetError: if the monitor can't be reached or is busy, or the guest has no
        VMCOREINFO
    """
    saved = read_vmcoreinfo(vmcoreinfo) if vmcoreinfo is not None else None
    notes = []
    with _connect(address) as connection, _explained(address):
        connection.settimeout(_TIMEOUT)
        monitor = Monitor(connection)
        ram = _ram_ranges(monitor)
        if saved is None:
            if connection.family != socket.AF_UNIX:
                raise TargetError(
                    f"the guest's VMCOREINFO can't be read over TCP ({address})",
                    "give a Unix socket, or a saved note with --vmcoreinfo",
                )
            saved, pause = _fetch_vmcoreinfo(monitor, ram[0][0])
            if pause is not None:
                notes.append(
                    f"the guest was paused for {pause * 1000:.1f} ms to read its VMCOREINFO;"
                    " to avoid this pause, save the note once with 'vmemscope vmcoreinfo' and"
                    " pass it with --vmcoreinfo"
                )
    prog = new_program(saved)
    with _connect(address) as connection, _messages_of_drgn() as messages:
        # A monitor that serves another client sends no greeting. drgn would wait for it
        # for ever, so it gets a socket with a timeout.
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TIMEOUT, 0))
        with _explained(address):
            prog.set_qemu_qmp(os.dup(connection.fileno()))
    _keep_to(ram, prog)
    prog.set_linux_kernel_custom(saved, True)
    complete(prog)
    check_note(prog, vmcoreinfo, f"the guest at {address}")
    if not any("memory reading enabled" in message for message in messages):
        why = next((m.partition("disabled: ")[2] for m in messages if "disabled: " in m), "")
        notes.append(
            "reads are slow: they go through the monitor, because the memory of the QEMU process"
            f" can't be read{f' ({why})' if why else ''}; run on its host, as its user or as root"
        )
    return target_of(prog, "qemu", address, _no_vmcoreinfo(), tuple(notes))


def _no_vmcoreinfo() -> TargetError:
    return TargetError(
        "the guest has no VMCOREINFO",
        "start QEMU with -device vmcoreinfo and load qemu_fw_cfg in the guest,"
        " or give a saved note with --vmcoreinfo",
    )


def _connect(address: str) -> socket.socket:
    path = address.removeprefix("unix:")
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdecimal() and not address.startswith("unix:"):
            return socket.create_connection((host.removeprefix("tcp:"), int(port)), _TIMEOUT)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
    except (OSError, OverflowError) as e:
        raise TargetError(
            f"cannot connect to QMP at {address}: {getattr(e, 'strerror', None) or e}",
            "start QEMU with -qmp unix:PATH,server=on,wait=off",
        ) from e
    return connection


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turn errors of the monitor into errors that say what to do."""
    try:
        yield
    except TargetError:
        raise
    except (BlockingIOError, TimeoutError):
        raise TargetError(
            f"no answer from QMP at {address} within {_TIMEOUT} s",
            "a monitor serves one client at a time: close the other, or give QEMU a second -qmp",
        ) from None
    except Exception as e:
        # drgn raises BadDataError, OSError and plain Exception; none is an internal error.
        raise TargetError(f"cannot talk QMP at {address}: {e}") from e


def _ram_ranges(monitor: Monitor) -> list[tuple[int, int]]:
    """
    Ask QEMU where the guest has RAM and nvdimms.

    :return: first and last physical address of each range, in order, not adjacent
    """
    text = str(monitor.execute("human-monitor-command", {"command-line": "info mtree -f"}))
    # FlatView #N
    #  AS "memory", root: system
    #  ...
    #  Root memory region: system
    #   0000000000000000-000000000009ffff (prio 0, ram): pc.ram
    found = []
    for view in text.split("FlatView")[1:]:
        if re.search(r'^\s*AS "memory"', view, re.M):
            found = re.findall(
                r"^\s*([0-9a-f]+)-([0-9a-f]+) \(prio -?\d+, (?:nv-)?ram\)", view, re.M
            )
            break
    if not found:
        raise MonitorError("QEMU does not say where the guest has RAM (info mtree -f)")
    merged: list[tuple[int, int]] = []
    for start, end in sorted((int(start, 16), int(end, 16)) for start, end in found):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _fetch_vmcoreinfo(monitor: Monitor, address: int) -> tuple[bytes, float | None]:
    """
    Have QEMU write a dump of one byte, and read the notes in it.

    :param address: physical address of RAM
    :return: VMCOREINFO; and the seconds that the guest was paused, ``None`` if it was
        not running
    :raises TargetError: if the dump has no VMCOREINFO
    """
    from drgn import Program

    fd = os.memfd_create("vmemscope-dump")
    try:
        monitor.execute("getfd", {"fdname": "vmemscope-dump"}, fd)
        running = bool(monitor.execute("query-status").get("running"))
        monitor.execute(
            "dump-guest-memory",
            {
                "paging": False,
                "protocol": "fd:vmemscope-dump",
                "begin": address,
                "length": 1,
            },
        )
        pause = None
        if running:
            pause = monitor.wait_for("RESUME").time - monitor.wait_for("STOP").time
        dump = Program()
        try:
            # drgn closes the descriptor, and rejects a dump of a guest that is not
            # known to run Linux.
            dump.set_core_dump(os.dup(fd))
            vmcoreinfo: bytes = dump["VMCOREINFO"].string_()
        except (LookupError, ValueError):
            raise _no_vmcoreinfo() from None
        return vmcoreinfo, pause
    finally:
        os.close(fd)


def _keep_to(ram: list[tuple[int, int]], prog: Program) -> None:
    """Make every read outside RAM fail."""
    start = 0
    for first, last in [*ram, (_MAX_ADDRESS + 1, _MAX_ADDRESS + 1)]:
        if start < first:
            prog.add_memory_segment(start, min(first, _MAX_ADDRESS) - start, _refuse, True)
        start = last + 1


def _refuse(address: int, count: int, offset: int, physical: bool) -> bytes:
    from drgn import FaultError

    raise FaultError("not RAM of the guest", address)


@contextmanager
def _messages_of_drgn() -> Iterator[list[str]]:
    """
    Collect drgn's log messages: only they say how it reads memory.

    :return: list that gets the messages, of all levels
    """
    logger = logging.getLogger("drgn")
    level, messages = logger.level, []
    shown = logger.getEffectiveLevel()

    def collect(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        # Show only what would be shown without this filter.
        return record.levelno >= shown

    logger.addFilter(collect)
    logger.setLevel(logging.DEBUG)
    try:
        yield messages
    finally:
        logger.setLevel(level)
        logger.removeFilter(collect)
