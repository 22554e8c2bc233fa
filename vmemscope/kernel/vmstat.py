# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's counters of its memory map.

Source: ``mm/vmstat.c`` (``nr_memmap_pages``, ``nr_memmap_boot_pages``, 6.11+, also in
``/proc/vmstat``), ``mm/page_ext.c: alloc_page_ext()``, which adds its tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from ..target.reads import READ_ERRORS
from . import Damage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drgn import Program

__all__ = ("Counters", "read_counters", "read_page_ext_size")


class Counters(Struct, frozen=True):
    """The counters, in frames; ``None`` where the kernel has none or they can't be read."""

    #: allocated after boot
    pages: int | None
    #: allocated at boot
    boot: int | None
    #: name -> virtual address, of the counters that the kernel has
    addresses: Mapping[str, int] = field(default_factory=dict)
    damage: tuple[Damage, ...] = ()


def read_counters(prog: Program) -> Counters:
    """Read ``nr_memmap_pages`` and ``nr_memmap_boot_pages``."""
    values: list[int | None] = []
    addresses: dict[str, int] = {}
    damage = []
    for name in ("nr_memmap_pages", "nr_memmap_boot_pages"):
        try:
            counter = prog[name]
            addresses[name] = counter.address_ or 0
            values.append(int(counter.counter.value_()))
        except LookupError:
            values.append(None)
        except READ_ERRORS:
            damage.append(Damage(counter.address_ or 0, f"{name} can't be read", True))
            values.append(None)
    return Counters(values[0], values[1], addresses, tuple(damage))


def read_page_ext_size(prog: Program) -> int:
    """Read ``page_ext_size``, bytes for each page frame; 0 if the kernel has no page_ext."""
    try:
        # An unsigned long: its symbol is enough.
        return int(prog.read_u64(prog.symbol("page_ext_size").address))
    except (LookupError, *READ_ERRORS):
        return 0
