# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How a kernel gives a folio its vmemmap back: by what its own code does.

Source: ``mm/hugetlb_vmemmap.c: vmemmap_restore_pte(), reset_struct_pages()`` (5.18 to
7.0). The page that the tail pages of a folio map is copied, and that page begins with
the head and the tail pages that have members of the folio; so what lies behind them
is then copied over them. That a stable kernel lost this step is in none of its
structures and not to be told from its version: only from the code, where the distance
that is copied over stands as a constant.
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
#: the step as a function of its own, where the compiler did not put it into the other
_STEP = "reset_struct_pages"
#: what compilers add to the name of a function that they have changed
_CHANGED = ("", ".isra.0", ".constprop.0", ".part.0", ".cold")
#: NR_RESET_STRUCT_PAGE: ``struct page``s that are copied over, 4 since "mm, hugetlb:
#: increment the number of pages to be reset on HVO" (in v6.15, 6.12.111)
_RESET = (3, 4)
#: LIST_POISON1 and LIST_POISON2 less where poison begins: list_del() is in the function
#: too, and the first of the two looks like the size of 4 ``struct page``s
_LIST_POISON = (0x100, 0x122)
#: bytes of code looked at; it has some 350
_MAX_CODE = 4096


class Restore(NamedTuple):
    """The function that restores a page of vmemmap."""

    #: virtual address
    address: int
    #: whether it resets what it copies; ``None`` if that can't be told
    resets: bool | None


def read_restore(prog: Program, arch: Architecture, page_size: int) -> Restore | None:
    """
    Look into the function that restores a page of vmemmap.

    :param page_size: sizeof(struct page)
    :return: ``None`` if the kernel has none
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
    # What the step copies from is as far off as it copies bytes.
    sizes = [np.array(count * page_size, dtype=kind).tobytes() for count in _RESET]
    return Restore(symbol.address, any(size in code for size in sizes) if any(code) else None)
