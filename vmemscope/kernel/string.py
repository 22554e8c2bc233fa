# SPDX-License-Identifier: LGPL-2.1-or-later
"""Strings of the kernel, such as the names of devices and resources."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("read_string",)

#: no page of any kernel is smaller, so that what is in one with the start of a
#: string can be read if the string can
_PAGE = 4096


def read_string(prog: Program, address: int, max_size: int) -> bytes:
    """
    Read a string without its end, as ``Program.read_c_string()`` does.

    That one reads byte by byte, which takes a third of a second a string where
    each read is a question to QEMU's monitor.

    :param address: virtual address
    :param max_size: bytes read at the most
    :raises drgn.FaultError: if it can't be read
    :raises OSError: if the target is gone, or refuses
    """
    data = b""
    while b"\0" not in data and len(data) < max_size:
        start = address + len(data)
        data += prog.read(start, min(max_size - len(data), _PAGE - start % _PAGE))
    return data.partition(b"\0")[0]
