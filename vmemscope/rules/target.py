# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the structures that lead to pagemaps and ``struct page``s."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..vmemmap.pagemaps import ArrayEntries
from ..vmemmap.tables import decode
from .rule import Scope, Severity, Skip, Violation, rule
from .words import part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import PageTable
    from ..kernel import Damage
    from ..kernel.task import AddressSpace

__all__ = ("CopyFacts", "kernel_entries", "resource_tree", "xarray")


def _damage(several: Iterable[Damage]) -> Iterator[Violation | Skip]:
    for one in several:
        if one.unreadable:
            yield Skip(one.message, partly=True)
        else:
            yield Violation(one.message, vaddr=one.address)


@rule(
    "xarray",
    Severity.ERROR,
    holds="the entries of pgmap_array are the frames of the pagemaps' ranges",
    source="mm/memremap.c: pagemap_range(), xa_store_range()",
    scope=Scope.PAGEMAP | Scope.TARGET,
    meaning="get_dev_pagemap() looks a page frame up in pgmap_array. Entries outside of the"
    " ranges hand out a pagemap for memory that is not its own; page frames without an entry do"
    " not count as device memory. Either is a half-done memremap_pages() or pageunmap_range(),"
    " or damage to the XArray: a stale entry is a use after free waiting for the next lookup.",
    look_at="Whether a device is being added or removed at this moment (the percpu_ref of the"
    " pagemap is dead). If not: the nodes of the XArray (mm/memremap.c: pgmap_array,"
    " lib/xarray.c), their parent and count fields.",
)
def xarray(facts: ArrayEntries | Sequence[Damage]) -> Iterator[Violation | Skip]:
    if not isinstance(facts, ArrayEntries):
        yield from _damage(facts)
        return
    if facts.reason is not None:
        yield Skip(facts.reason)
        return
    for entry in facts.strays:
        start = entry.first * facts.page_size
        place = f"{start:#x}-{start + entry.span * facts.page_size - 1:#x}"
        yield Violation(
            f"pgmap_array has the pagemap at {place}, which is in none of its ranges",
            vaddr=facts.pagemap.address,
            pfn=entry.first,
            expected="frames of the pagemap's ranges",
            observed=place,
        )
    for one, frames in facts.frames.items():
        if facts.missing(one):
            yield Violation(
                f"pgmap_array has {frames} frames of range {one.start:#x}-{one.end:#x};"
                " the range is not audited",
                vaddr=facts.pagemap.address,
                expected=one.size // facts.page_size,
                observed=frames,
            )


@rule(
    "resource-tree",
    Severity.ERROR,
    holds="the resources below iomem_resource form a tree",
    source="kernel/resource.c: __request_resource()",
    scope=Scope.TARGET,
    meaning="The tree below iomem_resource (/proc/iomem) has a child outside of its parent, a"
    " cycle, or more entries than can be. It does not show all System RAM, so checks"
    " that ask whether a frame is memory may find too little. The kernel itself walks this"
    " tree when memory is added, removed or mapped, and may loop for ever.",
    look_at="The struct resource at the address, its parent and its sibling: an entry that was"
    " freed without release_resource() is the usual cause, most often by a driver's error"
    " path.",
)
def resource_tree(damage: Iterable[Damage]) -> Iterator[Violation | Skip]:
    yield from _damage(damage)


class CopyFacts(NamedTuple):
    """The top-level page-table entries for the vmemmap, of the kernel and of processes."""

    table: PageTable
    #: virtual address of the first byte of the vmemmap
    start: int
    #: the entries of ``init_mm`` (uint64), shape ``(n,)``
    own: NDArray[np.uint64]
    #: address spaces with the same entries of theirs, ``None`` if unreadable
    copies: Iterable[tuple[AddressSpace, NDArray[np.uint64] | None]]
    #: why there may be more address spaces
    missed: Sequence[str]


@rule(
    "kernel-entries",
    Severity.ERROR,
    holds="all processes have the top-level page-table entries for the vmemmap that the kernel has",
    source="arch/x86/mm/init_64.c: sync_global_pgds()",
    archs=("x86_64",),
    scope=Scope.TARGET,
    meaning="Each process has a top-level page table of its own, with copies of the kernel's"
    " entries. When the vmemmap grows into a new one (512 GiB with four levels of tables, 256"
    " TiB with five), the kernel copies it to all processes. Where it is missing, an access to"
    " a struct page there on behalf of that process is an unhandled fault; where it is another,"
    " struct pages written by one process are not what another one reads.",
    look_at="Whether the kernel has the fix of 6.17, 6.12.46 and 6.1.151 (x86/mm/64: define"
    " ARCH_PAGE_TABLE_SYNC_MASK and arch_sync_kernel_mappings()); whether it is one process"
    " (its page table was overwritten) or all that are older than the device.",
)
def kernel_entries(facts: CopyFacts) -> Iterator[Violation | Skip]:
    top = facts.table.levels[0]
    # Entries that point to a table are compared by presence and address.
    own = decode(top, facts.own)
    wrong: dict[int, list[tuple[AddressSpace, int]]] = {}
    count = 0
    for space, entries in facts.copies:
        if entries is None:
            yield Skip("page tables of processes that could not be read", partly=True)
            continue
        count += 1
        found = decode(top, entries)
        differs = (found.present != own.present) | (found.address != own.address)
        for index in np.flatnonzero(differs).tolist():
            wrong.setdefault(index, []).append((space, int(entries[index])))
    for reason in facts.missed:
        yield Skip(reason, partly=True)
    if not count:
        yield Skip("no page table of a process could be read")
    for index, several in sorted(wrong.items()):
        space, entry = several[0]
        present = decode(top, np.array([entry], dtype=np.uint64)).present.all()
        what = "is another" if present else "is missing"
        yield Violation(
            f"the kernel's top-level entry {what} in {part(len(several), count, 'page tables')} of"
            f" processes checked, first that of {space.comm} (pid {space.pid}): struct pages there"
            " can't be reached, or are others",
            vaddr=max(facts.start, (facts.start >> top.shift << top.shift) + (index << top.shift)),
            expected=f"{int(facts.own[index]):#x}",
            observed=f"{entry:#x}",
        )
