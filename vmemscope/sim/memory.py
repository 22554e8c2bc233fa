# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Physical memory, sparse: only pages that something was written to exist.

Addresses are physical and in bytes, pfns are ``address // page size``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .units import Units

__all__ = ("Bytes", "Memory", "Words")

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]


class Memory:
    """
    Pages by pfn. A page is a row of bytes that is written in place; reading one
    that does not exist makes it, full of zeros.
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self._size = units.page_size
        self._pages: dict[int, Bytes] = {}
        self._words: dict[int, Words] = {}
        #: pfns that are left out of the dump whatever they hold
        self.missing: set[int] = set()

    def __deepcopy__(self, memo: dict[int, object]) -> Memory:
        # Words are the pages, seen otherwise: they are not copied by themselves.
        other = memo[id(self)] = Memory(self.units)
        if self._pages:
            other._pages = dict(zip(self._pages, np.stack([*self._pages.values()]), strict=True))
        other.missing = self.missing.copy()
        return other

    def __contains__(self, pfn: int) -> bool:
        return pfn in self._pages

    def page(self, pfn: int) -> Bytes:
        """Return a page as bytes."""
        try:
            return self._pages[pfn]
        except KeyError:
            page = self._pages[pfn] = np.zeros(self._size, np.uint8)
            return page

    def words(self, pfn: int) -> Words:
        """Return a page as 64-bit words in the kernel's byte order."""
        try:
            return self._words[pfn]
        except KeyError:
            words = self._words[pfn] = self.page(pfn).view(self.units.word)
            return words

    def run(self, pfn: int, count: int) -> Bytes:
        """Make adjacent pages that don't exist yet and return them as one array of rows."""
        rows = np.zeros((count, self._size), np.uint8)
        for i in range(count):
            self._pages[pfn + i] = rows[i]
            self._words.pop(pfn + i, None)
        return rows

    def read(self, address: int, size: int) -> bytes:
        """Read bytes at a physical address."""
        out = bytearray()
        while size:
            offset = address % self._size
            step = min(size, self._size - offset)
            out += self.page(address // self._size)[offset : offset + step].tobytes()
            address += step
            size -= step
        return bytes(out)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at a physical address."""
        pos = 0
        while pos < len(data):
            offset = address % self._size
            step = min(len(data) - pos, self._size - offset)
            page = self.page(address // self._size)
            page[offset : offset + step] = np.frombuffer(data, np.uint8, step, pos)
            address += step
            pos += step

    def segments(self) -> Iterator[tuple[int, list[Bytes]]]:
        """Yield runs of adjacent pages in order: first pfn, pages."""
        start = -1
        run: list[Bytes] = []
        for pfn in sorted(self._pages.keys() - self.missing):
            if pfn != start + len(run):
                if run:
                    yield start, run
                start, run = pfn, []
            run.append(self._pages[pfn])
        if run:
            yield start, run
