# SPDX-License-Identifier: LGPL-2.1-or-later
"""
ELF dumps with segments that are shorter in the file than in memory.

``makedumpfile -E`` leaves pages out by ending a PT_LOAD segment in the file
(``p_filesz``) before it ends in memory (``p_memsz``). QEMU does so for memory that it
does not write. ELF says that the rest reads as zeros, and drgn follows it. But a page
table of zeros would be a hole, and a ``struct page`` of zeros a corrupt one. So
:func:`add_segments` adds segments over these pieces whose reads fail, also for drgn's
own reads (page tables, XArray nodes).

The headers come from the target and are not trusted: their number is bounded, and
sums are cut off at 64 bits.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from drgn import FaultError

from ..arch import architecture_of_elf
from ..errors import TargetError
from ..vmcoreinfo import NOTE_NAME, note_text
from .base import new_program, set_kernel

if TYPE_CHECKING:
    from drgn import Platform, Program

__all__ = (
    "NOT_IN_DUMP",
    "AbsentPiece",
    "Load",
    "absent_pieces",
    "add_segments",
    "cut_off",
    "drgn_misreads",
    "note_segments",
    "open_segments",
    "platform_of_elf",
    "read_elf",
    "read_note",
)

#: why a page can't be read
NOT_IN_DUMP = "not in the dump (filtered or cut off)"

_DUMP_ELF_INCOMPLETE = 1
_EHDR_SIZE = 64
_E_MACHINE = 18
_PHDR_SIZE = 56
_PT_LOAD = 1
_PT_NOTE = 4
_NOTE_HEADER = 12
#: bytes of notes: one for each CPU, and VMCOREINFO
_MAX_NOTES = 64 << 20
#: e_phnum of a file whose number of program headers is in sh_info of the first section
#: header
_PN_XNUM = 0xFFFF
_SH_INFO = 44

#: program headers read of one file: makedumpfile makes one for each run of 256 or more
#: pages that it leaves out; 2^20 of them are a terabyte
_MAX_HEADERS = 1 << 20

_END = 1 << 64
#: p_paddr of a segment without a physical address (makedumpfile: NOT_PADDR)
_NO_PADDR = _END - 1


class Load(NamedTuple):
    """A PT_LOAD segment; addresses and sizes in bytes."""

    offset: int
    vaddr: int
    paddr: int
    #: bytes of it in the file
    filesz: int
    #: bytes of it in memory, with the part that the file lacks
    memsz: int


class AbsentPiece(NamedTuple):
    """A piece of memory that a segment declares as zeros; in bytes."""

    vaddr: int
    #: ``None`` if the segment has no physical address
    paddr: int | None
    size: int
    #: file offset where another segment has it, ``None`` if no segment does
    offset: int | None


def read_elf(path: str) -> tuple[list[Load], bool]:
    """
    Read the PT_LOAD headers of a 64-bit ELF file.

    :return: headers in the order of the file, none for a 32-bit file; and whether
        makedumpfile says that it could not write all (DUMP_ELF_INCOMPLETE in e_flags)
    :raises TargetError: if the headers are not in the file, or are absurd
    """
    with open(path, "rb") as file:
        try:
            return _parse(file.fileno())
        except (ValueError, struct.error) as e:
            raise TargetError(
                f"cannot read {path}: {e}", "it may be cut off or damaged; compare its size"
            ) from None


def _parse(fd: int) -> tuple[list[Load], bool]:
    headers, incomplete = _headers(fd)
    loads = []
    for kind, _, offset, vaddr, paddr, filesz, memsz, _ in headers:
        if kind == _PT_LOAD:
            memsz = min(memsz, _END - vaddr)
            loads.append(Load(offset, vaddr, paddr, min(filesz, memsz), memsz))
    return loads, incomplete


def cut_off(path: str, loads: Sequence[Load]) -> int:
    """Return the bytes of segments that should be in a file and lie behind its end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        return 0
    places = {(one.offset, one.offset + one.filesz) for one in loads}
    return sum(max(end - max(start, found.st_size), 0) for start, end in places)


def read_note(path: str) -> bytes | None:
    """
    Return the VMCOREINFO of a 64-bit ELF file, ``None`` if it has none.

    Whatever the byte order of its notes: QEMU writes a ppc64 dump's headers big-endian for
    little-endian kernels, too.
    """
    with open(path, "rb") as file:
        for kind, _, offset, _, _, filesz, _, _ in _headers(file.fileno())[0]:
            if kind != _PT_NOTE or offset >= 1 << 63:
                continue
            data = os.pread(file.fileno(), min(filesz, _MAX_NOTES), offset)
            at = data.find(NOTE_NAME)
            if at >= _NOTE_HEADER:
                return note_text(data[at - _NOTE_HEADER :])
    return None


def note_segments(fd: int) -> Iterator[tuple[int, int]]:
    """
    Yield where a 64-bit ELF file has notes: offset and bytes.

    :raises ValueError: if its headers are not in the file, or are absurd
    """
    for kind, _, offset, _, _, filesz, _, _ in _headers(fd)[0]:
        if kind == _PT_NOTE:
            yield offset, filesz


def _headers(fd: int) -> tuple[list[tuple[int, ...]], bool]:
    """
    Read program headers.

    :return: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz and p_align of
        each; and whether makedumpfile says that it could not write all
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    header = os.pread(fd, _EHDR_SIZE, 0)
    if len(header) < _EHDR_SIZE:
        raise ValueError("its ELF header is cut off")
    # EI_CLASS and EI_DATA
    bits, order = header[4], {1: "<", 2: ">"}.get(header[5])
    if bits != 2:
        return [], False
    if order is None:
        raise ValueError(f"its ELF header has a byte order of {header[5]}")
    phoff, shoff = struct.unpack_from(f"{order}QQ", header, 32)
    flags, _, phentsize, phnum = struct.unpack_from(f"{order}IHHH", header, 48)
    # A processor's own flags are none of makedumpfile's: it sets nothing else.
    incomplete = flags == _DUMP_ELF_INCOMPLETE
    if phnum == _PN_XNUM and shoff:
        # An offset beyond the file may not fit the system call.
        section = os.pread(fd, _SH_INFO + 4, shoff) if shoff < size else b""
        if len(section) < _SH_INFO + 4:
            raise ValueError("its first section header is not in the file")
        (phnum,) = struct.unpack_from(f"{order}I", section, _SH_INFO)
    if not phnum:
        return [], incomplete
    if phentsize != _PHDR_SIZE:
        raise ValueError(f"its program headers are {phentsize} bytes long, not {_PHDR_SIZE}")
    if phnum > _MAX_HEADERS:
        raise ValueError(f"it has {phnum} program headers, more than {_MAX_HEADERS}")
    if phoff + phnum * _PHDR_SIZE > size:
        raise ValueError(f"its {phnum} program headers are not all in the file")
    table = os.pread(fd, phnum * _PHDR_SIZE, phoff)
    return list(struct.iter_unpack(f"{order}IIQQQQQQ", table)), incomplete


def absent_pieces(loads: Sequence[Load]) -> list[AbsentPiece]:
    """
    Find the pieces that segments declare as zeros, cut at the borders of other segments.

    The kernel's image is in two segments of ``/proc/vmcore``, for example, and each may
    lack a piece that the other has.
    """
    held = _merge(
        (load.paddr, min(load.paddr + load.filesz, _END), load.offset)
        for load in loads
        if load.filesz and load.paddr != _NO_PADDR
    )
    starts = [start for start, _, _ in held]
    pieces: list[AbsentPiece] = []
    for load in loads:
        at, left = load.filesz, load.memsz - load.filesz
        while left > 0:
            if load.paddr == _NO_PADDR or load.paddr + at >= _END:
                pieces.append(AbsentPiece(load.vaddr + at, None, left, None))
                break
            paddr = load.paddr + at
            index = bisect_right(starts, paddr) - 1
            if index >= 0 and paddr < held[index][1]:
                start, end, offset = held[index]
                size = min(left, end - paddr)
                pieces.append(AbsentPiece(load.vaddr + at, paddr, size, offset + paddr - start))
            else:
                end = held[index + 1][0] if index + 1 < len(held) else _END
                size = min(left, end - paddr)
                pieces.append(AbsentPiece(load.vaddr + at, paddr, size, None))
            at += size
            left -= size
    return pieces


def _merge(ranges: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Sort (start, end, file offset), and cut them so that they do not overlap."""
    merged: list[tuple[int, int, int]] = []
    for start, end, offset in sorted(ranges):
        if merged and start < merged[-1][1]:
            offset += merged[-1][1] - start
            start = merged[-1][1]
        if start < end:
            merged.append((start, end, offset))
    return merged


def drgn_misreads(head: bytes, loads: Sequence[Load]) -> bool:
    """
    Return whether drgn takes an ELF dump for another than it is.

    QEMU writes ppc64 headers big-endian for little-endian kernels, too. And a file whose
    segments all start at physical address 0 looks to drgn as if it had no physical
    addresses: QEMU makes one segment for all of a guest's memory that starts there.

    :param head: its first bytes
    """
    from drgn import PlatformFlags

    little = platform_of_elf(head).flags & PlatformFlags.IS_LITTLE_ENDIAN
    return bool(little) != (head[5] == 1) or (len(loads) == 1 and not loads[0].paddr)


def platform_of_elf(head: bytes) -> Platform:
    """
    Return the platform of an ELF dump, with the byte order of the kernels that it runs.

    :param head: its first bytes
    :raises UnsupportedError: if its architecture is not supported
    """
    from drgn import Architecture, Platform

    order = ">" if head[5] == 2 else "<"
    machine = struct.unpack_from(f"{order}H", head, _E_MACHINE)[0]
    return Platform(Architecture[architecture_of_elf(machine, head[4] == 2)])


def open_segments(path: str, head: bytes, loads: Sequence[Load], vmcoreinfo: bytes) -> Program:
    """
    Return a program with the physical memory of an ELF dump.

    :param head: its first bytes
    :raises TargetError: if the note is not complete
    """
    prog = new_program(vmcoreinfo, platform_of_elf(head))
    file = _File(path)
    for load in loads:
        if load.filesz and load.paddr != _NO_PADDR:
            prog.add_memory_segment(load.paddr, load.filesz, _reader(file, load.offset), True)
    set_kernel(prog, vmcoreinfo)
    return prog


def add_segments(prog: Program, path: str, loads: Sequence[Load]) -> int:
    """
    Make reads of memory that the file lacks fail, and of physical memory possible.

    :param prog: a program that was set to the file
    :param loads: what :func:`read_elf` returned for the file
    :return: bytes of physical memory that no segment has
    """
    pieces = absent_pieces(loads)
    if not pieces:
        return 0
    file = _File(path)
    for piece in pieces:
        read = _reader(file, piece.offset)
        prog.add_memory_segment(piece.vaddr, piece.size, read, False)
        if piece.paddr is not None:
            prog.add_memory_segment(piece.paddr, piece.size, read, True)
    # Several segments may lack the same memory.
    nowhere = _merge(
        (piece.paddr, piece.paddr + piece.size, 0)
        for piece in pieces
        if piece.paddr is not None and piece.offset is None
    )
    return sum(end - start for start, end, _ in nowhere)


class _File:
    """A file that is open as long as segments use it."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.fd)


def _reader(file: _File, start: int | None) -> Callable[[int, int, int, bool], bytes]:
    """Make the callback for reads of a segment at a file offset, or of one without (``None``)."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data = b"" if start is None else os.pread(file.fd, count, start + offset)
        if len(data) < count:
            raise FaultError(NOT_IN_DUMP, address)
        return data

    return read
