# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The frames of tail pages that all devices of a node and order share, and who shares each.

``NODE_DATA(nid)->node_zones[ZONE_DEVICE].vmemmap_tails[]`` of the coming kernel. Which of them
is a device's follows from the node in its head pages and from its order. The slot says
which frame it is; if no device maps that, the frame that they map instead counts, and the slot
is what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field

from ..kernel.hstate import hstate_orders
from ..kernel.pglist_data import DEVICE
from ..kernel.vmemmap_tails import SlotState, TailSlots, read_slots, slots_of
from .layout import Populated
from .tables import Kind

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from ..kernel.page_flags import FlagLayout
    from ..kernel.pglist_data import Zone
    from ..kernel.vmemmap_tails import Slot
    from .pagemaps import PagemapLayout
    from .vmemmap import Vmemmap

__all__ = ("SharedTail", "find_shared_tails", "tail_frames")

#: compound pages of a pagemap that are asked for their node, and for the frame of their tails
_SAMPLE = 16
#: entries that are asked whether they can be written through
_ENTRIES = 9


class SharedTail(Struct):
    """A frame of tail pages, and the pagemaps that should share it."""

    #: node, ``None`` if that is not known
    nid: int | None
    #: log2 of the pages in the compound pages
    order: int
    #: ``None`` if it is not known which one it is
    slot: Slot | None
    #: the frame that the slot points to, ``None`` if it points to none
    named: int | None = None
    #: frames that tail pages map in a sample -> how many do
    seen: Counter[int] = field(default_factory=Counter)
    #: addresses of the pagemaps, in order of their first page frame, and their names
    pagemaps: dict[int, str] = field(default_factory=dict)
    #: whether all pagemaps that may share it are known in full
    complete: bool = True
    #: entries in a sample that can't be written through, and those that can
    read_only: int = 0
    writable: int = 0

    @property
    def protected(self) -> bool:
        """Whether its entries are read-only, as most of them say."""
        return self.read_only > self.writable

    @property
    def slot_unknown(self) -> bool:
        """Whether nothing is known of what the slot holds."""
        return self.slot is None or self.slot.state is SlotState.UNREADABLE

    @property
    def slot_empty(self) -> str | None:
        """Why the slot names no frame, in words; ``None`` if it does."""
        if self.slot is None or self.slot.state is SlotState.FILLED:
            return None
        return str(self.slot.state.value)

    @property
    def most(self) -> int | None:
        """The frame that most tail pages map, ``None`` if they share none."""
        frame, count = max(self.seen.items(), key=lambda one: one[1], default=(0, 0))
        return frame if 2 * count > self.seen.total() and count > 1 else None

    @property
    def pfn(self) -> int | None:
        """The frame that the tail pages should map, ``None`` if that is not known."""
        if self.named is not None and (self.seen[self.named] or self.most is None):
            return self.named
        return self.most

    @property
    def name(self) -> str:
        """What it is, in words."""
        node = "a node" if self.nid is None else f"node {self.nid}"
        return f"the tail pages of order {self.order} that devices of {node} share"

    def others(self, pagemap: int) -> list[str]:
        """Return the names of the other pagemaps that share it."""
        return [name for address, name in self.pagemaps.items() if address != pagemap]

    def is_first(self, pagemap: int) -> bool:
        """Return whether what is wrong with the frame itself is reported with a pagemap."""
        return next(iter(self.pagemaps), None) == pagemap


def find_shared_tails(
    layouts: Sequence[PagemapLayout],
    slots: Sequence[Slot],
    vmemmap: Vmemmap,
    flags: FlagLayout | None,
    complete: bool,
) -> dict[int, SharedTail]:
    """
    Find the frame of tail pages of each pagemap that shares one with others.

    :param layouts: all pagemaps, in order of their first page frame
    :param slots: of the zones of devices
    :param flags: where the node is in page flags, ``None`` if that is not known
    :param complete: whether these are all pagemaps that there are
    :return: by address of the pagemap
    """
    # What is not known of a pagemap may be that it shares one.
    complete &= all(layout.complete and not layout.pagemap.changing for layout in layouts)
    found: dict[int, SharedTail] = {}
    by_place: dict[tuple[int | None, int], SharedTail] = {}
    for layout in layouts:
        if not (layout.dedup.expected and layout.dedup.scheme.per_zone):
            continue
        heads, tails = _sample(layout, vmemmap)
        seen = _frames(tails, vmemmap)
        nid = _node(heads, vmemmap, flags)
        if nid is None:
            nid = _node_by_frame(seen, slots, layout.order, vmemmap)
        place = nid, layout.order
        if place not in by_place:
            by_place[place] = _shared(nid, layout.order, slots, vmemmap, complete)
        one = found[layout.pagemap.address] = by_place[place]
        one.seen.update(seen)
        _add_entries(one, tails, vmemmap)
        one.pagemaps[layout.pagemap.address] = layout.label
    return found


def tail_frames(
    prog: Program, zones: Sequence[Zone], vmemmap: Vmemmap
) -> NDArray[np.uint64] | None:
    """
    Return the frames of tail pages that huge pages of zones share, in order; shape ``(n,)``.

    :param zones: all of RAM
    :return: ``None`` if zones have none, or not all of them could be read
    """
    if slots_of(prog) is TailSlots.NONE:
        return None
    orders, sections = hstate_orders(prog), vmemmap.sections
    if sections.orders is not None:
        orders |= set(np.unique(sections.orders[sections.early]).tolist())
    slots, damage = read_slots(prog, zones, orders)
    if damage:
        return None
    named = {_pfn_of(slot, vmemmap) for slot in slots}
    return np.array(sorted(pfn for pfn in named if pfn is not None), dtype=np.uint64)


def _sample(layout: PagemapLayout, vmemmap: Vmemmap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return page frames of some heads, and the vpages after those with the heads."""
    geometry, heads, tails = vmemmap.geometry, [], []
    size = geometry.compound_vpages(layout.order)
    for piece in layout.pieces(geometry, vmemmap.sections, layout.dedup.scheme):
        if piece.populated is not Populated.COMPOUND:
            continue
        low = -(-(piece.start - piece.origin) // size)
        count = (piece.end - piece.origin) // size - low
        if count <= 0:
            tails.append(np.array([piece.start]))
            continue
        asked = min(count, _SAMPLE)
        some = low + np.arange(asked) * (count - 1) // max(asked - 1, 1)
        heads.append(piece.head + (some << layout.order))
        tails.append(piece.origin + some * size + 1)
        tails.append(piece.origin + (some + 1) * size - 1)
    none = [np.empty(0, dtype=np.int64)]
    return np.concatenate(none + heads), np.concatenate(none + tails)


def _frames(vpages: NDArray[np.int64], vmemmap: Vmemmap) -> Counter[int]:
    pfn, kind = vmemmap.frames_of(vpages)
    return Counter(pfn[kind == Kind.MAPPED].tolist())


def _add_entries(one: SharedTail, tails: NDArray[np.int64], vmemmap: Vmemmap) -> None:
    """Count entries by whether they can be written through."""
    for vpage in tails[:_ENTRIES].tolist():
        for leaves in vmemmap.leaves(vpage, vpage + 1):
            mapped = leaves.kind == Kind.MAPPED
            one.writable += int(np.count_nonzero(mapped & leaves.writable))
            one.read_only += int(np.count_nonzero(mapped & ~leaves.writable))


def _node(heads: NDArray[np.int64], vmemmap: Vmemmap, flags: FlagLayout | None) -> int | None:
    """Return the node that most heads say."""
    if flags is None or not len(heads):
        return None
    (words,), readable = vmemmap.page_members(
        np.sort(heads).astype(np.uint64), (vmemmap.page.flags, vmemmap.word)
    )
    nodes: Counter[int] = Counter()
    for word in words[readable].tolist():
        place = flags.zone_of(word)
        if place is not None and flags.zones.get(place[1]) == DEVICE:
            nodes[place[0]] += 1
    return nodes.most_common(1)[0][0] if nodes else None


def _node_by_frame(
    seen: Mapping[int, int], slots: Sequence[Slot], order: int, vmemmap: Vmemmap
) -> int | None:
    for slot in slots:
        if slot.order == order and _pfn_of(slot, vmemmap) in seen:
            return slot.nid
    return None


def _shared(
    nid: int | None, order: int, slots: Sequence[Slot], vmemmap: Vmemmap, complete: bool
) -> SharedTail:
    slot = next((one for one in slots if (one.nid, one.order) == (nid, order)), None)
    named = None if slot is None else _pfn_of(slot, vmemmap)
    return SharedTail(nid, order, slot, named, complete=complete)


def _pfn_of(slot: Slot, vmemmap: Vmemmap) -> int | None:
    """Return the frame that a slot points to, ``None`` if it points to no ``struct page``."""
    geometry = vmemmap.geometry
    pfn, into = geometry.pfn_at(slot.page)
    if slot.state is not SlotState.FILLED or into or not 0 <= pfn < 1 << 52:
        return None
    _, kind = vmemmap.frames_of(np.array([geometry.vpage(pfn)]))
    return pfn if kind[0] != Kind.HOLE else None
