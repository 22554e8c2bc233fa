# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump that pages can be taken out of, one after another, while it is open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from drgn import FaultError, Program

from vmemscope.target.elf import read_elf

__all__ = ("Sieve",)

PAGE = 4096


class Sieve:
    """
    All reads of an ELF dump's memory, page by page.

    :param prog: the opened dump
    :param core: its file
    """

    def __init__(self, prog: Program, core: Path) -> None:
        self.fd = os.open(core, os.O_RDONLY)
        #: page frame numbers that can't be read
        self.without: set[int] = set()
        #: page frame numbers that were read
        self.seen: set[int] = set()
        loads, _ = read_elf(str(core))
        #: page frame numbers that the dump has
        self.present = {
            pfn
            for load in loads
            for pfn in range(load.paddr // PAGE, (load.paddr + load.filesz) // PAGE)
        }
        for load in loads:
            read = self._reader(load.offset, load.paddr)
            prog.add_memory_segment(load.paddr, load.filesz, read, True)
            prog.add_memory_segment(load.vaddr, load.filesz, read, False)

    def _reader(self, start: int, paddr: int) -> Callable[[int, int, int, bool], bytes]:
        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            first = (paddr + offset) // PAGE
            pfns = range(first, (paddr + offset + count - 1) // PAGE + 1)
            self.seen.update(pfns)
            if not self.without.isdisjoint(pfns):
                raise FaultError("excluded", address)
            return os.pread(self.fd, count, start + offset)

        return read

    def close(self) -> None:
        os.close(self.fd)
