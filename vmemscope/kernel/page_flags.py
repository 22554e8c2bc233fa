# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The layout of ``page->flags``: PG_* flags, zone and node.

From the top down: section (not with a vmemmap), node, zone, last CPU and other fields
that depend on the configuration, flags. ``include/linux/page-flags-layout.h``
defines the widths as macros, which the types do not have. The width of the zone follows
from ``enum zone_type``; that of the node from the size of ``nodemask_t`` or, if that is
one word, from pages whose zone is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from .pglist_data import DEVICE, maximum_nodes, zone_names

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("FlagLayout", "PageFlags", "read_flag_layout")

_WORD_BITS = 64
_WORD_MASK = (1 << _WORD_BITS) - 1


class PageFlags(Struct, frozen=True):
    """``page->flags``, decoded."""

    raw: int
    #: names of flags; a bit may have several, for different uses of the page
    names: tuple[str, ...]
    #: number in ``enum zone_type``, and its name; ``None`` where the layout is not known
    zone: int | None
    zone_name: str | None
    nid: int | None
    #: the bits between flags and zone, in place
    other: int


class FlagLayout(Struct, frozen=True):
    """The layout of ``page->flags``."""

    #: bit -> names
    names: dict[int, tuple[str, ...]]
    #: number of flags, from bit 0
    flags: int
    zones: dict[int, str]
    #: widths in bits; ``None`` if the width of the node is not known
    zone_width: int
    node_width: int | None

    @property
    def device_zone(self) -> int | None:
        """Number of ZONE_DEVICE, ``None`` if there is none."""
        return next((number for number, name in self.zones.items() if name == DEVICE), None)

    def zone_of(self, raw: int) -> tuple[int, int] | None:
        """Return the numbers of node and zone, ``None`` if the layout is not known."""
        if self.node_width is None:
            return None
        return _node_and_zone(raw, self.node_width, self.zone_width)

    def decode(self, raw: int) -> PageFlags:
        """Decode ``page->flags``."""
        place = self.zone_of(raw)
        nid, zone = place if place is not None else (None, None)
        top = self.zone_width + (self.node_width or 0)
        other = (raw & _WORD_MASK >> top) >> self.flags << self.flags
        return PageFlags(
            raw=raw,
            names=tuple(
                name
                for bit in range(self.flags)
                if raw >> bit & 1
                for name in self.names.get(bit, (f"bit {bit}",))
            ),
            zone=zone,
            zone_name=None if zone is None else self.zones.get(zone),
            nid=nid,
            other=other,
        )


def read_flag_layout(
    prog: Program,
    samples: Iterable[tuple[int, int, int]],
    devices: Callable[[], Sequence[int]] = lambda: (),
) -> FlagLayout:
    """
    Find the layout.

    :param samples: ``page->flags``, node and number of the zone of some pages,
        used if the types leave the layout open
    :param devices: gets ``page->flags`` of some pages in ZONE_DEVICE, used if these samples
        leave it open, too
    """
    names: dict[int, list[str]] = {}
    enumerators = dict(prog.type("enum pageflags").enumerators or ())
    count = int(enumerators["__NR_PAGEFLAGS"])
    for name, bit in enumerators.items():
        if name.startswith("PG_"):
            names.setdefault(int(bit), []).append(name)
    zones = zone_names(prog)
    # ZONES_SHIFT: log2 of MAX_NR_ZONES, rounded up.
    zone_width = max(len(zones) - 1, 0).bit_length()
    return FlagLayout(
        names={bit: tuple(several) for bit, several in names.items()},
        flags=count,
        zones=zones,
        zone_width=zone_width,
        node_width=_node_width(
            maximum_nodes(prog),
            zone_width,
            samples,
            lambda: ((raw, device) for raw in devices() for device in _numbers_of(zones, DEVICE)),
        ),
    )


def _numbers_of(zones: dict[int, str], name: str) -> list[int]:
    return [number for number, known in zones.items() if known == name]


def _node_width(
    nodes: int,
    zone_width: int,
    samples: Iterable[tuple[int, int, int]],
    devices: Callable[[], Iterable[tuple[int, int]]],
) -> int | None:
    if nodes == 1:
        return 0
    if nodes > _WORD_BITS:
        return (nodes - 1).bit_length()
    # One word has room for any NODES_SHIFT up to 6.
    samples = list(samples)
    fitting = [
        width
        for width in range(6, -1, -1)
        if all(_node_and_zone(raw, width, zone_width) == (n, z) for raw, n, z in samples)
    ]
    if len(fitting) > 1:
        # Zone 0 of node 0 fits all widths. Of devices, the node is not known.
        known = list(devices())
        fitting = [
            width
            for width in fitting
            if known and all(_node_and_zone(raw, width, zone_width)[1] == z for raw, z in known)
        ]
    return fitting[0] if len(fitting) == 1 else None


def _node_and_zone(raw: int, node_width: int, zone_width: int) -> tuple[int, int]:
    node_shift = _WORD_BITS - node_width
    zone_shift = node_shift - zone_width
    return raw >> node_shift, raw >> zone_shift & (1 << zone_width) - 1
