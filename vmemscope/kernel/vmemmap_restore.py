# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How a kernel restores the vmemmap of a folio, from its code.

Source: ``mm/hugetlb_vmemmap.c: vmemmap_restore_pte(), reset_struct_pages()`` (5.18 to
7.0). The kernel copies the page that the folio's tail pages map. That page starts with
the head page and the tail pages that have members of the folio, so the kernel then
copies the ``struct page``s after them over them. A stable kernel lost this step. Neither
its structures nor its version show that; only the code does, which has the distance of
the copy as a constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..target.reads import READ_ERRORS
from ..types.needs import has_symbol

if TYPE_CHECKING:
    from drgn import Program

    from ..arch import Architecture

__all__ = ("Restore", "read_restore")

_FUNCTION = "vmemmap_restore_pte"
#: the step, if the compiler did not inline it
_STEP = "reset_struct_pages"
#: suffixes that compilers add to the name of a function
_CHANGED = ("", ".isra.0", ".constprop.0", ".part.0", ".cold")
#: NR_RESET_STRUCT_PAGE: ``struct page``s that the step overwrites, 4 since "mm, hugetlb:
#: increment the number of pages to be reset on HVO" (in v6.15, 6.12.111)
_RESET = (3, 4)
#: offsets of LIST_POISON1 and LIST_POISON2: the function has list_del(), too, and
#: LIST_POISON1 ends like the size of 4 ``struct page``s
_LIST_POISON = (0x100, 0x122)
#: bytes of code read; the function has about 350
_MAX_CODE = 4096


class Restore(NamedTuple):
    """The function that restores a vmemmap page."""

    #: virtual address
    address: int
    #: whether it resets the ``struct page``s that it copies; ``None`` if not known
    resets: bool | None


def read_restore(prog: Program, arch: Architecture, page_size: int) -> Restore | None:
    """
    Read the function that restores a vmemmap page.

    :param page_size: sizeof(struct page), in bytes
    :return: ``None`` if the kernel has no such function
    """
    try:
        symbol = prog.symbol(_FUNCTION)
    except LookupError:
        return None
    if arch.constant is None or any(has_symbol(prog, _STEP + end) for end in _CHANGED):
        return Restore(symbol.address, None)
    try:
        code = prog.read(symbol.address, min(symbol.size, _MAX_CODE))
    except READ_ERRORS:
        return Restore(symbol.address, None)
    kind = np.dtype(arch.constant)
    for offset in _LIST_POISON:
        poison = np.array(arch.poison + offset, dtype=kind.byteorder + "u8")
        code = code.replace(poison.tobytes(), bytes(8))
    # The step copies from as many bytes ahead as it copies.
    sizes = [np.array(count * page_size, dtype=kind).tobytes() for count in _RESET]
    return Restore(symbol.address, any(size in code for size in sizes) if any(code) else None)
