# SPDX-License-Identifier: LGPL-2.1-or-later
"""Strings of the kernel: names of devices and resources."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("read_string",)

#: the smallest page of any kernel: if a string can be read, so can the rest of its page
_PAGE = 4096


def read_string(prog: Program, address: int, max_size: int) -> bytes:
    """
    Read a string without its terminating zero, as ``Program.read_c_string()`` does.

    ``read_c_string()`` reads byte by byte, which takes 0.3 s a string if each read is
    a command to QEMU's monitor.

    :param address: virtual address
    :param max_size: bytes to read at most
    :raises drgn.FaultError: if the memory can't be read
    :raises OSError: if the target is gone, or refuses
    """
    data = b""
    while b"\0" not in data and len(data) < max_size:
        start = address + len(data)
        data += prog.read(start, min(max_size - len(data), _PAGE - start % _PAGE))
    return data.partition(b"\0")[0]
