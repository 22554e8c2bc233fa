# SPDX-License-Identifier: LGPL-2.1-or-later
"""
makedumpfile's flattened format (``-F``): a file in pieces, each with its place in the file.

A dump is written in it to a pipe, where nobody can seek. After a header of 4 KiB there is a
struct makedumpfile_data_header (offset and size, big-endian) and the bytes, again and again; the
last has -1 in both (makedumpfile's ``makedumpfile.h``).
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial

__all__ = ("FLATTENED", "FLAT_END", "FLAT_HEADER", "FRONT", "reader_of")

#: first bytes of the format
FLATTENED = b"makedumpfile"
#: bytes before the first piece
FLAT_HEADER = 4096
#: what follows the last piece
FLAT_END = b"\xff" * 16
#: pieces that are searched for headers and notes, which are written first; and pieces in all
FRONT, _MAX_PIECES = 64, 1 << 24


def reader_of(fd: int, most: int = _MAX_PIECES) -> Callable[[int, int], bytes]:
    """
    Return a function that reads bytes of a file, flattened or not.

    It takes how many bytes, and the offset in the file that the pieces make. It returns fewer
    where a piece is missing, or where the file ends.

    :param most: how many pieces are read of a flattened file, at most
    """
    if os.pread(fd, len(FLATTENED), 0) == FLATTENED:
        return _Pieces(fd, most).read
    return partial(_pread, fd)


def _pread(fd: int, count: int, offset: int) -> bytes:
    return os.pread(fd, count, offset)


class _Pieces:
    """The pieces of a flattened file, each with its place in the file that they make."""

    def __init__(self, fd: int, most: int) -> None:
        self._fd = fd
        # A piece that is written again comes later.
        pieces = {start: (place, size) for start, place, size in _pieces(fd, most)}
        self._starts = sorted(pieces)
        self._places = [pieces[start] for start in self._starts]

    def read(self, count: int, offset: int) -> bytes:
        """Read bytes at an offset of the whole file; fewer where a piece is missing."""
        data = bytearray()
        while len(data) < count:
            wanted = offset + len(data)
            index = bisect_right(self._starts, wanted) - 1
            if index < 0:
                break
            (place, size), into = self._places[index], wanted - self._starts[index]
            if into >= size:
                break
            part = os.pread(self._fd, min(count - len(data), size - into), place + into)
            if not part:
                break
            data += part
        return bytes(data)


def _pieces(fd: int, most: int) -> Iterator[tuple[int, int, int]]:
    """
    Yield the pieces of a flattened file: offset in the file that they make, place, size (bytes).

    :param most: how many are read at most
    """
    at = FLAT_HEADER
    for _ in range(most):
        raw = os.pread(fd, 16, at) if at < 1 << 63 else b""
        if len(raw) < 16:
            break
        offset, size = struct.unpack(">qq", raw)
        if offset < 0 or size <= 0:
            break
        yield offset, at + 16, size
        at += 16 + size
