# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The sections of the sparse memory model, which also tell where the vmemmap is.

Source: ``include/linux/mmzone.h`` (``struct mem_section``, SECTION_* bits),
``mm/sparse.c: sparse_encode_mem_map()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, offsetof, sizeof

from ..errors import TargetError, UnsupportedError
from ..vmcoreinfo import number
from . import Damage

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

__all__ = ("Sections", "read_sections")

# Bits of section_mem_map: an anonymous enum since 6.1, macros with the same
# values before (SECTION_MAP_LAST_BIT excepted, see below).
_EARLY_BIT = 3

#: roots read at the most: 52 bits of physical address in sections of 16 MiB
_MAX_ROOTS = 1 << 24


@dataclass(frozen=True)
class Sections:
    """Present sections in order of number; arrays have shape ``(n,)``."""

    #: section numbers (int64)
    number: NDArray[np.int64]
    #: whether the section was there at boot (bool)
    early: NDArray[np.bool_]
    #: base pages in a section
    pages: int
    #: virtual address of the ``struct page`` of frame 0
    vmemmap: int
    damage: tuple[Damage, ...] = ()

    def is_early(self, section: int) -> bool:
        """Tell whether a section is present since boot (``early_section()``)."""
        index = int(np.searchsorted(self.number, section))
        return (
            index < len(self.number)
            and bool(self.number[index] == section)
            and bool(self.early[index])
        )


def read_sections(prog: Program, vmcoreinfo: Mapping[str, str], page_size: int) -> Sections:
    """
    Read the section table (SPARSEMEM_EXTREME: roots of one page each).

    :raises TargetError: if there is no present section to find the vmemmap by
    :raises UnsupportedError: if the kernel has another memory model
    """
    roots = _root_count(vmcoreinfo)
    section_type = prog.type("struct mem_section")
    section_size = sizeof(section_type)
    per_root = page_size // section_size
    pages = 1 << (number(vmcoreinfo, "SECTION_SIZE_BITS") - (page_size.bit_length() - 1))
    damage: list[Damage] = []
    table = prog["mem_section"].value_()
    pointers = np.frombuffer(_read(prog, table, roots * 8, page_size, damage), np.uint64)
    numbers = []
    maps = []
    offset = offsetof(section_type, "section_mem_map")
    for root in np.flatnonzero(pointers).tolist():
        raw = _read(prog, int(pointers[root]), per_root * section_size, page_size, damage)
        column = np.frombuffer(raw, np.uint8).reshape(per_root, section_size)
        maps.append(column[:, offset : offset + 8].copy().view(np.uint64)[:, 0])
        numbers.append(np.arange(per_root, dtype=np.int64) + root * per_root)
    section_map = np.concatenate(maps) if maps else np.empty(0, np.uint64)
    present = (section_map & np.uint64(1)) != 0
    section_map = section_map[present]
    mask = np.uint64(~((1 << _map_last_bit(prog)) - 1) & ((1 << 64) - 1))
    bases, counts = np.unique(section_map & mask, return_counts=True)
    if not len(bases):
        raise TargetError(
            "no memory section is present, so the vmemmap can't be found",
            "the dump may be cut off or damaged" if damage else None,
        )
    return Sections(
        number=np.concatenate(numbers)[present],
        early=(section_map & np.uint64(1 << _EARLY_BIT)) != 0,
        pages=pages,
        # The kernel stores "mem_map - section start", which with a vmemmap is
        # the vmemmap itself in every section.
        vmemmap=int(bases[np.argmax(counts)]),
        damage=tuple(damage),
    )


def _root_count(vmcoreinfo: Mapping[str, str]) -> int:
    try:
        roots = int(vmcoreinfo["LENGTH(mem_section)"])
    except (KeyError, ValueError):
        raise UnsupportedError(
            "VMCOREINFO has no LENGTH(mem_section): the kernel has no sparse memory map"
        ) from None
    if not 0 < roots <= _MAX_ROOTS:
        raise TargetError(f"VMCOREINFO has a LENGTH(mem_section) of {roots}")
    return roots


def _map_last_bit(prog: Program) -> int:
    try:
        return int(prog.constant("SECTION_MAP_LAST_BIT").value_())
    except LookupError:
        # Before 6.1 a macro, (1UL << 4) then (1UL << 5); vmemmap is aligned
        # to more than either.
        return 5


def _read(prog: Program, address: int, size: int, page_size: int, damage: list[Damage]) -> bytes:
    """Read virtual memory; pages that can't be read come back as zeros and damage."""
    try:
        return bytes(prog.read(address, size))
    except (FaultError, OSError, OverflowError):
        pass
    result = bytearray(size)
    start = address
    while start < address + size:
        end = min((start // page_size + 1) * page_size, address + size)
        try:
            result[start - address : end - address] = prog.read(start, end - start)
        except (FaultError, OSError, OverflowError):
            damage.append(Damage(start, "section table can't be read", True))
        start = end
    return bytes(result)
