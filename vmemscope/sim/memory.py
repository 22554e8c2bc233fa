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

#: bytes of memory that are made together: few, as a single page may be all that exists of them
_BLOCK_SIZE = 256 << 10


class Memory:
    """
    Pages by pfn. A page is a row of bytes that is written in place; reading one
    that does not exist makes it, full of zeros.

    Pages lie in blocks, so that adjacent ones can be written and dumped as one array.
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self._size = units.page_size
        #: pages in a block
        self._per_block = max(_BLOCK_SIZE // self._size, 1)
        #: a block's pages as rows, and which of them exist, by number
        self._blocks: dict[int, tuple[Bytes, NDArray[np.bool_]]] = {}
        #: pages that exist, by pfn, as rows and as words of those that were asked for
        self._pages: dict[int, Bytes] = {}
        self._words: dict[int, Words] = {}
        #: pfns that are left out of the dump whatever they hold
        self.missing: set[int] = set()

    def __deepcopy__(self, memo: dict[int, object]) -> Memory:
        # Pages and words are the blocks, seen otherwise: they are not copied by themselves.
        other = memo[id(self)] = Memory(self.units)
        for number, (rows, exist) in self._blocks.items():
            copied = np.zeros_like(rows)
            # Few rows of many blocks exist, and what is not written to takes no memory.
            copied[exist] = rows[exist]
            other._blocks[number] = copied, exist.copy()
        other.missing = self.missing.copy()
        return other

    def __contains__(self, pfn: int) -> bool:
        number, row = divmod(pfn, self._per_block)
        return number in self._blocks and bool(self._blocks[number][1][row])

    def _block(self, number: int) -> tuple[Bytes, NDArray[np.bool_]]:
        try:
            return self._blocks[number]
        except KeyError:
            rows = np.zeros((self._per_block, self._size), np.uint8)
            block = self._blocks[number] = rows, np.zeros(self._per_block, np.bool_)
            return block

    def page(self, pfn: int) -> Bytes:
        """Return a page as bytes."""
        try:
            return self._pages[pfn]
        except KeyError:
            number, row = divmod(pfn, self._per_block)
            rows, exist = self._block(number)
            exist[row] = True
            page: Bytes = rows[row]
            self._pages[pfn] = page
            return page

    def words(self, pfn: int) -> Words:
        """Return a page as 64-bit words in the kernel's byte order."""
        try:
            return self._words[pfn]
        except KeyError:
            words = self._words[pfn] = self.page(pfn).view(self.units.word)
            return words

    def make(self, pfn: int, count: int) -> None:
        """Make adjacent pages."""
        end = pfn + count
        while pfn < end:
            number, row = divmod(pfn, self._per_block)
            exist = self._block(number)[1][row : row + end - pfn]
            exist[:] = True
            pfn += len(exist)

    def stretch(self, address: int, size: int) -> Words:
        """
        Return words from an address on, in place.

        :param size: bytes; there are fewer of them where memory is not of one array
        """
        pfn, offset = divmod(address, self._size)
        number, row = divmod(pfn, self._per_block)
        rows, exist = self._block(number)
        exist[row : row - (-(offset + size) // self._size)] = True
        start = row * self._size + offset
        words: Words = rows.reshape(-1)[start : start + size].view(self.units.word)
        return words

    def allocate(self, pfn: int, count: int) -> None:
        """Have adjacent pages as the page allocator gives them: with what was left in them."""
        for number in range(pfn, pfn + count):
            if number not in self:
                random = np.random.default_rng(number)
                self.page(number)[:] = random.integers(0, 256, self._size, np.uint8)

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

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield runs of adjacent pages in order: first pfn, how many."""
        found = [
            number * self._per_block + np.flatnonzero(self._blocks[number][1])
            for number in sorted(self._blocks)
        ]
        pfns = np.concatenate(found) if found else np.zeros(0, np.int64)
        pfns = pfns[~np.isin(pfns, [*self.missing])]
        ends = np.flatnonzero(np.diff(pfns, append=-1) != 1)
        at = 0
        for end in ends.tolist():
            yield int(pfns[at]), end + 1 - at
            at = end + 1

    def rows(self, pfn: int, count: int) -> Iterator[tuple[int, Bytes]]:
        """Yield adjacent pages in place, as arrays of a row a page: first pfn, rows."""
        end = pfn + count
        while pfn < end:
            number, row = divmod(pfn, self._per_block)
            rows = self._block(number)[0][row : row + end - pfn]
            yield pfn, rows
            pfn += len(rows)
