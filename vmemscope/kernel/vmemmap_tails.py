# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The frames of tail pages that zones share: ``zone->vmemmap_tails``.

An array in ``struct zone`` in 7.1 to 7.3 (``mm/hugetlb_vmemmap.c: vmemmap_get_tail()``), a
pointer to an array that is allocated when the zone first needs it in the coming kernel
(``mm/sparse-vmemmap.c: vmemmap_shared_tail_page()``). The type of the member says which.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import Object, TypeKind, sizeof

from ..target.reads import READ_ERRORS
from ..types.needs import has_member
from . import Damage, word_of

if TYPE_CHECKING:
    from drgn import Program

    from .pglist_data import Zone

__all__ = (
    "Slot",
    "SlotState",
    "TailSlots",
    "least_order",
    "read_slots",
    "shares_devices",
    "slots_of",
)

#: log2 of the pages in the largest compound page: 16 GiB of base pages
_MAX_ORDER = 22


class TailSlots(Enum):
    """Where zones have the frames of tail pages that they share."""

    #: they have none
    NONE = "none"
    #: an array in ``struct zone``
    EMBEDDED = "embedded"
    #: an array that ``struct zone`` points to, ``NULL`` until the zone shares anything
    ALLOCATED = "allocated"


class SlotState(Enum):
    """What is known of the frame for a zone and an order."""

    #: the zone shares nothing: it has no array
    NO_ARRAY = "no array"
    #: the zone shares nothing of that order
    EMPTY = "empty"
    FILLED = "filled"
    UNREADABLE = "unreadable"


class Slot(NamedTuple):
    """The slot of a zone for an order."""

    nid: int
    #: number in ``enum zone_type``, and name
    zone: int
    zone_name: str
    #: log2 of the base pages in the compound pages that it is for
    order: int
    state: SlotState
    #: virtual address of the ``struct page`` of the frame that holds the tail pages, 0 if the
    #: slot is not filled
    page: int
    #: virtual address of the slot, 0 if there is none
    address: int


def slots_of(prog: Program) -> TailSlots:
    """Return where zones have their shared frames."""
    if not has_member(prog, "struct zone.vmemmap_tails"):
        return TailSlots.NONE
    kind = prog.type("struct zone").member("vmemmap_tails").type.kind
    return TailSlots.EMBEDDED if kind == TypeKind.ARRAY else TailSlots.ALLOCATED


def shares_devices(prog: Program) -> bool:
    """
    Return whether the kernel's code lets devices share tail pages by zone and order.

    Early snapshots of it have the function, and still the array in ``struct zone``.
    """
    if slots_of(prog) is TailSlots.ALLOCATED:
        return True
    try:
        prog.symbol("vmemmap_shared_tail_page")
    except LookupError:
        return False
    return True


def least_order(prog: Program) -> int:
    """Return log2 of the pages in the smallest compound page with two vpages."""
    page_size = int(prog["PAGE_SIZE"].value_())
    return int(2 * page_size // sizeof(prog.type("struct page"))).bit_length() - 1


def read_slots(
    prog: Program, zones: Sequence[Zone], orders: Collection[int]
) -> tuple[list[Slot], list[Damage]]:
    """
    Read slots of zones, and what can't be read.

    :param orders: those that are in use. An array in ``struct zone`` is read as a whole; how
        long an allocated one is, the kernel's types do not say
    """
    slots = slots_of(prog)
    if slots is TailSlots.NONE:
        return [], []
    found: list[Slot] = []
    damage: list[Damage] = []
    least = least_order(prog)
    wanted = sorted(order for order in set(orders) if least <= order <= _MAX_ORDER)
    for zone in zones:
        member = Object(prog, "struct zone", address=zone.address).vmemmap_tails
        if slots is TailSlots.EMBEDDED:
            found += _embedded(member, zone, least, wanted, damage)
        else:
            found += _allocated(member, zone, least, wanted, damage)
    return found, damage


def _embedded(
    member: Object, zone: Zone, least: int, wanted: Sequence[int], damage: list[Damage]
) -> list[Slot]:
    address = member.address_ or 0
    try:
        pointers = np.frombuffer(member.to_bytes_(), word_of(member.prog_)).tolist()
    except READ_ERRORS:
        damage.append(Damage(address, "vmemmap_tails of a zone can't be read", True))
        return [_slot(zone, order, SlotState.UNREADABLE) for order in wanted]
    filled = {least + i for i, pointer in enumerate(pointers) if pointer}
    return [
        _filled(zone, order, pointers[order - least], address + 8 * (order - least))
        for order in sorted(filled | {one for one in wanted if one - least < len(pointers)})
    ]


def _allocated(
    member: Object, zone: Zone, least: int, wanted: Sequence[int], damage: list[Damage]
) -> list[Slot]:
    if not wanted:
        return []
    prog = member.prog_
    try:
        array = int(member.value_())
    except READ_ERRORS:
        damage.append(Damage(member.address_ or 0, "vmemmap_tails of a zone can't be read", True))
        return [_slot(zone, order, SlotState.UNREADABLE) for order in wanted]
    if not array:
        return [_slot(zone, order, SlotState.NO_ARRAY) for order in wanted]
    found = []
    for order in wanted:
        at = (array + 8 * (order - least)) % (1 << 64)
        try:
            found.append(_filled(zone, order, int(prog.read_u64(at)), at))
        except READ_ERRORS:
            damage.append(Damage(at, "a slot of vmemmap_tails can't be read", True))
            found.append(_slot(zone, order, SlotState.UNREADABLE, at))
    return found


def _filled(zone: Zone, order: int, page: int, address: int) -> Slot:
    state = SlotState.FILLED if page else SlotState.EMPTY
    return Slot(zone.nid, zone.index, zone.name, order, state, page, address)


def _slot(zone: Zone, order: int, state: SlotState, address: int = 0) -> Slot:
    return Slot(zone.nid, zone.index, zone.name, order, state, 0, address)
