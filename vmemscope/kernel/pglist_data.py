# SPDX-License-Identifier: LGPL-2.1-or-later
"""
NUMA nodes and their zones: ``struct pglist_data``, ``struct zone``.

Source: ``include/linux/mmzone.h``; all numbers are in page frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from drgn import Object, offsetof, sizeof
from msgspec import Struct

from ..target.reads import READ_ERRORS
from . import Damage, word_of

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("DEVICE", "Zone", "maximum_nodes", "read_zones", "zone_names")

#: the zone of device memory, which also spans all memory between devices
DEVICE = "Device"

#: nodes read: CONFIG_NODES_SHIFT is at most 10
_MAX_NODES = 1024


class Zone(Struct, frozen=True):
    """A ``struct zone`` that is not empty."""

    nid: int
    #: number in ``enum zone_type``
    index: int
    #: the kernel's name: DMA, DMA32, Normal, Movable, Device
    name: str
    #: first pfn that the zone spans, and the first pfn after it
    start: int
    end: int
    present: int
    #: virtual address of the ``struct zone``
    address: int = 0


def zone_names(prog: Program) -> dict[int, str]:
    """Return the names of zones by number, as in ``mm/page_alloc.c: zone_names``."""
    names = {}
    for name, value in prog.type("enum zone_type").enumerators or ():
        if name.startswith("ZONE_"):
            short = name[len("ZONE_") :]
            # The kernel capitalises all but DMA and DMA32 (and HighMem).
            names[int(value)] = short if short.startswith("DMA") else short.capitalize()
    return names


def maximum_nodes(prog: Program) -> int:
    """Return the bits of ``nodemask_t``, a multiple of 64 (1 without NUMA)."""
    try:
        prog.variable("node_data")
    except LookupError:
        return 1
    return min(int(sizeof(prog.type("nodemask_t"))) * 8, _MAX_NODES)


def read_zones(prog: Program) -> tuple[list[Zone], list[Damage]]:
    """Read the zones that are not empty, in order of node and zone, and what can't be read."""
    damage: list[Damage] = []
    zones: list[Zone] = []
    names = zone_names(prog)
    node_type, zone_type = prog.type("struct pglist_data"), prog.type("struct zone")
    array = offsetof(node_type, "node_zones")
    for nid, address in _nodes(prog, damage):
        for index, name in sorted(names.items()):
            at = address + array + index * sizeof(zone_type)
            try:
                zone = Object(prog, zone_type, address=at).read_()
            except READ_ERRORS:
                damage.append(Damage(at, "a zone can't be read", True))
                continue
            start, spanned = zone.zone_start_pfn.value_(), zone.spanned_pages.value_()
            if not spanned:
                continue
            if start >> 52 or spanned >> 52:
                damage.append(Damage(at, f"zone {name} of node {nid} spans more than there can be"))
                continue
            present = zone.present_pages.value_()
            zones.append(Zone(nid, index, name, start, start + spanned, present, at))
    return zones, damage


def _nodes(prog: Program, damage: list[Damage]) -> list[tuple[int, int]]:
    """Return (node, address of its ``struct pglist_data``) of each node."""
    try:
        node_data = prog["node_data"].address_
    except LookupError:
        # CONFIG_NUMA=n
        return [(0, prog["contig_page_data"].address_ or 0)]
    size = maximum_nodes(prog) * 8
    try:
        # A dump may lack the rest of the array, which is zeros.
        count = prog["nr_node_ids"].value_()
        if 0 < count <= _MAX_NODES:
            size = min(size, count * 8)
    except (LookupError, *READ_ERRORS):
        pass
    try:
        raw = prog.read(node_data, size)
    except READ_ERRORS:
        damage.append(Damage(node_data or 0, "node_data can't be read", True))
        return []
    pointers = np.frombuffer(raw, word_of(prog)).tolist()
    return [(nid, pointer) for nid, pointer in enumerate(pointers) if pointer]
