# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kdump files that are cut off, which must not be opened.

libkdumpfile, which reads kdump files for drgn, maps them into memory and does not check
where they end: uncompressed pages after the end read as zeros, or SIGBUS kills the
process. So a file must be complete before it is opened: as long as its headers and page
descriptors say, which come before the pages.

A page of zeros is in the file: makedumpfile and QEMU write a descriptor for it, and
none for a page that they leave out.

Layout: makedumpfile's IMPLEMENTATION and ``diskdump_mod.h``, QEMU's
``include/sysemu/dump.h``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import TargetError
from ..text import printable
from .flattened import FLAT_END, FLAT_HEADER, FRONT, reader_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = (
    "Header",
    "KdumpContents",
    "bitmap_of",
    "check_flattened",
    "check_whole",
    "read_header",
)

#: offset of ``status`` in struct disk_dump_header, after a struct timeval of 64-bit and
#: of 32-bit machines
_STATUS = (424, 412)
#: offset and bytes of ``utsname.machine`` in it
_MACHINE, _UTS_LEN = 12 + 4 * 65, 65
#: what QEMU writes there for others than x86-64 (dump/dump.c: ELF_MACHINE_UNAME)
_OF_QEMU = ("Unknown", "S390X")
#: block sizes; a block is a page
_BLOCKS = tuple(1 << shift for shift in range(12, 19))
_DESCRIPTOR = 24
#: DUMP_DH_COMPRESSED_INCOMPLETE, DUMP_DH_EXCLUDED_VMEMMAP
_INCOMPLETE, _EXCLUDED_VMEMMAP = 0x8, 0x10
#: 52 bits of physical address
_MAX_PFN = 1 << 40
#: page descriptors read at a time
_BATCH = 1 << 18
#: bytes of bitmap read at a time
_BITMAP_BATCH = 1 << 20


class Header(NamedTuple):
    """The file's layout, from struct disk_dump_header and kdump_sub_header."""

    order: str
    #: bytes in a block and in a page
    block: int
    #: blocks
    sub_header: int
    bitmap: int
    #: first pfn after all that the dump describes
    max_pfn: int
    #: pfns that this file of a split dump has descriptors for
    start_pfn: int
    end_pfn: int
    #: where notes and VMCOREINFO end, in bytes
    notes_end: int
    #: makedumpfile's dump level (option -d), 0 if it left nothing out
    level: int
    #: DUMP_DH_* bits
    status: int
    #: whether it is one file of a dump that makedumpfile split
    split: bool
    #: what the kernel calls its architecture, "" if the file does not say it
    machine: str = ""
    #: where VMCOREINFO is, and where ELF notes are, offset and size in bytes; 0 if nowhere
    vmcoreinfo: tuple[int, int] = (0, 0)
    notes: tuple[int, int] = (0, 0)

    @property
    def descriptors(self) -> int:
        """Where the page descriptors start, in bytes."""
        return (1 + self.sub_header + self.bitmap) * self.block

    @property
    def memory(self) -> tuple[int, int]:
        """Return offset and size in bytes of the bitmap of the machine's memory."""
        blocks = self.bitmap
        if self.max_pfn <= blocks * self.block * 8 // 2:
            blocks //= 2
        return (1 + self.sub_header) * self.block, blocks * self.block

    @property
    def pages(self) -> tuple[int, int]:
        """
        Return offset and size in bytes of the bitmap of the pages in the file.

        Before it, there is :attr:`memory`; the oldest files have one only.
        """
        start, size = self.memory
        return (start if size == self.bitmap * self.block else start + size), size


class KdumpContents(NamedTuple):
    """What a kdump file says that it has."""

    #: makedumpfile's dump level, 0 if it left out at most pages of zeros
    level: int
    #: physical address after all that it describes
    end: int
    #: whether makedumpfile could not write all of it
    incomplete: bool
    #: whether parts of the memory map were left out (makedumpfile -e)
    no_vmemmap: bool
    #: what the kernel calls its architecture, "" if the file does not say it
    machine: str
    #: bytes of the machine's memory that the file lacks
    missing: int = 0


def check_whole(path: str) -> KdumpContents:
    """
    Check that a kdump file (not flattened) is not cut off.

    :raises TargetError: if it is cut off, or one file of a split dump
    """
    with open(path, "rb") as file:
        fd = file.fileno()
        size = os.lseek(fd, 0, os.SEEK_END)
        header = read_header(lambda count, offset: os.pread(fd, count, offset))
        if header is None:
            # Not of a Linux kernel: drgn says why.
            return _NOTHING
        contents = _contents(path, header)
        needed = _needed(fd, size, header)
        if needed > size:
            raise _cut_off(path, f"it has {size} bytes of {needed} or more")
        counts = [_count_bits(fd, *place, header) for place in (header.memory, header.pages)]
    return contents._replace(missing=max(counts[0] - counts[1], 0) * header.block)


def _contents(path: str, header: Header) -> KdumpContents:
    if header.split:
        raise TargetError(
            f"{path} is one file of a dump that makedumpfile split, with pfn"
            f" {header.start_pfn:#x} to {header.end_pfn:#x}",
            "put all files together first: makedumpfile --reassemble FILE... NEWFILE",
        )
    return KdumpContents(
        # Bit 0 is for pages of zeros, which have descriptors nevertheless.
        header.level if header.level & ~1 else 0,
        min(header.max_pfn, _MAX_PFN) * header.block,
        bool(header.status & _INCOMPLETE),
        bool(header.status & _EXCLUDED_VMEMMAP),
        header.machine,
    )


#: of a file whose headers make no sense
_NOTHING = KdumpContents(0, 0, False, False, "")


def check_flattened(path: str) -> KdumpContents:
    """
    Check that a flattened file contains a kdump file and is not cut off.

    :raises TargetError: if it is cut off, or contains another format, or one file of a
        split dump
    """
    with open(path, "rb") as file:
        first = os.pread(file.fileno(), 24, FLAT_HEADER)
        if len(first) < 24:
            raise _cut_off(path, "its first piece is missing")
        if first.startswith(bytes(8)) and first[16:].startswith(b"\x7fELF"):
            raise TargetError(
                f"{path} is a flattened ELF file, which can't be read as it is",
                f"reassemble it with: makedumpfile -R NEWFILE < {path}",
            )
        # A block device does not end where the dump ends.
        if os.path.isfile(path):
            end = max(os.lseek(file.fileno(), 0, os.SEEK_END) - len(FLAT_END), 0)
            if os.pread(file.fileno(), len(FLAT_END), end) != FLAT_END:
                raise _cut_off(path, "the mark of its end is missing")
        header = read_header(reader_of(file.fileno(), FRONT))
    return _NOTHING if header is None else _contents(path, header)


def _cut_off(path: str, how: str) -> TargetError:
    return TargetError(
        f"cannot read {path}: {how}", "it may be cut off or damaged; compare its size"
    )


def read_header(read: Callable[[int, int], bytes]) -> Header | None:
    """
    Read the headers of a kdump file, ``None`` if they make no sense.

    :param read: takes how many bytes, and where
    """
    raw = read(464, 0)
    if len(raw) < 464:
        return None
    for status in _STATUS:
        for order in "<>":
            version = struct.unpack_from(f"{order}i", raw, 8)[0]
            # status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr
            flags, block, sub_header, bitmap, max_pfn = struct.unpack_from(
                f"{order}5I", raw, status
            )
            if block in _BLOCKS and 0 < sub_header < 1 << 16 and bitmap:
                name = printable(raw[_MACHINE:][:_UTS_LEN].partition(b"\0")[0])
                found = Header(
                    *(order, block, sub_header, bitmap, max_pfn, 0, 1 << 64, 0, 0, flags, False),
                    machine="" if name in _OF_QEMU else name,
                )
                return _with_sub_header(read, found, version, status == _STATUS[0])
    return None


def _with_sub_header(
    read: Callable[[int, int], bytes], header: Header, version: int, wide: bool
) -> Header:
    """Add the fields of struct kdump_sub_header; its 32-bit forms are not read."""
    raw = read(104, header.block)
    if not wide or len(raw) < 104:
        return header
    level, split = struct.unpack_from(f"{header.order}ii", raw, 8)
    fields = struct.unpack_from(f"{header.order}11Q", raw, 16)
    # From version 2: start_pfn, end_pfn; 3: vmcoreinfo; 4: note; 5: eraseinfo, each an
    # offset and a size; 6: start_pfn_64, end_pfn_64, max_mapnr_64.
    places = zip(fields[2:8:2], fields[3:8:2], range(3, 6), strict=True)
    ends = [offset + size for offset, size, since in places if size and version >= since]
    if version >= 3:
        header = header._replace(vmcoreinfo=(fields[2], fields[3]))
    if version >= 4:
        header = header._replace(notes=(fields[4], fields[5]))
    header = header._replace(notes_end=max(ends, default=0), level=level if version >= 1 else 0)
    if version >= 2 and split:
        start_pfn, end_pfn = fields[8:10] if version >= 6 else fields[:2]
        header = header._replace(start_pfn=start_pfn, end_pfn=end_pfn, split=True)
    return header._replace(max_pfn=fields[10]) if version >= 6 else header


def bitmap_of(read: Callable[[int, int], bytes], header: Header) -> NDArray[np.uint8]:
    """Return the bitmap of the pages in a file, a bit each from the lowest on (uint8)."""
    offset, size = header.pages
    return np.frombuffer(read(min(size, header.max_pfn // 8 + 1), offset), np.uint8)


def _needed(fd: int, size: int, header: Header) -> int:
    """Return the bytes that a file must have at least, from the headers that it has."""
    descriptors = header.descriptors
    if max(descriptors, header.notes_end) > size:
        return max(descriptors, header.notes_end)
    count = _count_bits(fd, *header.pages, header)
    needed = descriptors + count * _DESCRIPTOR
    if needed > size:
        return needed
    for first in range(0, count, _BATCH):
        raw = os.pread(
            fd, min(_BATCH, count - first) * _DESCRIPTOR, descriptors + first * _DESCRIPTOR
        )
        # struct page_desc: offset (64 bits), size, flags (32), page_flags (64)
        offset = np.frombuffer(raw, f"{header.order}u8").reshape(-1, 3)[:, 0].astype(np.uint64)
        length = np.frombuffer(raw, f"{header.order}u4").reshape(-1, 6)[:, 2].astype(np.uint64)
        # Checked first: the sums must not wrap.
        last = int(offset.max(initial=0))
        if last > size:
            return last
        needed = max(needed, int((offset + length).max(initial=0)))
    return needed


def _count_bits(fd: int, offset: int, size: int, header: Header) -> int:
    """Count the pages that a bitmap says are in this file."""
    total = 0
    for first in range(0, size, _BITMAP_BATCH):
        raw = os.pread(fd, min(_BITMAP_BATCH, size - first), offset + first)
        start, end = max(header.start_pfn - first * 8, 0), header.end_pfn - first * 8
        if start == 0 and end >= len(raw) * 8:
            total += int.from_bytes(raw, "little").bit_count()
        elif start < end:
            bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
            total += int(bits[start : max(end, 0)].sum())
    return total
