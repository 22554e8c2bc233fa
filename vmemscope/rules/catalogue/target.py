# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all pagemaps are found and reached by."""

from __future__ import annotations

from ..legacy import Rule
from ..rule import Scope, Severity

__all__ = ("RULES",)

RULES = (
    Rule(
        "xarray",
        Severity.ERROR,
        "the entries of pgmap_array are the frames of the pagemaps' ranges",
        "mm/memremap.c: pagemap_range(), xa_store_range()",
        scope=Scope.PAGEMAP | Scope.TARGET,
        meaning="get_dev_pagemap() looks a page frame up in pgmap_array. Entries that lie outside"
        " of the ranges hand out a pagemap for memory that is not its own; page frames without an"
        " entry look like no device memory at all. Either is a half-done memremap_pages() or"
        " pageunmap_range(), or damage to the XArray: a stale entry is a use after free waiting"
        " for the next lookup.",
        look_at="Whether a device is coming or going at this very moment (the percpu_ref of the"
        " pagemap is dead). If not: the nodes of the XArray (mm/memremap.c: pgmap_array,"
        " lib/xarray.c), their parent and count fields.",
    ),
    Rule(
        "resource-tree",
        Severity.ERROR,
        "the resources below iomem_resource form a tree",
        "kernel/resource.c: __request_resource()",
        scope=Scope.TARGET,
        meaning="The tree below iomem_resource (/proc/iomem) has a child outside of its parent, a"
        " cycle, or more entries than can be. What is System RAM can't be told from it, so checks"
        " that ask whether a frame is memory may find too little. The kernel itself walks this"
        " tree when memory is added, removed or mapped, and may loop for ever.",
        look_at="The struct resource at the address, its parent and its sibling: an entry that was"
        " freed without release_resource() is the usual cause, most often by a driver's error"
        " path.",
    ),
    Rule(
        "kernel-entries",
        Severity.ERROR,
        "all processes have the top-level page-table entries for the vmemmap that the kernel has",
        "arch/x86/mm/init_64.c: sync_global_pgds()",
        archs=("x86_64",),
        scope=Scope.TARGET,
        meaning="Each process has a top-level page table of its own, with copies of the kernel's"
        " entries. When the vmemmap grows into a new one (512 GiB with four levels of tables, 256"
        " TiB with five), the kernel copies it to all processes. Where it is missing, the kernel"
        " takes a fault that nobody handles as soon as it touches a struct page there on behalf of"
        " that process; where it is another, struct pages written by one process are not what"
        " another one reads.",
        look_at="Whether the kernel has the fix of 6.17, 6.12.46 and 6.1.151 (x86/mm/64: define"
        " ARCH_PAGE_TABLE_SYNC_MASK and arch_sync_kernel_mappings()); whether it is one process"
        " (its page table was overwritten) or all that are older than the device.",
    ),
)
