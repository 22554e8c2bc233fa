# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB vmemmap optimization (HVO): whether it is enabled, and which form of it a kernel has.

Source: ``mm/hugetlb_vmemmap.c``. Members and symbols say which form it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ..target.reads import READ_ERRORS
from . import Damage
from .vmemmap_tails import TailSlots, slots_of

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("Hvo", "read_hvo")


class Hvo(Struct, frozen=True):
    """The vmemmap optimization of a kernel, and whether it is enabled."""

    #: whether the kernel was built with it
    built_in: bool
    #: whether new folios are optimized (``vm.hugetlb_optimize_vmemmap``);
    #: ``None`` if the switch can't be read
    enabled: bool | None
    #: optimized folios that the static key counts; ``None`` in kernels without
    #: the key (7.1+), and if it can't be read
    key: int | None
    #: virtual address of the key, ``None`` in kernels without one
    key_address: int | None
    #: tail pages of all folios of a zone share a frame (``zone->vmemmap_tails``, 7.1+)
    shared_tails: bool
    #: bit of ``private`` of a head page: its folio is optimized
    flag: int


def read_hvo(prog: Program) -> tuple[Hvo, list[Damage]]:
    """Read whether the kernel optimizes, and how; and what can't be read."""
    damage: list[Damage] = []
    # Since "mm: hugetlb_vmemmap: introduce the name HVO" and its neighbours (6.0);
    # hugetlb_free_vmemmap_enabled from 5.14 on, the key alone in 5.18 and 5.19.
    enabled, has_switch = _read_switch(prog, damage)
    key, key_address = _read_key(prog, damage)
    shared = slots_of(prog) is not TailSlots.NONE
    try:
        flag = 1 << int(prog.constant("HPG_vmemmap_optimized").value_())
    except LookupError:
        flag = 0
    built_in = bool(flag) and (has_switch or key_address is not None or shared)
    return Hvo(built_in, enabled, key, key_address, shared, flag), damage


def _read_switch(prog: Program, damage: list[Damage]) -> tuple[bool | None, bool]:
    """Read the switch: its value, and whether the kernel has it."""
    try:
        switch = prog["vmemmap_optimize_enabled"]
    except LookupError:
        return None, False
    try:
        return bool(switch.value_()), True
    except READ_ERRORS:
        damage.append(Damage(switch.address_ or 0, "vmemmap_optimize_enabled can't be read", True))
        return None, True


def _read_key(prog: Program, damage: list[Damage]) -> tuple[int | None, int | None]:
    """Read the static key: its count, and its address."""
    try:
        key = prog["hugetlb_optimize_vmemmap_key"]
    except LookupError:
        return None, None
    try:
        return int(key.key.enabled.counter.value_()), key.address_
    except READ_ERRORS:
        damage.append(Damage(key.address_ or 0, "hugetlb_optimize_vmemmap_key can't be read", True))
        return None, key.address_
