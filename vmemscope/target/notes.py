# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Registers of the CPUs when a dump was made: ELF notes of type NT_PRSTATUS.

Each CPU has one, in order (``kernel/crash_core.c: crash_save_cpu()``; QEMU's
``dump/dump.c``). In a kdump file, flattened or not, they are where its sub-header says. The
layout of ``struct elf_prstatus`` is that of all 64-bit architectures: 112 bytes, then registers.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from .elf import note_segments
from .flattened import FRONT, reader_of
from .kdump import read_header

__all__ = ("Cpu", "read_cpus")

_NT_PRSTATUS = 1
#: offsets in struct elf_prstatus: pr_pid, pr_reg
_PID, _REGISTERS = 32, 112
#: after the registers: pr_fpvalid, and padding
_TAIL = 8
#: bytes of notes, CPUs and bytes of registers that are read
_MAX_NOTES, _MAX_CPUS, _MAX_REGISTERS = 64 << 20, 1 << 14, 1 << 10


class Cpu(NamedTuple):
    """A CPU when the dump was made."""

    #: of the process that it ran
    pid: int
    #: words, in the order of ``struct user_regs_struct``
    registers: tuple[int, ...]


def read_cpus(path: str, order: str) -> list[Cpu]:
    """
    Read the registers of a dump's CPUs, none if it has none or they can't be read.

    :param order: byte order of the kernel, ``<`` or ``>``
    """
    try:
        with open(path, "rb") as file:
            data = _notes(file.fileno())
    except (OSError, ValueError, struct.error):
        return []
    return [cpu for raw in _prstatus(data, order) if (cpu := _cpu(raw, order)) is not None]


def _notes(fd: int) -> bytes:
    read = reader_of(fd, FRONT)
    if os.pread(fd, 4, 0) == b"\x7fELF":
        places = list(note_segments(fd))
    else:
        header = read_header(read)
        places = [header.notes] if header is not None else []
    return b"".join(
        read(min(size, _MAX_NOTES), offset) for offset, size in places[:1] if offset < 1 << 63
    )


def _prstatus(data: bytes, order: str) -> Iterator[bytes]:
    """Yield the contents of each note of that type."""
    at = found = 0
    while at + 12 <= len(data) and found < _MAX_CPUS:
        name, size, kind = struct.unpack_from(f"{order}III", data, at)
        start = at + 12 + (name + 3 & ~3)
        if kind == _NT_PRSTATUS and data[at + 12 : at + 16] == b"CORE":
            found += 1
            yield data[start : start + size]
        at = start + (size + 3 & ~3)


def _cpu(raw: bytes, order: str) -> Cpu | None:
    words = (min(len(raw), _REGISTERS + _MAX_REGISTERS) - _REGISTERS - _TAIL) // 8
    if words <= 0:
        return None
    (pid,) = struct.unpack_from(f"{order}i", raw, _PID)
    return Cpu(pid, struct.unpack_from(f"{order}{words}Q", raw, _REGISTERS))
