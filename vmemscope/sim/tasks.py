# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Processes, each with page tables of its own.

Source: ``kernel/fork.c``; ``arch/x86/mm/pgtable.c: pgd_ctor()`` copies the kernel's
half of ``init_mm``'s top-level table, and ``sync_global_pgds()`` keeps it the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .objects import Struct, list_add_tail
from .pagetable import PageTables

if TYPE_CHECKING:
    from .objects import KernelMemory
    from .page_alloc import PageAllocator
    from .slab import Slab

__all__ = ("PROCESSES", "Tasks")

#: user processes; a kernel thread, which has no memory of its own, comes between them
PROCESSES = (b"init", b"sshd", b"bash")
_KTHREAD = b"kthreadd"

#: KERNEL_PGD_BOUNDARY: entries of the kernel's half
_KERNEL_HALF = 256


class Tasks:
    """
    All tasks.

    :param init_task: the first of them
    """

    def __init__(
        self,
        memory: KernelMemory,
        slab: Slab,
        pages: PageAllocator,
        tables: PageTables,
        init_task: Struct,
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.slab = slab
        self.pages = pages
        self.tables = tables
        self.init_task = init_task
        init_task.init_list("tasks")
        init_task.set_bytes("comm", b"swapper/0")
        #: pfn of the top-level table of each of :data:`PROCESSES`
        self.pgds: list[int] = []
        self._pid = 0
        for number, name in enumerate(PROCESSES):
            self._fork(name, self._mm())
            if not number:
                self._fork(_KTHREAD, 0)

    def _mm(self) -> int:
        mm = self.slab.struct("mm_struct")
        pgd = self.pages.alloc_page()
        words = self.memory.physical.words(pgd)
        if self.memory.arch.copies_entries:
            words[_KERNEL_HALF:] = self.memory.physical.words(self.tables.root)[_KERNEL_HALF:]
        mm["pgd"] = self.memory.addresses.va(pgd * self.units.page_size)
        self.pgds.append(pgd)
        return mm.va

    def _fork(self, name: bytes, mm: int) -> None:
        self._pid += 1
        task = self.slab.struct("task_struct")
        task["pid"] = self._pid
        task["mm"] = mm
        task.set_bytes("comm", name)
        list_add_tail(self.memory, task.addr("tasks"), self.init_task.addr("tasks"))
