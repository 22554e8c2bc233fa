# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages of kdump files that libkdumpfile 0.5 does not open, or whose kernels it does not know.

QEMU writes each CPU's registers into the notes of a kdump file, which libkdumpfile takes for
damaged on some architectures, and it leaves the machine's name out. makedumpfile's files have
it, but libkdumpfile can't translate the addresses of s390x, and of ppc64 with pages of 4 KiB.
So such a file is read here, page by page, as a segment of physical memory of a program
(``makedumpfile``'s ``diskdump_mod.h``: struct page_desc).

The file comes from the target and is not trusted: offsets and sizes are checked against
the file, and a page that does not decompress to its size can't be read.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError

from ..errors import TargetError, UnsupportedError
from ..vmcoreinfo import MAX_NOTE, NOTE_NAME, note_text
from .elf import NOT_IN_DUMP
from .flattened import reader_of
from .kdump import Header, bitmap_of, read_header
from .page_codecs import CODECS, MissingCodecError, decompress

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("KdumpPages",)

#: descriptors that are looked at for how pages are compressed
_SAMPLE = 1 << 12
#: pages that are kept decompressed
_KEPT = 1 << 14
#: pages that one count of descriptors stands for
_CHUNK = 1 << 12
#: bytes of ELF notes: one for each CPU, and VMCOREINFO
_MAX_NOTES = 64 << 20


def _ranges(bitmap: NDArray[np.uint8], header: Header) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff((bitmap != 0).view(np.int8), prepend=0, append=0))
    size = 8 * header.block
    return [(first * size, end * size - 1) for first, end in edges.reshape(-1, 2).tolist()]


def _codec(flags: int) -> str | None:
    """Return how a page is compressed, ``None`` if it is not."""
    return next((name for bit, name in CODECS.items() if flags & bit), None)


class KdumpPages:
    """The pages of a kdump file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._read = reader_of(self._fd)
        header = read_header(self._read)
        if header is None:
            raise TargetError(f"cannot read {path}: its headers make no sense")
        self._header: Header = header
        bitmap = bitmap_of(self._read, header)
        #: first and last physical address of each run of groups of eight pages, in order, each
        #: with one page at least in the file
        self.ranges = _ranges(bitmap, header)
        self._bitmap = bitmap
        #: descriptors before each chunk of pages
        counts = [
            int.from_bytes(bitmap[at : at + _CHUNK // 8].tobytes(), "little").bit_count()
            for at in range(0, len(bitmap), _CHUNK // 8)
        ]
        self._before = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._page = lru_cache(_KEPT)(self._read_page)

    def __del__(self) -> None:
        os.close(self._fd)

    @property
    def page_size(self) -> int:
        """Bytes in a page."""
        return self._header.block

    @property
    def first(self) -> int:
        """Physical address of the first page in the file, in bytes; 0 if it has none."""
        byte = int((self._bitmap != 0).argmax())
        value = int(self._bitmap[byte])
        return (byte * 8 + (value & -value).bit_length() - 1) * self._header.block if value else 0

    @property
    def end(self) -> int:
        """Physical address after all pages that there can be, in bytes."""
        return len(self._bitmap) * 8 * self._header.block

    @property
    def vmcoreinfo(self) -> bytes | None:
        """The file's own VMCOREINFO, ``None`` if it has none."""
        offset, size = self._header.vmcoreinfo
        if size:
            return note_text(self._read(min(size, MAX_NOTE), offset))
        offset, size = self._header.notes
        data = self._read(min(size, _MAX_NOTES), offset) if size else b""
        at = data.find(NOTE_NAME)
        return note_text(data[at - 12 :]) if at >= 12 else None

    def check_codecs(self, path: str) -> None:
        """
        :param path: the file's name, for the error
        :raises UnsupportedError: if pages are compressed in a way that needs a missing module
        """
        count = min(int(self._before[-1]), _SAMPLE)
        raw = self._read(24 * count, self._header.descriptors)
        flags = np.frombuffer(raw[: len(raw) // 24 * 24], f"{self._header.order}u4")[3::6]
        for codec in sorted({codec for one in np.unique(flags) if (codec := _codec(int(one)))}):
            try:
                decompress(codec, b"", self._header.block)
            except MissingCodecError as e:
                raise UnsupportedError(
                    f"cannot read {path}: its pages are {e}", "pip install 'vmemscope[kdump]'"
                ) from None

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Read physical memory: the callback of a segment."""
        size = self._header.block
        first, into = divmod(address, size)
        last = (address + count - 1) // size
        data = b"".join(self._page(pfn) for pfn in range(first, last + 1))
        return data[into : into + count]

    def _read_page(self, pfn: int) -> bytes:
        header = self._header
        address = pfn * header.block
        byte, bit = divmod(pfn, 8)
        if byte >= len(self._bitmap) or not self._bitmap[byte] >> bit & 1:
            raise FaultError(NOT_IN_DUMP, address)
        chunk = pfn // _CHUNK
        before = self._bitmap[chunk * _CHUNK // 8 : byte + 1].tobytes()
        bits = int.from_bytes(before, "little") & (1 << pfn % _CHUNK) - 1
        index = int(self._before[chunk]) + bits.bit_count()
        place = header.descriptors + index * 24
        raw = self._read(24, place)
        if len(raw) < 24:
            raise FaultError(NOT_IN_DUMP, address)
        offset, size, flags, _ = struct.unpack(f"{header.order}QIIQ", raw)
        if size > header.block or offset >= 1 << 63:
            raise FaultError("damaged in the dump", address)
        data = self._read(size, offset)
        page: bytes | None = data
        if (codec := _codec(flags)) is not None:
            try:
                page = decompress(codec, data, header.block)
            except MissingCodecError as e:
                raise FaultError(str(e), address) from None
        if page is None or len(page) != header.block:
            raise FaultError("damaged in the dump", address)
        return page
