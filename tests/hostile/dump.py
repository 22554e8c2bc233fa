# SPDX-License-Identifier: LGPL-2.1-or-later
"""A vmcore on disk that can be damaged and mended again; ELF, 64 bits, little-endian."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ("Damage", "Dump", "Load")

PAGE = 4096
_EHDR, _PHDR = 64, 56
_PT_LOAD, _PT_NOTE = 1, 4
_FORMAT = "<IIQQQQQQ"


class Load(NamedTuple):
    """A PT_LOAD segment; addresses, offset in the file and sizes in bytes."""

    offset: int
    vaddr: int
    paddr: int
    size: int


@dataclass(frozen=True)
class Damage:
    """What is done to a dump, in words and in bytes."""

    text: str
    #: offset in the file, and what to write there
    writes: tuple[tuple[int, bytes], ...] = ()
    #: physical addresses of pages that are to be in the dump no more
    absent: frozenset[int] = field(default_factory=frozenset)
    #: bytes to leave of the file
    length: int | None = None


class Dump:
    """A vmcore. What it says of itself is read once, while it is whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.size = os.path.getsize(path)
        with open(path, "rb") as file:
            self._header = file.read(_EHDR)
            (phoff,) = struct.unpack_from("<Q", self._header, 32)
            (count,) = struct.unpack_from("<H", self._header, 56)
            file.seek(phoff)
            table = file.read(count * _PHDR)
        #: offset and size of the program headers
        self.headers = phoff, len(table)
        self.loads: list[Load] = []
        #: offsets and sizes of notes
        self.notes: list[tuple[int, int]] = []
        # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        for kind, _, offset, vaddr, paddr, size, _, _ in struct.iter_unpack(_FORMAT, table):
            if kind == _PT_LOAD:
                self.loads.append(Load(offset, vaddr, paddr, size))
            elif kind == _PT_NOTE:
                self.notes.append((offset, size))

    def offset(self, address: int) -> int | None:
        """Return where in the file a physical address is."""
        for load in self.loads:
            if load.paddr <= address < load.paddr + load.size:
                return load.offset + address - load.paddr
        return None

    def read(self, offset: int, size: int) -> bytes:
        """Read from the file as it is now."""
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), size, offset)

    @contextmanager
    def damaged(self, damage: Damage) -> Iterator[str]:
        """Have the damage done; return the path of the file that has it."""
        writes = list(damage.writes)
        appended = b""
        if damage.absent:
            loads, notes = list(_without(self.loads, damage.absent)), self.notes
            appended = b"".join(
                [struct.pack(_FORMAT, _PT_NOTE, 0, at, 0, 0, size, size, 0) for at, size in notes]
                + [
                    struct.pack(
                        _FORMAT,
                        _PT_LOAD,
                        7,
                        one.offset,
                        one.vaddr,
                        one.paddr,
                        one.size,
                        one.size,
                        0,
                    )
                    for one in loads
                ]
            )
            # Program headers may be anywhere in the file: after all else.
            header = bytearray(self._header)
            struct.pack_into("<Q", header, 32, self.size)
            struct.pack_into("<H", header, 56, len(appended) // _PHDR)
            writes.append((0, bytes(header)))
        with _patched(self.path, writes, appended):
            if damage.length is None:
                yield self.path
            else:
                cut = f"{self.path}.cut"
                try:
                    _copy(self.path, cut, damage.length)
                    yield cut
                finally:
                    Path(cut).unlink(missing_ok=True)


def _without(loads: Sequence[Load], absent: Iterable[int]) -> Iterator[Load]:
    """Cut pages out of segments."""
    holes = sorted(absent)
    for load in loads:
        start, end = load.paddr, load.paddr + load.size
        for hole in holes:
            if start <= hole < end:
                yield _part(load, start, hole)
                start = hole + PAGE
        yield _part(load, start, end)


def _part(load: Load, start: int, end: int) -> Load:
    skip = start - load.paddr
    return Load(load.offset + skip, load.vaddr + skip, start, max(end - start, 0))


@contextmanager
def _patched(path: str, writes: Sequence[tuple[int, bytes]], appended: bytes) -> Iterator[None]:
    with open(path, "r+b", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        kept = [(offset, os.pread(fd, len(data), offset)) for offset, data in writes]
        try:
            for offset, data in writes:
                os.pwrite(fd, data[: max(size - offset, 0)], offset)
            os.pwrite(fd, appended, size)
            yield
        finally:
            os.ftruncate(fd, size)
            # The first to be written is the last to be put back, should two overlap.
            for offset, data in reversed(kept):
                os.pwrite(fd, data, offset)


def _copy(source: str, target: str, length: int) -> None:
    """Copy the start of a file, holes left holes."""
    with open(source, "rb") as old, open(target, "wb") as new:
        at = 0
        while at < length:
            try:
                start = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = min(os.lseek(old.fileno(), start, os.SEEK_HOLE), length)
            if start >= length:
                break
            while start < end:
                data = os.pread(old.fileno(), min(1 << 20, end - start), start)
                os.pwrite(new.fileno(), data, start)
                start += len(data)
            at = end
        new.truncate(length)
