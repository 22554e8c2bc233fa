# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every ``struct dev_pagemap`` of a kernel, from ``pgmap_array``.

``mm/memremap.c: pagemap_range()`` stores a pagemap with ``xa_store_range()``
over the page frames of each of its ranges. That makes one entry for each aligned
power-of-two piece, so a pagemap has several entries. The kernel stores them before
it populates the vmemmap, and removes them last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import Object, TypeKind, offsetof, sizeof
from msgspec import Struct

from ..target.reads import READ_ERRORS
from . import Damage
from .percpu_ref import PERCPU_REF_DEAD
from .xarray import Entry, entries

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("Pagemap", "PhysicalRange", "VmemAltmap", "read_pagemap", "read_pagemaps")

# include/linux/memremap.h: a macro, so not in the types
_PGMAP_ALTMAP_VALID = 1 << 0

#: ranges read of one pagemap; the kernel's drivers make a few
MAX_RANGES = 4096

#: ``enum memory_type`` (its values changed in 6.0) -> our name
_TYPES = {
    "MEMORY_DEVICE_PRIVATE": "private",
    "MEMORY_DEVICE_COHERENT": "coherent",
    "MEMORY_DEVICE_FS_DAX": "fsdax",
    "MEMORY_DEVICE_GENERIC": "generic",
    "MEMORY_DEVICE_PCI_P2PDMA": "p2pdma",
}


class PhysicalRange(Struct, frozen=True):
    """A range of physical addresses in bytes, ``end`` inclusive as in ``struct range``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes in the range."""
        return self.end - self.start + 1


class VmemAltmap(Struct, frozen=True):
    """``struct vmem_altmap``: where its memory map is on the device; all in frames."""

    base_pfn: int
    end_pfn: int
    reserve: int
    free: int
    align: int
    alloc: int

    @property
    def bounds(self) -> tuple[int, int]:
        """The first frame that it can hand out, and the first after them; damaged, any numbers."""
        low = self.base_pfn + self.reserve
        return low, low + self.free


class Pagemap(Struct, frozen=True):
    """A ``struct dev_pagemap``."""

    #: virtual address of the structure
    address: int
    #: generic, fsdax, p2pdma, private, coherent or unknown
    type: str
    #: log2 of the pages in a compound page; ``None`` on kernels before 5.17
    vmemmap_shift: int | None
    #: ``nr_range``, as it stands
    nr_range: int
    ranges: tuple[PhysicalRange, ...]
    altmap: VmemAltmap | None
    #: entries of ``pgmap_array`` that point to the pagemap
    entries: tuple[Entry, ...]
    #: parts that can't be read
    damage: tuple[Damage, ...] = ()
    #: ``ref.percpu_count_ptr``: a pointer, with flags in its low bits; 0 if unknown
    ref: int = 0

    @property
    def changing(self) -> bool:
        """
        Whether its device is being set up or torn down.

        ``mm/memremap.c: memremap_pages()`` counts a range in ``nr_range`` when the range
        is complete; ``memunmap_pages()`` kills ``ref`` before it undoes a range.
        """
        if any(one.unreadable for one in self.damage):
            # What was not read is 0, too.
            return False
        return self.nr_range == 0 or bool(self.ref & PERCPU_REF_DEAD)


def read_pagemaps(prog: Program) -> tuple[list[Pagemap], list[Damage]]:
    """
    Read all pagemaps, in order of physical address.

    :return: pagemaps; and nodes of ``pgmap_array`` that can't be followed
    """
    pgmap_array = prog["pgmap_array"]
    try:
        found, damage = entries(pgmap_array)
    except READ_ERRORS:
        return [], [Damage(pgmap_array.address_ or 0, "pgmap_array can't be read", True)]
    by_address: dict[int, list[Entry]] = {}
    for entry in found:
        if entry.value & 3:
            damage.append(
                Damage(entry.value, f"pgmap_array holds {entry.value:#x}, which is no pointer")
            )
            continue
        by_address.setdefault(entry.value, []).append(entry)
    types = _memory_types(prog)
    return [
        _read_pagemap(prog, address, tuple(spans), types) for address, spans in by_address.items()
    ], damage


def read_pagemap(prog: Program, address: int) -> Pagemap:
    """Read the pagemap at an address, whatever ``pgmap_array`` has of it."""
    return _read_pagemap(prog, address, (), _memory_types(prog))


def _memory_types(prog: Program) -> dict[int, str]:
    enumerators = prog.type("enum memory_type").enumerators or ()
    return {value: _TYPES[name] for name, value in enumerators if name in _TYPES}


def _read_pagemap(
    prog: Program, address: int, spans: tuple[Entry, ...], types: dict[int, str]
) -> Pagemap:
    pagemap_type = prog.type("struct dev_pagemap")
    try:
        pgmap = Object(prog, pagemap_type, address=address).read_()
    except READ_ERRORS:
        return Pagemap(
            address=address,
            type="unknown",
            vmemmap_shift=None,
            nr_range=0,
            ranges=(),
            altmap=None,
            entries=spans,
            damage=(Damage(address, "struct dev_pagemap can't be read", True),),
        )
    has_shift = any(m.name == "vmemmap_shift" for m in pagemap_type.members or ())
    ranges, damage = _read_ranges(prog, pgmap, address)
    return Pagemap(
        address=address,
        type=types.get(pgmap.type.value_(), "unknown"),
        vmemmap_shift=pgmap.vmemmap_shift.value_() if has_shift else None,
        nr_range=pgmap.nr_range.value_(),
        ranges=ranges,
        altmap=_read_altmap(pgmap) if pgmap.flags.value_() & _PGMAP_ALTMAP_VALID else None,
        entries=spans,
        damage=damage,
        ref=_read_ref(pgmap),
    )


def _read_ref(pgmap: Object) -> int:
    try:
        ref = pgmap.ref
        # A pointer, perhaps to the driver's, before b80892ca022e ("memremap: remove
        # support for external pgmap refcounts") (in v5.17).
        if ref.type_.kind == TypeKind.POINTER:
            ref = ref[0]
        return int(ref.percpu_count_ptr.value_())
    except (AttributeError, *READ_ERRORS):
        return 0


def _read_ranges(
    prog: Program, pgmap: Object, address: int
) -> tuple[tuple[PhysicalRange, ...], tuple[Damage, ...]]:
    count = pgmap.nr_range.value_()
    damage: tuple[Damage, ...] = ()
    if count > MAX_RANGES or count < 0:
        # The first range is in the structure itself.
        damage += (Damage(address, f"nr_range is {count}"),)
        count = 1
    range_type = prog.type("struct range")
    start = address + offsetof(pgmap.type_, "range")
    try:
        raw = prog.read(start, count * sizeof(range_type))
    except READ_ERRORS:
        return (), (*damage, Damage(start, "ranges of the pagemap can't be read", True))
    ranges = []
    for offset in range(0, len(raw), sizeof(range_type)):
        one = Object.from_bytes_(prog, range_type, raw[offset : offset + sizeof(range_type)])
        ranges.append(PhysicalRange(one.start.value_(), one.end.value_()))
    return tuple(ranges), damage


def _read_altmap(pgmap: Object) -> VmemAltmap:
    altmap = pgmap.altmap
    return VmemAltmap(
        base_pfn=altmap.base_pfn.value_(),
        end_pfn=altmap.end_pfn.value_(),
        reserve=altmap.reserve.value_(),
        free=altmap.free.value_(),
        align=altmap.align.value_(),
        alloc=altmap.alloc.value_(),
    )
