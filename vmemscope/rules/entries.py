# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rule about copies of the kernel's top-level page-table entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..vmemmap.tables import decode
from . import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ..arch import PageTable
    from ..kernel.task import AddressSpace
    from .findings import Collector

__all__ = ("check_copies",)


def check_copies(
    start: int,
    own: NDArray[np.uint64],
    copies: Iterable[tuple[AddressSpace, NDArray[np.uint64] | None]],
    table: PageTable,
    missed: Sequence[str],
    findings: Collector,
) -> None:
    """
    Check that processes have the top-level entries of the vmemmap that the kernel has.

    :param start: virtual address of the first byte of the vmemmap
    :param own: the entries of ``init_mm`` for it, shape ``(n,)``
    :param copies: address spaces with the same entries of theirs, ``None`` if unreadable
    :param missed: why there may be more address spaces
    """
    rule = RULES["kernel-entries"]
    top = table.levels[0]
    known = decode(top, own)
    wrong: dict[int, list[tuple[AddressSpace, int]]] = {}
    count = 0
    for space, entries in copies:
        if entries is None:
            findings.skipped("page tables of processes that could not be read", rule)
            continue
        count += 1
        found = decode(top, entries)
        other = (found.present != known.present) | (found.address != known.address)
        for index in np.flatnonzero(other).tolist():
            wrong.setdefault(index, []).append((space, int(entries[index])))
    for reason in missed:
        findings.skipped(reason, rule)
    if not count:
        findings.skipped("no page table of a process could be read", rule)
        return
    findings.checked(rule)
    for index, several in sorted(wrong.items()):
        space, entry = several[0]
        present = decode(top, np.array([entry], dtype=np.uint64)).present[0]
        what = "is another" if present else "is missing"
        findings.add(
            rule,
            f"the kernel's top-level entry {what} in {len(several)} of {count} page tables of"
            f" processes looked at, the first of {space.comm} (pid {space.pid}): there struct pages"
            " can't be reached, or are others",
            vaddr=max(start, (start >> top.shift << top.shift) + (index << top.shift)),
            expected=f"{int(own[index]):#x}",
            observed=f"{entry:#x}",
        )
