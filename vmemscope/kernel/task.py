# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Processes and their page tables.

Source: ``include/linux/sched.h``. All thread group leaders are on the list that starts
at ``init_task``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import Object, offsetof, sizeof
from msgspec import Struct

from ..target.reads import READ_ERRORS
from ..text import printable

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("AddressSpace", "AddressSpaces", "read_address_spaces")

#: processes that are read, kernel threads included
MAX_TASKS = 4096


class AddressSpace(Struct, frozen=True):
    """A ``struct mm_struct``, and the first process that has it."""

    pid: int
    comm: str
    #: virtual address of the top-level page table
    pgd: int


class AddressSpaces(Struct, frozen=True):
    """Address spaces of user processes."""

    found: tuple[AddressSpace, ...]
    #: why some may be missing, each a clause without a full stop
    missed: tuple[str, ...] = ()


def read_address_spaces(prog: Program) -> AddressSpaces:
    """Read the address spaces of up to :data:`MAX_TASKS` processes."""
    try:
        task_type = prog.type("struct task_struct")
        tasks, mm_at = offsetof(task_type, "tasks"), offsetof(task_type, "mm")
        list_type, mm_type = prog.type("struct list_head"), task_type.member("mm").type
        init_tasks = prog["init_task"].tasks
        head = init_tasks.address_of_().value_()
    except LookupError:
        return AddressSpaces((), ("types or variables of processes are missing",))
    first, end = min(tasks, mm_at), max(tasks + sizeof(list_type), mm_at + sizeof(mm_type))
    found: dict[int, AddressSpace] = {}
    missed: dict[str, None] = {}
    at, seen = head, set[int]()
    try:
        at = init_tasks.next.value_()
        while at != head:
            if at in seen or len(seen) >= MAX_TASKS:
                several = f"there are more than {MAX_TASKS} processes"
                missed[several if at not in seen else "the list of processes has a cycle"] = None
                break
            seen.add(at)
            task = Object(prog, task_type, address=(at - tasks) % (1 << 64))
            # Both in one read: reads take most of the time here.
            raw = prog.read(task.address_ + first, end - first)
            following = Object.from_bytes_(prog, list_type, raw[tasks - first :]).next.value_()
            try:
                mm = Object.from_bytes_(prog, mm_type, raw[mm_at - first :])
                if mm and mm.value_() not in found:
                    comm = printable(task.comm.string_())
                    found[mm.value_()] = AddressSpace(task.pid.value_(), comm, mm.pgd.value_())
            except READ_ERRORS:
                missed["page tables of processes that could not be read"] = None
            at = following
    except READ_ERRORS:
        missed["the list of processes could not be followed"] = None
    return AddressSpaces(tuple(found.values()), tuple(missed))
