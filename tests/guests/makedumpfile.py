# SPDX-License-Identifier: LGPL-2.1-or-later
"""
makedumpfile of each architecture, and what it does not do.

Debian 12's knows neither zstd nor recent kernels, so the one of unstable is unpacked
beside the kernels, with the libraries that it is linked with, and run with its
own dynamic linker: nothing is installed. That of another architecture is run by QEMU's
emulation of a process. It reads ``/proc/vmcore`` and expects a dump to look like one,
which QEMU's do not (:mod:`.proc_vmcore`). None of Debian's programs writes snappy:
:func:`with_snappy`.
"""

from __future__ import annotations

import functools
import struct
import subprocess
from pathlib import Path

from .machines import MACHINES
from .packages import get_makedumpfile

__all__ = ("MakedumpfileError", "makedumpfile", "with_snappy")


class MakedumpfileError(Exception):
    """makedumpfile could not do what was asked of it; the message is what it printed."""


@functools.cache
def _command(arch: str) -> tuple[str, ...]:
    root = get_makedumpfile(arch)
    (linker,) = root.glob("usr/lib*/*-linux-gnu/ld*.so.*")
    libraries = str(linker.parent)
    emulator = MACHINES[arch].user
    program = (str(linker), "--library-path", libraries, str(root / "usr/bin/makedumpfile"))
    return (emulator, *program) if emulator else program


def makedumpfile(source: Path, target: Path, *options: str, arch: str = "amd64") -> Path:
    """
    Run makedumpfile on the dump of a guest.

    :param source: as a kernel's ``/proc/vmcore`` looks
    :param target: file to write
    :param options: with ``-F``, what it writes to its standard output is the file
    :param arch: Debian's name of the guest's architecture
    :raises MakedumpfileError: if it refuses
    """
    command = [*_command(arch), "--message-level", "4", *options, str(source)]
    with target.open("wb") as file:
        flattened = "-F" in options
        # It does not overwrite files.
        if not flattened:
            target.unlink()
            command.append(str(target))
        result = subprocess.run(command, stdout=file if flattened else None, stderr=subprocess.PIPE)
    if result.returncode:
        raise MakedumpfileError(result.stderr.decode())
    return target


def with_snappy(source: Path, target: Path) -> Path:
    """
    Compress the pages of a kdump file with snappy, and leave the machine out as QEMU does.

    :param source: not compressed and not flattened
    """
    data = source.read_bytes()
    block, sub_header, bitmap = struct.unpack_from("<III", data, 428)
    start = (1 + sub_header + bitmap) * block
    (first,) = struct.unpack_from("<Q", data, start)
    head = bytearray(data[:first])
    # struct disk_dump_header: utsname, status
    head[12:402] = bytes(390)
    struct.pack_into("<I", head, 424, 4)
    # The pages begin behind the last descriptor.
    placed: dict[int, tuple[int, int, int]] = {}
    with target.open("wb") as file:
        file.seek(len(head))
        for position in range(start, first - 23, 24):
            offset, size, flags = struct.unpack_from("<QII", data, position)
            assert not flags
            # All pages of zeros are one.
            if offset not in placed:
                page = data[offset : offset + size]
                packed = _snappy(page)
                stored, flag = (packed, 4) if len(packed) < size else (page, 0)
                placed[offset] = file.tell(), len(stored), flag
                file.write(stored)
            struct.pack_into("<QII", head, position, *placed[offset])
        file.seek(0)
        file.write(head)
    return target


def _snappy(page: bytes) -> bytes:
    # format_description.txt of snappy: the length as varint, then literals and, where
    # 64 bytes are the same as the 64 before, copies. Both have a length of up to 64,
    # less 1, in the upper six bits of their tag; a literal up to 60.
    parts = [struct.pack("<BB", len(page) & 0x7F | 0x80, len(page) >> 7)]
    previous = b""
    for at in range(0, len(page), 64):
        piece = page[at : at + 64]
        if piece == previous:
            parts.append(struct.pack("<BH", 63 << 2 | 2, 64))
        else:
            # A literal of more than 60 bytes: tag 60, its length less 1 in a byte.
            parts.append(struct.pack("<BB", 60 << 2, len(piece) - 1) + piece)
        previous = piece
    return b"".join(parts)
