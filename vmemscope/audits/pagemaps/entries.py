# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holds the kernel's top-level page-table entries against the copies that processes have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...kernel.task import read_address_spaces
from ...rules.target import CopyFacts, kernel_entries
from ...target.reads import READ_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drgn import Program
    from numpy.typing import NDArray

    from ...kernel.task import AddressSpace
    from ...rules.findings import Collector
    from ...vmemmap.vmemmap import Vmemmap

    _Entries = NDArray[np.uint64]

__all__ = ("check_entries_of_processes",)


def check_entries_of_processes(
    prog: Program, vmemmap: Vmemmap, frames: int, changing: bool, findings: Collector
) -> None:
    """
    Check that processes have the kernel's top-level entries for the vmemmap.

    :param frames: page frames that there can be
    :param changing: whether a device is being set up or torn down: entries are
        copied after they were made
    """
    geometry, table = vmemmap.geometry, vmemmap.table
    if not geometry.arch.copies_kernel_entries:
        findings.skipped("processes have no copies of the kernel's entries", kernel_entries)
        return
    if changing:
        findings.skipped("a device is being set up or torn down", kernel_entries)
        return
    top = table.levels[0]
    first = geometry.vmemmap >> top.shift
    count = min(max((geometry.end(frames) - 1 >> top.shift) - first + 1, 1), top.entries)
    offset = first % top.entries * np.dtype(table.dtype).itemsize
    own = _entries(prog, table.root + offset, count, table.dtype, physical=True)
    if own is None:
        findings.skipped("the kernel's own page table could not be read", kernel_entries)
        return

    def copies(spaces: Iterable[AddressSpace]) -> Iterator[tuple[AddressSpace, _Entries | None]]:
        for space in spaces:
            yield space, _entries(prog, space.pgd + offset, count, table.dtype)

    spaces = read_address_spaces(prog)
    facts = CopyFacts(table, geometry.vmemmap, own, copies(spaces.found), spaces.missed)
    findings.check(kernel_entries, facts)


def _entries(
    prog: Program, address: int, count: int, dtype: str, physical: bool = False
) -> NDArray[np.uint64] | None:
    """Read entries of a table; ``None`` if that can't be done."""
    try:
        raw = prog.read(address, count * np.dtype(dtype).itemsize, physical)
    except READ_ERRORS:
        return None
    return np.frombuffer(raw, dtype).astype(np.uint64)
