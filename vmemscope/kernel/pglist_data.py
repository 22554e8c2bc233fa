# SPDX-License-Identifier: LGPL-2.1-or-later
"""
NUMA nodes and their zones: ``struct pglist_data``, ``struct zone``.

Source: ``include/linux/mmzone.h``; all in page frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drgn import Object, offsetof, sizeof

from ..target.reads import READ_ERRORS
from . import Damage

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("DEVICE", "Zone", "maximum_nodes", "read_zones", "zone_names")

#: the zone of device memory, which spans whatever lies between devices too
DEVICE = "Device"

#: nodes looked for at the most: CONFIG_NODES_SHIFT is 10 or less
_MAX_NODES = 1024


@dataclass(frozen=True)
class Zone:
    """A ``struct zone`` that spans something."""

    nid: int
    #: number in ``enum zone_type``
    index: int
    #: as the kernel calls it: DMA, DMA32, Normal, Movable, Device
    name: str
    #: first page frame that it spans, and the first after
    start: int
    end: int
    present: int


def zone_names(prog: Program) -> dict[int, str]:
    """Get the names of zones by their number, as ``mm/page_alloc.c: zone_names`` has them."""
    names = {}
    for name, value in prog.type("enum zone_type").enumerators or ():
        if name.startswith("ZONE_"):
            short = name[len("ZONE_") :]
            # DMA, DMA32 and HighMem aside, the kernel capitalises.
            names[int(value)] = short if short.startswith("DMA") else short.capitalize()
    return names


def maximum_nodes(prog: Program) -> int:
    """Get how many nodes ``nodemask_t`` has room for, a multiple of 64 (1 without NUMA)."""
    try:
        prog.variable("node_data")
    except LookupError:
        return 1
    return min(int(sizeof(prog.type("nodemask_t"))) * 8, _MAX_NODES)


def read_zones(prog: Program) -> tuple[list[Zone], list[Damage]]:
    """Read the zones of all nodes that span something, in order of node and zone."""
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
            zones.append(Zone(nid, index, name, start, start + spanned, present))
    return zones, damage


def _nodes(prog: Program, damage: list[Damage]) -> list[tuple[int, int]]:
    """Get (node, address of its ``struct pglist_data``)."""
    try:
        node_data = prog["node_data"].address_
    except LookupError:
        # CONFIG_NUMA=n
        return [(0, prog["contig_page_data"].address_ or 0)]
    found = []
    size = maximum_nodes(prog) * 8
    try:
        # The rest of the array may have no memory in a dump: it is all zeros.
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
    for nid in range(size // 8):
        pointer = int.from_bytes(raw[nid * 8 : nid * 8 + 8], "little")
        if pointer:
            found.append((nid, pointer))
    return found
