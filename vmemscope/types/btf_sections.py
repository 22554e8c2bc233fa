# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sections of BTF
---------------

The header of a blob, which says where its sections are, and the section of strings.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import TypesError
from ._hints import GIVE_VMLINUX

__all__ = ("BtfError", "BtfHeader", "Strings")

_MAGIC: Final = 0xEB9F
_VERSION: Final = 1
# struct btf_header from hdr_len on: hdr_len, type_off, type_len, str_off, str_len.
_HEADER_LEN: Final = 24
# The same with layout_off and layout_len: struct btf_layout has the length of the
# records of each kind, so that a reader can step over new kinds.
_HEADER_LEN_LAYOUT: Final = 32


class BtfError(TypesError):
    """A BTF blob is damaged, or has records that this reader does not know."""

    def __init__(self, message: str, hint: str | None = GIVE_VMLINUX) -> None:
        super().__init__(message, hint)


class BtfHeader(NamedTuple):
    """``struct btf_header``; sections as ranges of bytes of the blob."""

    byteorder: str
    types: range
    strings: range
    layout: range

    @staticmethod
    def parse(data: bytes, name: str) -> BtfHeader:
        """
        Parse the header of a blob.

        :param name: what errors call the blob
        :raises BtfError: if it is damaged
        """

        def error(what: str) -> BtfError:
            return BtfError(f"BTF of {name} is damaged: {what}")

        if len(data) < _HEADER_LEN:
            raise error(f"{len(data)} bytes are too few for a header")
        byteorder, prefix = ("big", ">") if data[0] == _MAGIC >> 8 else ("little", "<")
        magic, version, hdr_len, *sections = struct.unpack_from(prefix + "HBx5I", data)
        if magic != _MAGIC:
            raise error(f"magic is 0x{magic:04x}, not 0x{_MAGIC:x}")
        if version != _VERSION:
            raise error(f"version is {version}, not {_VERSION}")
        if not _HEADER_LEN <= hdr_len <= len(data):
            raise error(f"header length is {hdr_len}")
        if hdr_len >= _HEADER_LEN_LAYOUT:
            sections += struct.unpack_from(prefix + "2I", data, _HEADER_LEN)
        else:
            sections += [0, 0]
        ranges = []
        for what, offset, length in zip(
            ("type", "string", "layout"), sections[::2], sections[1::2], strict=True
        ):
            start = hdr_len + offset
            if start + length > len(data):
                raise error(f"{what} section ends at byte {start + length} of {len(data)}")
            ranges.append(range(start, start + length))
        if len(ranges[0]) % 4:
            raise error(f"type section is {len(ranges[0])} bytes long, not a multiple of 4")
        return BtfHeader(byteorder, *ranges)


class Strings:
    """
    A string section; each string ends in a zero byte.

    :param start: offset of its first string
    """

    def __init__(self, section: bytes, start: int) -> None:
        #: Offsets at which it starts and ends; a module's continue those of vmlinux.
        self.start: Final = start
        self.end: Final = start + len(section)
        # Eight bytes can be read from each place where a string starts.
        self._data: Final = section + bytes(8)
        self._index: tuple[NDArray[np.intp], NDArray[np.uint64]] | None = None

    def get(self, offset: int) -> str:
        """Return the string at an offset, which must be in the section."""
        start = offset - self.start
        return self._data[start : self._data.index(0, start)].decode(errors="backslashreplace")

    def offsets(self, name: str) -> list[int]:
        """Return the offsets of a string; several if the encoder left duplicates."""
        # Compare the first eight bytes of all strings at once: that takes a tenth of
        # the time of a search, and a dictionary takes 50 ms to build. Encoders of BTF
        # do not let strings share their tails.
        encoded = name.encode(errors="surrogateescape")
        if 0 in encoded:
            return []
        if self._index is None:
            self._index = self._make_index()
        starts, heads = self._index
        head = np.uint64(int.from_bytes(encoded[:8], "little"))
        string = encoded + b"\0"
        return [
            self.start + start
            for start in starts[heads == head].tolist()
            if self._data.startswith(string, start)
        ]

    def _make_index(self) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        # Start of each string, and its first eight bytes, zeros after its end.
        length = self.end - self.start
        ends = np.flatnonzero(np.frombuffer(self._data, np.uint8, length) == 0)
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1] + 1
        every: NDArray[np.uint64] = np.ndarray(length, "<u8", self._data, strides=(1,))
        heads = every[starts]
        heads &= _HEAD_MASKS.take(ends - starts, mode="clip")
        return starts, heads


# By the length of a string, up to 8: mask of its bits in the first eight bytes.
_HEAD_MASKS: Final = np.array([(1 << 8 * length) - 1 for length in range(9)], np.uint64)
