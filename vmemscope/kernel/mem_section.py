# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The sections of the sparse memory model, and the address of the vmemmap.

Source: ``include/linux/mmzone.h`` (``struct mem_section``, SECTION_* bits),
``mm/sparse.c: sparse_encode_mem_map()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import offsetof, sizeof
from msgspec import Struct, field

from ..errors import TargetError, UnsupportedError
from ..target.reads import READ_ERRORS
from ..vmcoreinfo import number
from . import Damage, word_of

if TYPE_CHECKING:
    from drgn import Program, Type
    from numpy.typing import NDArray

__all__ = ("Sections", "read_sections", "section_flags")

#: enumerator -> name for people, and its value where the kernel has none of them: bits of
#: section_mem_map are an anonymous enum since 6.1, and were macros before (but for
#: SECTION_MAP_LAST_BIT, see below)
_FLAGS = {
    "SECTION_MARKED_PRESENT_BIT": ("present", 0),
    "SECTION_HAS_MEM_MAP_BIT": ("has memory map", 1),
    "SECTION_IS_ONLINE_BIT": ("online", 2),
    "SECTION_IS_EARLY_BIT": ("early", 3),
    # 5.12+
    "SECTION_TAINT_ZONE_DEVICE_BIT": ("partly device", None),
    # 6.15+
    "SECTION_IS_VMEMMAP_PREINIT_BIT": ("memory map preinitialised", None),
}

#: the member with the order: as it is in mm-unstable, and in early postings of that series
_ORDERS = ("compound_page_order", "order")
#: roots read at the most: 52 bits of physical address in sections of 16 MiB
_MAX_ROOTS = 1 << 24
#: roots that are read whatever the kernel says of how many are in use
_FEW_ROOTS = 1 << 18
#: the highest section that there is, newest name first
_HIGHEST = ("__highest_used_section_nr", "__highest_present_section_nr")
#: addresses of pages of the table that are kept
_MAX_ALLOCATED = 8
#: unreadable pages of the table after which the rest is not read
_MAX_DAMAGE = 1024


def _no_words() -> NDArray[np.uint64]:
    return np.empty(0, dtype=np.uint64)


class SectionBits(NamedTuple):
    """Numbers of bits of ``section_mem_map``."""

    present: int = 0
    has_map: int = 1
    online: int = 2
    early: int = 3


#: those of kernels without enumerators
_OLD_BITS = SectionBits()


class Sections(Struct, frozen=True):
    """Present sections in order of number; arrays have shape ``(n,)``."""

    #: section numbers (int64)
    number: NDArray[np.int64]
    #: whether the section was present at boot (bool)
    early: NDArray[np.bool_]
    #: base pages in a section
    pages: int
    #: virtual address of the ``struct page`` of frame 0
    vmemmap: int
    damage: tuple[Damage, ...] = ()
    #: ``section_mem_map``, as it stands (uint64)
    raw: NDArray[np.uint64] = field(default_factory=_no_words)
    bits: SectionBits = _OLD_BITS
    #: the bits of ``section_mem_map`` that are no flags
    map_mask: int = (1 << 64) - 1
    #: ``usage``, a pointer (uint64)
    usage: NDArray[np.uint64] = field(default_factory=_no_words)
    #: ``page_ext``, a pointer (uint64), 0 in kernels without it
    page_ext: NDArray[np.uint64] = field(default_factory=_no_words)
    #: log2 of the pages in the compound pages that the memory map of each was populated for
    #: (``compound_page_order``, uint64), 0 if for none; ``None`` in kernels without the member
    orders: NDArray[np.uint64] | None = None
    #: virtual addresses of some pages of the table itself
    allocated: tuple[int, ...] = ()

    @property
    def bases(self) -> NDArray[np.uint64]:
        """Each section's memory map, as the address of the ``struct page`` of pfn 0 (uint64)."""
        bases: NDArray[np.uint64] = self.raw & np.uint64(self.map_mask)
        return bases

    @property
    def has_map(self) -> NDArray[np.bool_]:
        """Whether each section has the flag SECTION_HAS_MEM_MAP (bool)."""
        has_map: NDArray[np.bool_] = (self.raw & np.uint64(1 << self.bits.has_map)) != 0
        return has_map

    @property
    def online(self) -> NDArray[np.bool_]:
        """
        Whether each section is online (bool).

        The kernel initialises struct pages when memory goes online, or when a pagemap takes
        it: in other sections they mean nothing
        (``mm/memory_hotplug.c: pfn_to_online_page()``).
        """
        online: NDArray[np.bool_] = (self.raw & np.uint64(1 << self.bits.online)) != 0
        return online

    def index(self, section: int) -> int | None:
        """Return the index of a section in the arrays, ``None`` if it is not present."""
        index = int(np.searchsorted(self.number, section))
        if index < len(self.number) and self.number[index] == section:
            return index
        return None

    def order_runs(self, first: int, end: int) -> list[tuple[int, int, int | None]]:
        """
        Return runs of sections that are populated for compound pages of one order.

        Sections that the page frames have only a part of are left out.

        :param first: page frame
        :param end: first page frame after them
        :return: first section, section after the last, and the order: ``None`` if the section is
            not present, or the kernel's sections have none
        """
        first, end = -(-first // self.pages), end // self.pages
        if self.orders is None or first >= end:
            return [(first, end, None)] if first < end else []
        low, high = np.searchsorted(self.number, [first, end]).tolist()
        number, orders = self.number[low:high], self.orders[low:high]
        apart = (np.diff(number) != 1) | (orders[1:] != orders[:-1])
        cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(number)] if len(number) else []
        runs: list[tuple[int, int, int | None]] = []
        at = first
        for start, stop in pairwise(cuts):
            begin, after = int(number[start]), int(number[stop - 1]) + 1
            if at < begin:
                runs.append((at, begin, None))
            runs.append((begin, after, int(orders[start])))
            at = after
        return [*runs, (at, end, None)] if at < end else runs

    def is_early(self, section: int) -> bool | None:
        """
        Return whether a section was present at boot (``early_section()``).

        It is ``None`` for a section that the part of the table may have that was not read.
        """
        index = self.index(section)
        if index is None:
            return None if self.damage else False
        return bool(self.early[index])


def read_sections(
    prog: Program, vmcoreinfo: Mapping[str, str], page_size: int, kernel_space: int
) -> Sections:
    """
    Read the section table (SPARSEMEM_EXTREME: roots of one page each).

    :param kernel_space: the first virtual address that can be the kernel's
    :raises TargetError: if the present sections do not agree on a vmemmap, and not even
        the kernel's own variable says where it is
    :raises UnsupportedError: if the kernel has another memory model
    """
    roots = _root_count(vmcoreinfo)
    section_type = prog.type("struct mem_section")
    section_size = sizeof(section_type)
    per_root = page_size // section_size
    pages = 1 << (number(vmcoreinfo, "SECTION_SIZE_BITS") - (page_size.bit_length() - 1))
    bits = _section_bits(prog)
    damage: list[Damage] = []
    try:
        table = prog["mem_section"].value_()
    except READ_ERRORS:
        address = prog["mem_section"].address_ or 0
        damage.append(Damage(address, "mem_section can't be read", True))
        table = roots = 0
    word = word_of(prog)
    # With many bits of physical address, the table of roots is large, and most of it empty.
    in_use = _roots_in_use(prog, roots, per_root)
    roots = min(roots, max(in_use, _FEW_ROOTS))
    pointers = np.frombuffer(_read(prog, table, roots * 8, page_size, damage), word)
    # The table after the last root in use is zeros, which filtered dumps lack.
    end = table + in_use * 8
    damage = [one for one in damage if not table or one.address < end]
    numbers = []
    rows = []
    for root in np.flatnonzero(pointers).tolist():
        if len(damage) > _MAX_DAMAGE:
            damage.append(
                Damage(table + root * 8, "the rest of the section table is not read", True)
            )
            break
        raw = _read(prog, int(pointers[root]), per_root * section_size, page_size, damage)
        rows_of_root = np.frombuffer(raw, np.uint8).reshape(per_root, section_size)
        section_map = _column(rows_of_root, section_type, "section_mem_map", word)
        present = (section_map & np.uint64(1 << bits.present)) != 0
        rows.append(rows_of_root[present])
        numbers.append(np.flatnonzero(present) + root * per_root)
    found = np.concatenate(rows) if rows else np.empty((0, section_size), np.uint8)
    section_map = _column(found, section_type, "section_mem_map", word)
    mask = ~((1 << _map_last_bit(prog)) - 1) & ((1 << 64) - 1)
    # The vmemmap starts at a page boundary, in the kernel's address space.
    bases = section_map & np.uint64(mask)
    sound = (bases % np.uint64(page_size) == 0) & (bases >= np.uint64(kernel_space))
    bases, counts = np.unique(bases[sound], return_counts=True)
    # The kernel stores "mem_map - section start": in every section, the address of the
    # vmemmap.
    agree = len(bases) > 0 and counts.max() * 2 > len(section_map)
    vmemmap = int(bases[np.argmax(counts)]) if agree else None
    if damage and not len(section_map):
        vmemmap = _vmemmap_base(prog)
    if vmemmap is None:
        why = damage[0].message if damage else "no section is present, or they do not agree"
        raise TargetError(
            f"{why}, so the vmemmap can't be found",
            "the dump lacks the page, or a page table on the way to it" if damage else None,
        )
    return Sections(
        number=np.concatenate([np.empty(0, np.int64), *numbers]).astype(np.int64, copy=False),
        early=(section_map & np.uint64(1 << bits.early)) != 0,
        bits=bits,
        pages=pages,
        vmemmap=vmemmap,
        damage=tuple(damage),
        raw=section_map,
        map_mask=mask,
        usage=_column(found, section_type, "usage", word),
        page_ext=_column(found, section_type, "page_ext", word),
        orders=_orders(found, section_type, word),
        allocated=(table, *pointers[pointers != 0][: _MAX_ALLOCATED - 1].tolist()),
    )


def section_flags(prog: Program, raw: int) -> list[str]:
    """Return the names of the flags that a ``section_mem_map`` has."""
    bits = _flag_bits(prog)
    return [word for name, (word, _) in _FLAGS.items() if name in bits and raw >> bits[name] & 1]


def _flag_bits(prog: Program) -> dict[str, int]:
    """Return the bits of the flags that this kernel has, by their enumerators."""
    found = {}
    for name in _FLAGS:
        with suppress(LookupError):
            found[name] = int(prog.constant(name).value_())
    return found or {name: bit for name, (_, bit) in _FLAGS.items() if bit is not None}


def _section_bits(prog: Program) -> SectionBits:
    found = _flag_bits(prog)
    has_map = found.get("SECTION_HAS_MEM_MAP_BIT", _OLD_BITS.has_map)
    return SectionBits(
        # "mm/sparse: remove SECTION_MARKED_PRESENT_BIT" (mm-unstable in September 2026)
        found.get("SECTION_MARKED_PRESENT_BIT", has_map),
        has_map,
        found.get("SECTION_IS_ONLINE_BIT", _OLD_BITS.online),
        found.get("SECTION_IS_EARLY_BIT", _OLD_BITS.early),
    )


def _column(
    rows: NDArray[np.uint8], section_type: Type, member: str, word: str
) -> NDArray[np.uint64]:
    """Return a member, a word, of each ``struct mem_section``; zeros if it is missing."""
    try:
        offset = offsetof(section_type, member)
    except (LookupError, ValueError):
        # No such member, or, in damaged BTF, a bit-field.
        return np.zeros(len(rows), dtype=np.uint64)
    column: NDArray[np.uint64] = rows[:, offset : offset + 8].copy().view(word)[:, 0]
    return column.astype(np.uint64, copy=False)


def _orders(rows: NDArray[np.uint8], section_type: Type, word: str) -> NDArray[np.uint64] | None:
    """Return ``compound_page_order``, an ``unsigned int``, of each ``struct mem_section``."""
    for name in _ORDERS:
        # In damaged BTF, it may be a bit-field.
        with suppress(LookupError, ValueError):
            offset = offsetof(section_type, name)
            break
    else:
        return None
    half = word.replace("8", "4")
    column: NDArray[np.uint64] = rows[:, offset : offset + 4].copy().view(half)[:, 0]
    return column.astype(np.uint64)


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


def _roots_in_use(prog: Program, roots: int, per_root: int) -> int:
    """Return the number of roots in use (``__section_mark_present()``)."""
    for name in _HIGHEST:
        try:
            highest = int(prog[name].value_())
        except (LookupError, *READ_ERRORS):
            continue
        return min(highest // per_root + 1, roots)
    return roots


def _vmemmap_base(prog: Program) -> int | None:
    """Return the start of the vmemmap where it is a variable (KASLR on x86-64)."""
    try:
        return int(prog["vmemmap_base"].value_()) or None
    except (LookupError, *READ_ERRORS):
        return None


def _map_last_bit(prog: Program) -> int:
    try:
        return int(prog.constant("SECTION_MAP_LAST_BIT").value_())
    except LookupError:
        # A macro before 6.1, (1UL << 4), then (1UL << 5). The vmemmap's alignment is larger.
        return 5


def _read(prog: Program, address: int, size: int, page_size: int, damage: list[Damage]) -> bytes:
    """Read virtual memory; return unreadable pages as zeros, and add them to damage."""
    try:
        return bytes(prog.read(address, size))
    except READ_ERRORS:
        pass
    result = bytearray(size)
    start = address
    while start < address + size:
        end = min((start // page_size + 1) * page_size, address + size)
        try:
            result[start - address : end - address] = prog.read(start, end - start)
        except READ_ERRORS:
            damage.append(Damage(start, "section table can't be read", True))
        start = end
    return bytes(result)
