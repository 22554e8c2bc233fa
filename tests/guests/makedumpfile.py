# SPDX-License-Identifier: LGPL-2.1-or-later
"""
makedumpfile, and what it does not do.

Debian 12's knows neither zstd nor recent kernels, so the one of testing is unpacked
beside the kernels, with the libraries that it is linked with, and run with its
own dynamic linker: nothing is installed. It reads ``/proc/vmcore`` and expects
a dump to look like one, which QEMU's do not: :func:`with_kernel_addresses`. None of
Debian's programs writes snappy: :func:`with_snappy`.
"""

from __future__ import annotations

import functools
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .packages import _locked, _retry, _Suite, cache_directory, unpack_packages

__all__ = ("makedumpfile", "with_kernel_addresses", "with_snappy", "without_frames")

_SUITE = "forky"
_PAGE = 4096
#: program headers: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1


@functools.cache
def _command() -> tuple[str, ...]:
    with _locked(cache_directory()):
        root = _retry("makedumpfile", _unpack)
    (linker,) = root.glob("usr/lib*/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    libraries = str(linker.parent)
    return str(linker), "--library-path", libraries, str(root / "usr/bin/makedumpfile")


def _unpack() -> Path:
    suite = _Suite(_SUITE)
    suite.update()
    found = suite.closure(["makedumpfile"])
    # A path of libraries has colons in between.
    version = found["makedumpfile"].replace(":", "_")
    directory = cache_directory() / "makedumpfile" / version
    unpack_packages(suite, found, directory)
    return directory


def makedumpfile(source: Path, target: Path, *options: str) -> Path:
    """
    Run makedumpfile on the dump of a guest.

    :param source: as a kernel's ``/proc/vmcore`` looks
    :param target: file to write
    :param options: with ``-F``, what it writes to its standard output is the file
    """
    command = [*_command(), "--message-level", "4", *options, str(source)]
    with target.open("wb") as file:
        flattened = "-F" in options
        # It does not overwrite files.
        if not flattened:
            target.unlink()
            command.append(str(target))
        result = subprocess.run(command, stdout=file if flattened else None, stderr=subprocess.PIPE)
    assert result.returncode == 0, result.stderr.decode()
    return target


def _read_headers(path: Path) -> tuple[bytearray, list[list[int]]]:
    """Read an ELF file's header and its program headers."""
    with path.open("rb") as file:
        header = bytearray(file.read(64))
        (offset,) = struct.unpack_from("<Q", header, 32)
        (count,) = struct.unpack_from("<H", header, 56)
        file.seek(offset)
        table = file.read(count * _PHDR.size)
    return header, [list(fields) for fields in _PHDR.iter_unpack(table)]


def _write_headers(path: Path, header: bytearray, table: list[list[int]], offset: int) -> None:
    # No section headers: e_phoff, e_shoff; e_ehsize, e_phentsize, e_phnum, the rest of sections.
    struct.pack_into("<QQ", header, 32, offset, 0)
    struct.pack_into("<HHHHHH", header, 52, 64, _PHDR.size, len(table), 0, 0, 0)
    with path.open("r+b") as file:
        file.write(header)
        file.seek(offset)
        file.write(b"".join(_PHDR.pack(*fields) for fields in table))


def with_kernel_addresses(source: Path, target: Path, page_offset: int) -> Path:
    """
    Copy a dump that QEMU wrote, with headers as in ``/proc/vmcore``.

    QEMU's segments have their physical address for a virtual one, and their headers
    are not where makedumpfile looks for them.

    :param page_offset: virtual address of the kernel's direct map
    """
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    header, table = _read_headers(target)
    for fields in table:
        if fields[0] == _PT_LOAD:
            fields[3] = page_offset + fields[4]
    # There were section headers in between.
    _write_headers(target, header, table, 64)
    return target


def without_frames(path: Path, frames: Sequence[int]) -> None:
    """
    Take frames out of an ELF dump, in place, as ``makedumpfile -E`` leaves them out.

    Their content stays in the file, but no segment has it: where it was,
    one ends in the file and goes on in memory. Of a file that this was done to
    before, all other frames come back.

    :param frames: physical addresses in bytes
    """
    header, table = _read_headers(path)
    whole: list[list[int]] = []
    for fields in table:
        previous = whole[-1] if whole else None
        # Two that follow one another in memory and in the file were one.
        if (
            previous is not None
            and previous[0] == fields[0] == _PT_LOAD
            and previous[4] + previous[6] == fields[4]
            and previous[2] + previous[6] == fields[2]
        ):
            previous[5:7] = previous[6] + fields[5], previous[6] + fields[6]
        else:
            whole.append(fields)
    cut: list[list[int]] = []
    for fields in whole:
        inside = [
            frame
            for frame in sorted(set(frames))
            if fields[0] == _PT_LOAD and fields[4] <= frame < fields[4] + fields[6]
        ]
        for frame in inside:
            size = frame - fields[4]
            cut.append([*fields[:5], size, size + _PAGE, fields[7]])
            step = size + _PAGE
            fields = [*fields[:2], *(value + step for value in fields[2:5]), *fields[5:]]
            fields[5:7] = fields[5] - step, fields[6] - step
        cut.append(fields)
    # After the contents, once and for all: there is no room for more before them.
    end = max(fields[2] + fields[5] for fields in whole)
    _write_headers(path, header, cut, end)


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
