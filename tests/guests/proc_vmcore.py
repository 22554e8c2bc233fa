# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Headers of a dump as in ``/proc/vmcore``, which makedumpfile expects.

In: an ELF dump that QEMU wrote. Out: a copy, or the file itself, with other headers; the
memory in it stays where it is. QEMU's segments have their physical address for a virtual
one, its headers are not where makedumpfile looks for them, those of ppc64 are big-endian
for little-endian kernels, too, and without a ``-device vmcoreinfo`` there is no VMCOREINFO.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ("with_kernel_addresses", "without_frames")

_PAGE = 4096
#: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_PHDR = "IIQQQQQQ"
_PHDR_SIZE = 56
_PT_LOAD, _PT_NOTE = 1, 4
#: EI_DATA by byte order
_DATA = {"<": 1, ">": 2}


class _Headers(NamedTuple):
    #: of the file
    order: str
    header: bytearray
    table: list[list[int]]


def _read_headers(path: Path) -> _Headers:
    """Read an ELF file's header and its program headers."""
    with path.open("rb") as file:
        header = bytearray(file.read(64))
        order = "<" if header[5] == _DATA["<"] else ">"
        (offset,) = struct.unpack_from(f"{order}Q", header, 32)
        (count,) = struct.unpack_from(f"{order}H", header, 56)
        file.seek(offset)
        table = file.read(count * _PHDR_SIZE)
    return _Headers(
        order, header, [list(fields) for fields in struct.iter_unpack(order + _PHDR, table)]
    )


def _write_headers(path: Path, headers: _Headers, offset: int) -> None:
    order, header, table = headers
    # No section headers: e_phoff, e_shoff; e_ehsize, e_phentsize, e_phnum, the rest of sections.
    struct.pack_into(f"{order}QQ", header, 32, offset, 0)
    struct.pack_into(f"{order}HHHHHH", header, 52, 64, _PHDR_SIZE, len(table), 0, 0, 0)
    with path.open("r+b") as file:
        file.write(header)
        file.seek(offset)
        file.write(b"".join(struct.pack(order + _PHDR, *fields) for fields in table))


def with_kernel_addresses(
    source: Path, target: Path, page_offset: int, *, order: str = "<", vmcoreinfo: bytes = b""
) -> Path:
    """
    Copy a dump that QEMU wrote, with headers as in ``/proc/vmcore``.

    :param page_offset: virtual address of the kernel's direct map, where it has physical
        address 0
    :param order: byte order of the kernel
    :param vmcoreinfo: text of a note to add
    """
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    found = _read_headers(target)
    header = found.header
    if found.order != order:
        header[5] = _DATA[order]
        # e_type, e_machine, e_version; e_flags
        for form, at in (("HHI", 16), ("I", 48)):
            fields = struct.unpack_from(found.order + form, header, at)
            struct.pack_into(order + form, header, at, *fields)
    with target.open("r+b") as file:
        for one in found.table:
            if one[0] == _PT_LOAD:
                one[3] = (page_offset + one[4]) % (1 << 64)
            elif one[0] == _PT_NOTE:
                file.seek(one[2])
                notes = _reordered(file.read(one[5]), found.order, order)
                if vmcoreinfo:
                    notes += _note(vmcoreinfo, order)
                # There is no room for more before the memory.
                one[2] = file.seek(0, 2)
                one[5] = one[6] = len(notes)
                file.write(notes)
    # There were section headers in between.
    _write_headers(target, _Headers(order, header, found.table), 64)
    return target


def _reordered(notes: bytes, before: str, after: str) -> bytes:
    """Write the headers of notes in another byte order; not what is in them."""
    data, at = bytearray(notes), 0
    while at + 12 <= len(data):
        name, size, kind = struct.unpack_from(f"{before}III", data, at)
        struct.pack_into(f"{after}III", data, at, name, size, kind)
        at += 12 + (name + 3 & ~3) + (size + 3 & ~3)
    return bytes(data)


def _note(text: bytes, order: str) -> bytes:
    name = b"VMCOREINFO"
    padded = (name + b"\0").ljust(12, b"\0")
    # The kernel's has type 0.
    head = struct.pack(f"{order}III", len(name) + 1, len(text), 0)
    return head + padded + text + bytes(-len(text) % 4)


def without_frames(path: Path, frames: Sequence[int]) -> None:
    """
    Take frames out of an ELF dump, in place, as ``makedumpfile -E`` leaves them out.

    Their content stays in the file, but no segment has it: where it was,
    one ends in the file and goes on in memory. Of a file that this was done to
    before, all other frames come back.

    :param frames: physical addresses in bytes
    """
    order, header, table = _read_headers(path)
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
    _write_headers(path, _Headers(order, header, cut), end)
