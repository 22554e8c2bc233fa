# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel virtual memory for drgn, where drgn can't walk the page tables itself.

:func:`attach_virtual_memory` adds a segment over all of the kernel's addresses; reads of
it walk ``init_mm``'s page tables. After that drgn's own helpers work on the program.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from drgn import FaultError

from ..arch import architecture_of
from ..errors import TargetError, UnsupportedError, VmemscopeError
from ..vmcoreinfo import parse, symbol
from .base import page_table_of, release_address
from .reads import READ_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drgn import Program

__all__ = ("attach_virtual_memory", "complete", "found_by_walk")

#: entries of page tables that are kept of a dump
_KEPT = 1 << 16
_END = 1 << 64


def complete(prog: Program) -> None:
    """
    Attach virtual memory to a program that is set to a kernel, if drgn can't read it.

    :raises UnsupportedError: if the kernel's page tables are not supported, before anything is
        read through them
    :raises VmemscopeError: as :func:`attach_virtual_memory` does
    """
    from drgn import ProgramFlags

    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return
    keys = parse(prog["VMCOREINFO"].string_())
    with suppress(TargetError):
        # What is missing is said when it is needed.
        page_table_of(prog, keys)
    if architecture_of(prog.platform).drgn_walks(keys):
        return
    try:
        prog.read(symbol(keys, "swapper_pg_dir"), 8)
    except READ_ERRORS:
        attach_virtual_memory(prog)


def attach_virtual_memory(prog: Program) -> None:
    """
    Make the kernel's virtual memory readable, by a walk of its page tables for each read.

    :param prog: a program that is set to a kernel and has VMCOREINFO
    :raises TargetError: if VMCOREINFO lacks what describes the page tables
    :raises UnsupportedError: if the architecture is not supported
    """
    arch = architecture_of(prog.platform)
    walk = _Walk(prog, parse(prog["VMCOREINFO"].string_()))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data = bytearray()
        while count:
            place, left = walk.translate(address)
            size = min(count, left)
            data += prog.read(place, size, True)
            address += size
            count -= size
        return bytes(data)

    start = arch.kernel_space
    prog.add_memory_segment(start, _END - start, read, False)


def found_by_walk(prog: Program, text: bytes) -> bool:
    """
    Return whether a VMCOREINFO is of the kernel in memory: that has its name where it says.

    :param prog: set to a kernel for its physical memory, perhaps with another VMCOREINFO
    :raises UnsupportedError: if it is of a kernel whose page tables are not supported
    """
    keys = parse(text)
    try:
        release = release_address(keys)
        place, left = _Walk(prog, keys).translate(release)
        expected = keys.get("OSRELEASE", "").encode() + b"\0"
        found = prog.read(place, min(len(expected), left), True)
    except UnsupportedError:
        raise
    except (VmemscopeError, LookupError, ValueError, *READ_ERRORS):
        return False
    return bool(found == expected[:left])


class _Walk:
    """Translates one address at a time."""

    def __init__(self, prog: Program, keys: Mapping[str, str]) -> None:
        from drgn import ProgramFlags

        self._windows = architecture_of(prog.platform).windows
        table = page_table_of(prog, keys)
        self._root = table.root
        self._levels = table.levels
        order = "big" if table.dtype[0] == ">" else "little"

        def entry(address: int) -> int:
            return int.from_bytes(prog.read(address, 8, True), order)  # type: ignore[arg-type]

        live = prog.flags & ProgramFlags.IS_LIVE
        # The kernel changes its tables; a dump does not.
        self._entry = entry if live else lru_cache(_KEPT)(entry)

    def translate(self, address: int) -> tuple[int, int]:
        """Return the physical address, and how many bytes are mapped from there on."""
        for first, end in self._windows:
            if first <= address < end:
                return address - first, end - address
        table = self._root
        for level in self._levels:
            form = level.format
            value = self._entry(table + 8 * (address >> level.shift & level.entries - 1))
            if value & form.present.mask != form.present.value:
                break
            leaf = form.table is None or value & form.table.mask != form.table.value
            pieces = form.frame if leaf else form.pointer
            place = 0
            for mask, left in pieces:
                part = value & mask
                place |= part << left if left >= 0 else part >> -left
            if leaf:
                within = address & level.size - 1
                return (place & -level.size) + within, level.size - within
            table = place
        raise FaultError("not mapped", address)
