# SPDX-License-Identifier: LGPL-2.1-or-later
"""A running QEMU guest, over its QMP monitor."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from ..errors import TargetError
from .base import Target, new_program, read_vmcoreinfo, target_of

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("open_qemu",)

#: seconds that an answer on the socket may take before the monitor counts as busy
_TIMEOUT = 5


def open_qemu(address: str, vmcoreinfo: str | None = None) -> Target:
    """
    Attach to a guest. Getting VMCOREINFO pauses it for a moment (QEMU writes
    a dump of one byte), unless it is given.

    :param address: ``unix:PATH``, ``PATH`` or ``HOST:PORT``
    :param vmcoreinfo: path of a saved VMCOREINFO note
    :raises TargetError: if the monitor can't be reached, is busy, or the
        guest tells no VMCOREINFO
    """
    saved = read_vmcoreinfo(vmcoreinfo) if vmcoreinfo is not None else None
    prog = new_program(vmcoreinfo)
    with _connect(address) as monitor:
        # drgn would wait for ever for a greeting from a monitor that serves
        # somebody else, so it gets a socket that gives up, and owns it.
        monitor.setblocking(True)
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TIMEOUT, 0))
        _set_qemu_qmp(prog, os.dup(monitor.fileno()), address)
    if saved is not None:
        prog.set_linux_kernel_custom(saved, True)
    return target_of(
        prog,
        "qemu",
        address,
        TargetError(
            "the guest tells no VMCOREINFO",
            "start QEMU with -device vmcoreinfo and load qemu_fw_cfg in the guest,"
            " or give a saved note with --vmcoreinfo",
        ),
    )


def _connect(address: str) -> socket.socket:
    path = address.removeprefix("unix:")
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdecimal() and not address.startswith("unix:"):
            return socket.create_connection((host.removeprefix("tcp:"), int(port)), _TIMEOUT)
        monitor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            monitor.connect(path)
        except OSError:
            monitor.close()
            raise
    except OSError as e:
        raise TargetError(
            f"cannot connect to QMP at {address}: {e.strerror or e}",
            "start QEMU with -qmp unix:PATH,server=on,wait=off",
        ) from e
    return monitor


def _set_qemu_qmp(prog: Program, fd: int, address: str) -> None:
    try:
        prog.set_qemu_qmp(fd)
    except BlockingIOError:
        raise TargetError(
            f"no answer from QMP at {address} within {_TIMEOUT} s",
            "a monitor serves one client at a time: close the other, or give QEMU a second -qmp",
        ) from None
    except Exception as e:
        # drgn raises BadDataError, OSError and plain Exception here; none is a bug of ours.
        raise TargetError(f"cannot talk QMP at {address}: {e}") from e
