# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Entries of an XArray, each with the indices that it spans.

drgn's ``xa_for_each()`` trusts the nodes: it never leaves a cycle. It also does not
return how many indices an entry spans. Source:
``include/linux/xarray.h``, ``lib/xarray.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import offsetof, sizeof

from ..target.reads import READ_ERRORS
from . import Damage, word_of

if TYPE_CHECKING:
    from drgn import Object

__all__ = ("Entry", "entries")

#: nodes read; a pagemap takes a handful
_MAX_NODES = 65536


class Entry(NamedTuple):
    """One entry of an XArray."""

    #: first index
    first: int
    #: number of indices
    span: int
    #: the entry as stored, a pointer
    value: int


def _is_internal(value: int) -> bool:
    return value & 3 == 2


def entries(xa: Object) -> tuple[list[Entry], list[Damage]]:
    """
    Read all entries of an XArray in order of index.

    :param xa: ``struct xarray``
    :return: entries; and nodes that can't be read or followed
    :raises drgn.FaultError: if the XArray itself can't be read
    """
    prog = xa.prog_
    node_type = prog.type("struct xa_node")
    slots_type = node_type.member("slots").type
    slots = slots_type.length or 0
    slots_offset = offsetof(node_type, "slots")
    shift_offset = offsetof(node_type, "shift")
    chunk_shift = slots.bit_length() - 1
    word = word_of(prog)

    found: list[Entry] = []
    damage: list[Damage] = []
    head = xa.xa_head.value_()
    if not _is_internal(head):
        return ([Entry(0, 1, head)] if head else []), damage
    # (node address, first index, shift of the parent or None at the top)
    pending: list[tuple[int, int, int | None]] = [(head - 2, 0, None)]
    visited: set[int] = set()
    while pending:
        address, first, parent_shift = pending.pop()
        if address in visited:
            damage.append(Damage(address, "XArray node is reachable twice"))
            continue
        if len(visited) >= _MAX_NODES:
            damage.append(Damage(address, f"XArray has over {_MAX_NODES} nodes"))
            break
        visited.add(address)
        try:
            raw = prog.read(address, sizeof(node_type))
        except READ_ERRORS:
            damage.append(Damage(address, "XArray node can't be read", unreadable=True))
            continue
        shift = raw[shift_offset]
        # A child covers one slot of its parent (lib/xarray.c: xas_create()).
        if (
            shift % chunk_shift
            or shift >= 64
            or shift != (shift if parent_shift is None else parent_shift - chunk_shift)
        ):
            damage.append(Damage(address, f"XArray node has shift {shift}, which fits no level"))
            continue
        values = np.frombuffer(raw, word, slots, slots_offset).tolist()
        children = []
        for slot, value in enumerate(values):
            index = first + (slot << shift)
            if _is_internal(value) and value > 4096:
                children.append((value - 2, index, shift))
            elif value and not _is_internal(value):
                span = 1
                # Siblings point back to the slot that holds the entry (xa_mk_sibling()).
                while slot + span < slots and values[slot + span] == slot << 2 | 2:
                    span += 1
                found.append(Entry(index, span << shift, value))
        pending.extend(reversed(children))
    found.sort()
    return found, damage
