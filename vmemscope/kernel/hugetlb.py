# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB: its sizes, its folios, and its vmemmap optimization (HVO).

Sources: ``include/linux/hugetlb.h`` (``struct hstate``, ``enum hugetlb_page_flags``),
``mm/hugetlb.c``, ``mm/hugetlb_vmemmap.c``; ``include/linux/mmzone.h`` for
``zone->vmemmap_tails``. What a kernel has of HVO is told by its members and
symbols, not by its version.

A folio that is free is on ``hugepage_freelists`` of its node, one in use on
``hugepage_activelist``, both linked by ``lru`` of the head page; one that is
being migrated, demoted or freed is on neither. Lists are followed element by
element and never trusted to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import FaultError, Object, offsetof, sizeof

from ..columns import join
from ..text import printable
from ..vmcoreinfo import number
from . import Damage

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from .page import PageLayout
    from .pglist_data import Zone

__all__ = (
    "FolioLayout",
    "Folios",
    "Hstate",
    "Hvo",
    "Place",
    "TailPage",
    "decode_folios",
    "has_hugetlb",
    "no_folios",
    "read_folio_layout",
    "read_folios",
    "read_hstates",
    "read_hvo",
    "read_tail_pages",
)

#: ``hstates`` has HUGE_MAX_HSTATE elements, a handful on every architecture
_MAX_HSTATES = 64
#: no folio is larger than 2 to this many base pages: 16 GiB pages of powerpc are 2^18
_MAX_ORDER = 32
#: orders of the page allocator, if types don't tell
_ORDERS = 11
_READ_ERRORS = (FaultError, OSError, OverflowError)


@dataclass(frozen=True)
class Hstate:
    """A ``struct hstate``: one size of huge pages."""

    #: virtual address of the structure
    address: int
    #: ``hugepages-2048kB``, made safe to print
    name: str
    #: log2 of the base pages in a folio
    order: int
    #: what the kernel counts, in folios
    nr: int
    free: int
    reserved: int
    surplus: int
    #: nodes with folios; ``None`` if that could not be read
    nodes: frozenset[int] | None
    #: base pages of vmemmap that each folio keeps frames for
    kept: int
    #: the page allocator has no pages of that size: they are put together of smaller ones
    gigantic: bool


@dataclass(frozen=True)
class Hvo:
    """What a kernel has of the vmemmap optimization, and whether it is on."""

    #: whether the kernel was built with it
    built_in: bool
    #: whether new folios are optimized (``vm.hugetlb_optimize_vmemmap``);
    #: ``None`` if that could not be read
    enabled: bool | None
    #: how many optimized folios its static key counts; ``None`` in kernels without
    #: one (7.1+), and if it could not be read
    key: int | None
    #: virtual address of the key, ``None`` in kernels without one
    key_address: int | None
    #: tail pages of all folios of a zone share a frame (``zone->vmemmap_tails``, 7.1+)
    shared_tails: bool
    #: bit of ``private`` of a head page that says that it is optimized
    flag: int


class Place(IntEnum):
    """Which list a folio is on."""

    FREE = 0
    #: in use
    ACTIVE = 1
    #: neither
    NONE = 2


class Folios(NamedTuple):
    """HugeTLB folios, in order of page frame; all arrays have shape ``(n,)``."""

    #: page frame of the head page (int64)
    head: NDArray[np.int64]
    #: index into the hstates (int64)
    hstate: NDArray[np.int64]
    #: :class:`Place` (uint8)
    place: NDArray[np.uint8]
    #: node whose free list it is on, -1 if it is on none (int64)
    nid: NDArray[np.int64]
    #: ``flags`` of the head page (uint64)
    flags: NDArray[np.uint64]
    #: ``private`` of the head page, flags of HugeTLB (uint64)
    private: NDArray[np.uint64]
    #: whether head and first tail page look like those of a folio of its
    #: hstate: PG_head, marked as HugeTLB's, right order (bool)
    sound: NDArray[np.bool_]


class TailPage(NamedTuple):
    """An element of ``zone->vmemmap_tails`` that is set."""

    nid: int
    #: number in ``enum zone_type``, and name
    zone: int
    zone_name: str
    #: log2 of the base pages in the folios that it is for
    order: int
    #: virtual address of the ``struct page`` of the frame that holds the tail pages
    page: int


@dataclass(frozen=True)
class FolioLayout:
    """Where things are in the first two ``struct page``s of a HugeTLB folio; in bytes."""

    page: PageLayout
    lru: int
    mapping: int
    private: int
    #: what marks a folio as HugeTLB's: the word of 4 bytes at this offset,
    #: under this mask, has this value; ``None`` if the types don't tell
    mark: tuple[int, int, int] | None


def has_hugetlb(prog: Program) -> bool:
    """Tell whether the kernel has HugeTLB at all (CONFIG_HUGETLB_PAGE)."""
    try:
        prog.variable("hstates")
    except LookupError:
        return False
    return True


def read_hstates(prog: Program) -> tuple[list[Hstate], list[Damage]]:
    """Read all ``hstates``, in the kernel's order."""
    hstate_type = prog.type("struct hstate")
    base = prog["hstates"].address_ or 0
    try:
        count = int(prog["hugetlb_max_hstate"].value_())
    except _READ_ERRORS:
        return [], [Damage(base, "hugetlb_max_hstate can't be read", True)]
    if not 0 <= count <= _MAX_HSTATES:
        return [], [Damage(base, f"hugetlb_max_hstate is {count}")]
    found, damage = [], []
    for index in range(count):
        address = base + index * sizeof(hstate_type)
        try:
            one = _read_hstate(Object(prog, hstate_type, address=address), address)
        except _READ_ERRORS:
            damage.append(Damage(address, "a struct hstate can't be read", True))
            continue
        if one.order < _MAX_ORDER:
            found.append(one)
        else:
            damage.append(Damage(address, f"the order of a struct hstate is {one.order}"))
    return found, damage


def _read_hstate(hstate: Object, address: int) -> Hstate:
    # Member by member: it is large, and a dump may have only parts of it.
    order = hstate.order.value_()
    return Hstate(
        address=address,
        name=_name(hstate, order),
        order=order,
        nr=hstate.nr_huge_pages.value_(),
        free=hstate.free_huge_pages.value_(),
        reserved=hstate.resv_huge_pages.value_(),
        surplus=hstate.surplus_huge_pages.value_(),
        nodes=_nodes(hstate.nr_huge_pages_node),
        kept=_kept(hstate, order),
        gigantic=order >= _orders(hstate.prog_),
    )


def _orders(prog: Program) -> int:
    """Get how many orders of pages the page allocator has (MAX_ORDER, NR_PAGE_ORDERS)."""
    try:
        return int(prog.type("struct zone").member("free_area").type.length)
    except (LookupError, AttributeError, TypeError):
        return _ORDERS


def _name(hstate: Object, order: int) -> str:
    try:
        return printable(hstate.name.string_())
    except _READ_ERRORS:
        return f"of order {order}"


def _nodes(counters: Object) -> frozenset[int] | None:
    try:
        values = np.frombuffer(counters.to_bytes_(), np.uint32)
    except _READ_ERRORS:
        return None
    return frozenset(np.flatnonzero(values).tolist())


def _kept(hstate: Object, order: int) -> int:
    # Head page and first page of tails had a frame each before "mm: hugetlb: free the
    # 2nd vmemmap page associated with each HugeTLB page" (in v5.18); how many are
    # freed was in struct hstate up to 5.18, 0 with the optimization off.
    try:
        freed = int(hstate.nr_free_vmemmap_pages.value_())
    except AttributeError:
        return 1
    prog = hstate.prog_
    pages = (sizeof(prog.type("struct page")) << order) // prog["PAGE_SIZE"]
    return int(pages.value_()) - freed if freed else 1


def read_hvo(prog: Program) -> tuple[Hvo, list[Damage]]:
    """Read whether the kernel optimizes, and how."""
    damage: list[Damage] = []
    # "mm: hugetlb_vmemmap: introduce the name HVO" and what is around it (6.0);
    # hugetlb_free_vmemmap_enabled from 5.14 on, the key alone in 5.18 and 5.19.
    enabled, has_switch = _read_switch(prog, damage)
    key, key_address = _read_key(prog, damage)
    shared = _has_member(prog, "struct zone", "vmemmap_tails")
    try:
        flag = 1 << int(prog.constant("HPG_vmemmap_optimized").value_())
    except LookupError:
        flag = 0
    built_in = bool(flag) and (has_switch or key_address is not None or shared)
    return Hvo(built_in, enabled, key, key_address, shared, flag), damage


def _read_switch(prog: Program, damage: list[Damage]) -> tuple[bool | None, bool]:
    """Read the switch: its value, and whether there is one."""
    try:
        switch = prog["vmemmap_optimize_enabled"]
    except LookupError:
        return None, False
    try:
        return bool(switch.value_()), True
    except _READ_ERRORS:
        damage.append(Damage(switch.address_ or 0, "vmemmap_optimize_enabled can't be read", True))
        return None, True


def _read_key(prog: Program, damage: list[Damage]) -> tuple[int | None, int | None]:
    """Read what the static key counts, and where it is if there is one."""
    try:
        key = prog["hugetlb_optimize_vmemmap_key"]
    except LookupError:
        return None, None
    try:
        return int(key.key.enabled.counter.value_()), key.address_
    except _READ_ERRORS:
        damage.append(Damage(key.address_ or 0, "hugetlb_optimize_vmemmap_key can't be read", True))
        return None, key.address_


def _has_member(prog: Program, struct: str, member: str) -> bool:
    try:
        offsetof(prog.type(struct), member)
    except LookupError:
        return False
    return True


def read_tail_pages(prog: Program, zones: Sequence[Zone]) -> tuple[list[TailPage], list[Damage]]:
    """Read which tail pages zones share (``zone->vmemmap_tails``, 7.1+)."""
    found: list[TailPage] = []
    damage: list[Damage] = []
    # VMEMMAP_TAIL_MIN_ORDER: the smallest folio with two pages of vmemmap.
    page_size = int(prog["PAGE_SIZE"].value_())
    min_order = (2 * page_size // sizeof(prog.type("struct page"))).bit_length() - 1
    for zone in zones:
        address = 0
        try:
            slots = _node(prog, zone.nid).node_zones[zone.index].vmemmap_tails
            address = slots.address_ or 0
            pointers = np.frombuffer(slots.to_bytes_(), np.uint64)
        except _READ_ERRORS:
            damage.append(Damage(address, "vmemmap_tails of a zone can't be read", True))
            continue
        for slot in np.flatnonzero(pointers).tolist():
            found.append(
                TailPage(zone.nid, zone.index, zone.name, min_order + slot, int(pointers[slot]))
            )
    return found, damage


def _node(prog: Program, nid: int) -> Object:
    try:
        return prog["node_data"][nid]
    except LookupError:
        # CONFIG_NUMA=n
        return prog["contig_page_data"]


def read_folio_layout(
    prog: Program, vmcoreinfo: Mapping[str, str], page: PageLayout
) -> FolioLayout:
    """Look the layout up in the target's types. :raises LookupError: if one is missing"""
    page_type = prog.type("struct page")
    return FolioLayout(
        page=page,
        lru=offsetof(page_type, "lru"),
        mapping=offsetof(page_type, "mapping"),
        private=offsetof(page_type, "private"),
        mark=_mark(prog, vmcoreinfo, page.size),
    )


def _mark(prog: Program, vmcoreinfo: Mapping[str, str], size: int) -> tuple[int, int, int] | None:
    page_type = prog.type("struct page")
    mapcount = offsetof(page_type, "_mapcount")
    # page_type and _mapcount are one word.
    try:
        # "mm: rework PageType so that it takes the top byte" (in v6.12)
        return mapcount, 0xFF00_0000, int(prog.constant("PGTY_hugetlb").value_()) << 24
    except LookupError:
        pass
    if "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)" in vmcoreinfo:
        # A bit of page_type, cleared (in v6.9).
        value = number(vmcoreinfo, "PAGE_HUGETLB_MAPCOUNT_VALUE") & 0xFFFF_FFFF
        return mapcount, 0xFFFF_FFFF, value
    try:
        # A flag of the first tail page (in v6.6).
        flag = 1 << int(prog.constant("PG_hugetlb").value_())
        return size + offsetof(page_type, "flags"), flag, flag
    except LookupError:
        pass
    try:
        # A destructor, by its number, a byte of the first tail page.
        dtor = int(prog.constant("HUGETLB_PAGE_DTOR").value_())
        offset = size + offsetof(page_type, "compound_dtor")
    except LookupError:
        return None
    shift = offset % 4 * 8
    return offset - offset % 4, 0xFF << shift, dtor << shift


def no_folios() -> Folios:
    """Make an empty table of folios."""
    none = np.empty(0, dtype=np.int64)
    words = none.astype(np.uint64)
    return Folios(none, none, none.astype(np.uint8), none, words, words, none.astype(np.bool_))


def decode_folios(
    heads: Sequence[int],
    raw: bytes,
    hstates: Sequence[Hstate],
    which: NDArray[np.int64],
    place: Place,
    nid: int,
    layout: FolioLayout,
) -> Folios:
    """
    Decode folios.

    :param heads: page frames of head pages
    :param raw: the first two ``struct page``s of each
    :param which: index into ``hstates`` of each (int64)
    :param nid: of the free list that they are on, else -1
    """
    size, count = layout.page.size, len(heads)
    rows = np.frombuffer(raw, np.uint8).reshape(count, 2 * size)

    def word(offset: int, width: int) -> NDArray[np.uint64]:
        column = rows[:, offset : offset + width].copy().view(f"<u{width}")
        words: NDArray[np.uint64] = column[:, 0].astype(np.uint64, copy=False)
        return words

    flags, compound = word(layout.page.flags, 8), word(layout.page.compound, 8)
    orders = np.array([one.order for one in hstates], dtype=np.uint64)
    sound = (
        ((flags & np.uint64(layout.page.pg_head)) != 0)
        & ((compound & np.uint64(1)) == 0)
        & ((word(size + layout.page.order, 1) & np.uint64(0xFF)) == orders[which])
    )
    if layout.mark is not None:
        offset, mask, value = layout.mark
        sound &= (word(offset, 4) & np.uint64(mask)) == np.uint64(value)
    return Folios(
        head=np.array(heads, dtype=np.int64),
        hstate=which,
        place=np.full(count, place, dtype=np.uint8),
        nid=np.full(count, nid, dtype=np.int64),
        flags=flags,
        private=word(layout.private, 8),
        sound=sound,
    )


def read_folios(
    prog: Program,
    hstates: Sequence[Hstate],
    layout: FolioLayout,
    vmemmap: int,
    frames: int,
) -> tuple[Folios, list[Damage]]:
    """
    Follow all lists of all hstates.

    :param vmemmap: virtual address of the ``struct page`` of frame 0
    :param frames: first page frame after all that can be
    """
    lists = _Lists(prog, layout, vmemmap, frames)
    parts = [no_folios()]
    for index, hstate in enumerate(hstates):
        for place, nid, head in _list_heads(prog, hstate, lists.damage):
            heads, raw = lists.follow(head, frames >> hstate.order)
            which = np.full(len(heads), index, dtype=np.int64)
            parts.append(decode_folios(heads, raw, hstates, which, place, nid, layout))
    return join(parts), lists.damage


class _Head(NamedTuple):
    """A ``struct list_head`` that is no element."""

    address: int
    next: int
    prev: int


def _list_heads(
    prog: Program, hstate: Hstate, damage: list[Damage]
) -> Iterator[tuple[Place, int, _Head]]:
    """Get the lists of an hstate that are not empty."""
    hstate_type = prog.type("struct hstate")
    size = sizeof(prog.type("struct list_head"))
    for member, place in (
        ("hugepage_freelists", Place.FREE),
        ("hugepage_activelist", Place.ACTIVE),
    ):
        start = hstate.address + offsetof(hstate_type, member)
        try:
            raw = prog.read(start, sizeof(hstate_type.member(member).type))
        except _READ_ERRORS:
            damage.append(Damage(start, f"{member} can't be read", True))
            continue
        pointers = np.frombuffer(raw, np.uint64).reshape(-1, size // 8)
        addresses = start + np.arange(len(pointers), dtype=np.uint64) * np.uint64(size)
        for nid in np.flatnonzero(pointers[:, 0] != addresses).tolist():
            head = _Head(start + nid * size, int(pointers[nid, 0]), int(pointers[nid, 1]))
            if place is Place.FREE:
                if not (head.next or head.prev or nid in (hstate.nodes or ())):
                    # Of a node that there is not.
                    continue
                yield place, nid, head
            else:
                yield place, -1, head


class _Lists:
    """Follows lists of folios; a folio that was met is met no second time."""

    def __init__(self, prog: Program, layout: FolioLayout, vmemmap: int, frames: int) -> None:
        self._prog = prog
        self._lru = layout.lru
        self._size = layout.page.size
        self._vmemmap = vmemmap
        self._frames = frames
        self._seen: set[int] = set()
        self.damage: list[Damage] = []

    def follow(self, head: _Head, most: int) -> tuple[list[int], bytes]:
        """
        Follow a list; what lies behind a broken link is reached from the end.

        :param most: elements that there can be at the most
        :return: page frames of the folios, and their first two ``struct page``s
        """
        found: list[tuple[int, bytes]] = []
        if not self._follow(head, head.next, 0, most, found):
            rest: list[tuple[int, bytes]] = []
            reported = len(self.damage)
            self._follow(head, head.prev, 8, most, rest)
            # What breaks there is the other side of the same.
            del self.damage[reported:]
            found += reversed(rest)
        return [pfn for pfn, _ in found], b"".join(raw for _, raw in found)

    def _follow(
        self, head: _Head, node: int, link: int, most: int, found: list[tuple[int, bytes]]
    ) -> bool:
        """Follow links in one direction; tell whether that leads back to the head."""
        before = head.address
        while node != head.address:
            pfn, into = divmod(node - self._lru - self._vmemmap, self._size)
            if into or not 0 <= pfn < self._frames:
                self.damage.append(Damage(before, f"a list leads to {node:#x}, no struct page"))
                return False
            if pfn in self._seen:
                self.damage.append(
                    Damage(node - self._lru, f"pfn {pfn:#x} is on a list for the second time")
                )
                return False
            if len(found) >= most:
                self.damage.append(Damage(node - self._lru, f"a list has over {most} folios"))
                return False
            try:
                raw = self._prog.read(node - self._lru, 2 * self._size)
            except _READ_ERRORS:
                self.damage.append(
                    Damage(node - self._lru, "the head page of a folio can't be read", True)
                )
                return False
            self._seen.add(pfn)
            found.append((pfn, raw))
            links = (
                int.from_bytes(raw[self._lru : self._lru + 8], "little"),
                int.from_bytes(raw[self._lru + 8 : self._lru + 16], "little"),
            )
            back = links[1 - link // 8]
            if back != before:
                self.damage.append(
                    Damage(
                        node - self._lru,
                        f"the list entry points back to {back:#x}, and not to {before:#x}",
                    )
                )
            before, node = node, links[link // 8]
        if link == 0 and head.prev != before:
            self.damage.append(
                Damage(
                    head.address,
                    f"the list points back to {head.prev:#x}, and not to its last, {before:#x}",
                )
            )
        return True
