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
from typing import TYPE_CHECKING, Any

from ..arch import architecture_of_qemu
from ..errors import TargetError, UnsupportedError, UsageError, VmemscopeError
from ..text import printable
from ..vmcoreinfo import parse
from .base import Target, check_note, new_program, read_vmcoreinfo, set_kernel, target_of
from .elf import read_note
from .qmp import Monitor, MonitorError
from .scan import least_program, notes_in_memory
from .virtual import complete, found_by_walk

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("open_qemu",)

#: seconds to wait for an answer until the monitor counts as busy
_TIMEOUT = 5
_MAX_PORT = 65535
_MAX_ADDRESS = (1 << 64) - 1


def open_qemu(address: str, vmcoreinfo: str | None = None) -> Target:
    """
    Attach to a guest.

    To read VMCOREINFO, QEMU writes a dump of one byte, and pauses the guest for that.
    A saved note avoids the pause. Without ``-device vmcoreinfo``, and while QEMU refuses
    (it migrates the guest), it is searched for in the guest's memory. :attr:`Target.notes`
    says how long the pause was, where the note was found, and whether reads are slow.

    :param address: ``unix:PATH``, ``PATH`` or ``HOST:PORT``
    :param vmcoreinfo: path of a saved VMCOREINFO note
    :raises TargetError: if the monitor can't be reached or is busy, or the guest has no
        VMCOREINFO
    """
    saved = read_vmcoreinfo(vmcoreinfo) if vmcoreinfo is not None else None
    notes, refused = [], ""
    with _connect(address) as connection, _explained(address):
        connection.settimeout(_TIMEOUT)
        monitor = Monitor(connection)
        _check_architecture(monitor)
        ram = _ram_ranges(monitor)
        if saved is None and connection.family != socket.AF_UNIX:
            # No file descriptor can be passed, and drgn reads through the monitor.
            raise TargetError(
                f"the guest's VMCOREINFO can't be read over TCP ({address})",
                "give a Unix socket, or a saved note with --vmcoreinfo",
            )
        if saved is None and _has_device(monitor):
            try:
                saved, pause = _fetch_vmcoreinfo(monitor, ram[0][0])
            except _RefusedError as e:
                refused = f"QEMU refused to dump it ({printable(str(e).encode())})"
            if saved is not None and pause is not None:
                notes.append(
                    f"the guest was paused for {pause * 1000:.1f} ms to read its VMCOREINFO;"
                    " to avoid this pause, save the note once with 'vmemscope vmcoreinfo' and"
                    " pass it with --vmcoreinfo"
                )
    if saved is None:
        saved = _scan(address, ram, notes, refused)
    prog = new_program(saved)
    with _messages_of_drgn() as messages:
        _attach(prog, address, ram)
    set_kernel(prog, saved, live=True)
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
        "the guest has no VMCOREINFO, and none is in its memory",
        "does it run a Linux kernel? One without CONFIG_CRASH_DUMP and CONFIG_KEXEC has none",
    )


def _attach(prog: Program, address: str, ram: list[tuple[int, int]]) -> None:
    """Set a program that has a VMCOREINFO to a guest's memory."""
    with _connect(address) as connection:
        # A monitor that serves another client sends no greeting. drgn would wait for it
        # for ever, so it gets a socket with a timeout.
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TIMEOUT, 0))
        with _explained(address):
            prog.set_qemu_qmp(os.dup(connection.fileno()))
    _keep_to(ram, prog)


class _RefusedError(MonitorError):
    """QEMU writes no dump now: it migrates the guest, or takes a snapshot of it."""


def _scan(address: str, ram: list[tuple[int, int]], notes: list[str], refused: str) -> bytes:
    """
    Find the VMCOREINFO in a guest's memory.

    :param notes: gets where it was
    :param refused: why QEMU did not give it, empty if it has no device for it
    :raises TargetError: if there is none that fits what is in memory
    :raises UnsupportedError: if none fits, and one is of a kernel that is not supported
    """
    prog = least_program(None, "OSRELEASE")
    with _messages_of_drgn() as messages:
        _attach(prog, address, ram)
    if not any("memory reading enabled" in message for message in messages):
        raise TargetError(
            f"the guest's VMCOREINFO can't be had: {refused}{', and ' if refused else ''}to search"
            " its memory through the monitor takes too long",
            "run on QEMU's host, as its user or as root; start QEMU with -device vmcoreinfo; or"
            " give a saved note with --vmcoreinfo",
        )
    others: list[str] = []
    unsupported: UnsupportedError | None = None
    for where, text in notes_in_memory(prog, ram):
        try:
            fits = found_by_walk(prog, text)
        except UnsupportedError as e:
            fits, unsupported = False, unsupported or e
        if fits:
            message = f"VMCOREINFO was found in memory at physical address {where:#x}"
            if others:
                message += f"; it fits the kernel there, others do not ({', '.join(others)})"
            if refused:
                message += f"; {refused}"
            notes.append(message)
            return text
        release = printable(parse(text).get("OSRELEASE", "unknown").encode())
        others.append(f"{release} at {where:#x}")
    raise unsupported or _no_vmcoreinfo()


def _address(address: str) -> str | tuple[str, int]:
    """
    Return the path of a socket, or host and port.

    :raises UsageError: if an address is neither
    """
    host, colon, port = address.removeprefix("tcp:").rpartition(":")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if path:
            return path
    elif not colon or "/" in address:
        return address
    elif host and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= _MAX_PORT:
        # An IPv6 address is in brackets, to be told from its port.
        return host.removeprefix("[").removesuffix("]"), int(port)
    raise UsageError(
        f"{address!r} is no QMP address", f"give unix:PATH, or HOST:PORT (1 to {_MAX_PORT})"
    )


def _connect(address: str) -> socket.socket:
    where = _address(address)
    try:
        if isinstance(where, tuple):
            return socket.create_connection(where, _TIMEOUT)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(where)
        except OSError:
            connection.close()
            raise
    except OSError as e:
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
    except VmemscopeError:
        raise
    except (BlockingIOError, TimeoutError):
        raise TargetError(
            f"no answer from QMP at {address} within {_TIMEOUT} s",
            "a monitor serves one client at a time: close the other, or give QEMU a second -qmp",
        ) from None
    except Exception as e:
        # drgn raises BadDataError, OSError and plain Exception; none is an internal error.
        raise TargetError(f"cannot talk QMP at {address}: {e}") from e


def _check_architecture(monitor: Monitor) -> None:
    """
    Check what QEMU emulates, before anything of the guest is read.

    :raises UnsupportedError: if it is not supported
    """
    try:
        target: Any = monitor.execute("query-target")
    except MonitorError:
        # Something between it and QEMU does not pass it on.
        return
    if isinstance(target, dict) and isinstance(name := target.get("arch"), str):
        architecture_of_qemu(printable(name.encode("utf-8", "replace")))


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


def _has_device(monitor: Monitor) -> bool:
    """Return whether QEMU has a ``-device vmcoreinfo``: without one, its dumps have no note."""
    found: list[object] = []
    for path in ("/machine/peripheral", "/machine/peripheral-anon"):
        try:
            children: Any = monitor.execute("qom-list", {"path": path})
        except MonitorError:
            # An old QEMU, or no such path.
            return True
        if isinstance(children, list):
            found += [child.get("type") for child in children if isinstance(child, dict)]
    return "child<vmcoreinfo>" in found


def _fetch_vmcoreinfo(monitor: Monitor, address: int) -> tuple[bytes | None, float | None]:
    """
    Have QEMU write a dump of one byte, and read the notes in it.

    :param address: physical address of RAM
    :return: VMCOREINFO, ``None`` if the dump has none; and the seconds that the guest was
        paused, ``None`` if it was not running
    :raises _RefusedError: if QEMU writes no dump
    """
    fd = os.memfd_create("vmemscope-dump")
    try:
        monitor.execute("getfd", {"fdname": "vmemscope-dump"}, fd)
        running = bool(monitor.execute("query-status").get("running"))
        wanted = {"paging": False, "protocol": "fd:vmemscope-dump", "begin": address, "length": 1}
        try:
            monitor.execute("dump-guest-memory", wanted)
        except MonitorError as e:
            raise _RefusedError(*e.args) from None
        pause = None
        if running:
            pause = monitor.wait_for("RESUME").time - monitor.wait_for("STOP").time
        return read_note(f"/proc/self/fd/{fd}"), pause
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
