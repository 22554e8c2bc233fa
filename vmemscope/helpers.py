# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Helpers for drgn's prompt and for scripts, in the manner of drgn's own.

Each takes a :class:`drgn.Program` that is set to a kernel. It uses the types that the
program has, and attaches those of the kernel's BTF only if it has none. What is read of a
dump is kept; a running kernel is read anew by each call. They raise
:class:`~vmemscope.errors.VmemscopeError` where types are missing or the kernel is not
supported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import TargetError, UsageError
from .machine import Kernel
from .types import attach_types, has_types
from .vmemmap.tables import Kind, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object, Program

    from .report.documents.page import Backing

__all__ = (
    "attach_btf",
    "for_each_dev_pagemap",
    "frame_owners",
    "kernel_of",
    "pagemap_of",
    "vmemmap_frame",
)

#: where a program keeps its Kernel
_KEY = "vmemscope"


def attach_btf(prog: Program) -> None:
    """
    Give a program the types of its kernel's BTF and the symbols of its kallsyms.

    Nothing needs debug symbols afterwards: ``prog["pgmap_array"]``, ``prog.type("struct
    page")`` and drgn's helpers work. Types that the program has already come after these.

    :raises TypesError: if the kernel has no BTF, or its memory can't be read
    """
    if _KEY + ".btf" not in prog.config:
        attach_types(prog, "btf")
        prog.config[_KEY + ".btf"] = True


def kernel_of(prog: Program) -> Kernel:
    """
    Return the :class:`~vmemscope.machine.Kernel` of a program: one, with what was read of a
    dump, or for a running kernel one with nothing read yet.
    """
    known = prog.config.get(_KEY)
    if not isinstance(known, Kernel):
        attach = not has_types(prog)
        prog.config[_KEY] = known = Kernel(prog)
        if attach:
            prog.config[_KEY + ".btf"] = True
    return known.again() if known.live else known


def for_each_dev_pagemap(prog: Program) -> Iterator[Object]:
    """
    Iterate over all pagemaps: ``pgmap_array``, in order of their first page frame.

    :return: ``struct dev_pagemap *`` objects, each once; none if the kernel can't have any
    """
    from drgn import Object

    kernel = kernel_of(prog)
    kernel.require()
    for layout in kernel.layouts:
        yield Object(prog, "struct dev_pagemap *", value=layout.pagemap.address)


def pagemap_of(prog: Program, page: Object | int) -> Object | None:
    """
    Return the pagemap that has a page, by its ranges.

    ``mm/memremap.c: get_dev_pagemap()`` finds it so; ``page->pgmap`` should say the same.

    :param page: ``struct page *``, or its value
    :return: ``struct dev_pagemap *``; ``None`` if no pagemap has the page
    :raises UsageError: if no ``struct page`` can be at that address
    """
    from drgn import Object

    kernel = kernel_of(prog)
    kernel.require()
    geometry = kernel.geometry
    address = page if isinstance(page, int) else int(page.value_())
    pfn, into = geometry.pfn_at(address)
    if into or not 0 <= pfn < kernel.max_frames:
        raise UsageError(f"{address:#x} is not the address of a struct page")
    for layout in kernel.layouts:
        if any(start <= pfn < end for start, end in layout.pfns):
            return Object(prog, "struct dev_pagemap *", value=layout.pagemap.address)
    return None


def vmemmap_frame(prog: Program, pfn: int) -> int | None:
    """
    Return the page frame that holds a page's ``struct page``, by the page tables.

    :param pfn: of the page
    :return: page frame number; ``None`` if the ``struct page`` is not mapped
    :raises UsageError: if the kernel can't have that page frame
    :raises TargetError: if the page tables can't be read
    """
    kernel = kernel_of(prog)
    kernel.require()
    _check_pfn(kernel, pfn)
    vmemmap = kernel.vmemmap
    address = vmemmap.geometry.page_address(pfn)
    way = trace(vmemmap.page_tables, vmemmap.table, address)
    if way.kind is Kind.UNREADABLE:
        raise TargetError(f"the page tables that map {address:#x} can't be read")
    return way.pfn


def frame_owners(prog: Program, pfn: int) -> Backing | None:
    """
    Return what of the memory map lies in a page frame: which ``struct page`` objects it has.

    This walks the whole vmemmap.

    :return: the pages of the vmemmap that map it, in runs; ``None`` if none does
    :raises UsageError: if the kernel can't have that page frame
    """
    from .audits.page.examine import Examination
    from .types.names import PAGE

    kernel = kernel_of(prog)
    kernel.require(PAGE)
    _check_pfn(kernel, pfn)
    return Examination(kernel).frames.backing(pfn)


def _check_pfn(kernel: Kernel, pfn: int) -> None:
    if not 0 <= pfn < kernel.max_frames:
        raise UsageError(f"{pfn:#x} is no page frame number: there are {kernel.max_frames:#x}")
