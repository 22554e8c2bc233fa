# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB folios.

Sources: ``include/linux/hugetlb.h`` (``enum hugetlb_page_flags``), ``mm/hugetlb.c``.

A free folio is on ``hugepage_freelists`` of its node, a folio in use on
``hugepage_activelist``; both are linked by ``lru`` of the head page. A folio that the
kernel migrates, demotes or frees is on neither. Every walk of a list is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import offsetof, sizeof
from msgspec import Struct

from ..columns import join
from ..target.reads import READ_ERRORS
from ..vmcoreinfo import number
from . import Damage, word_of

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from .hstate import Hstate
    from .page import PageLayout

__all__ = (
    "FolioLayout",
    "FolioList",
    "Folios",
    "decode_folios",
    "no_folios",
    "read_folio_layout",
    "read_folios",
)


class FolioList(IntEnum):
    """The list that a folio is on."""

    FREE = 0
    #: in use
    ACTIVE = 1
    #: neither
    NONE = 2

    @property
    def word(self) -> str:
        """The word for a folio on this list."""
        return ("free", "used", "unlisted")[self]


class Folios(NamedTuple):
    """HugeTLB folios, in order of pfn; all arrays have shape ``(n,)``."""

    #: pfn of the head page (int64)
    head: NDArray[np.int64]
    #: index into the hstates (int64)
    hstate: NDArray[np.int64]
    #: :class:`FolioList` (uint8)
    place: NDArray[np.uint8]
    #: node of the free list that the folio is on, -1 if it is on none (int64)
    nid: NDArray[np.int64]
    #: ``flags`` of the head page (uint64)
    flags: NDArray[np.uint64]
    #: ``private`` of the head page, flags of HugeTLB (uint64)
    private: NDArray[np.uint64]
    #: whether head and first tail page are those of a folio of its hstate:
    #: PG_head, HugeTLB's mark, the hstate's order (bool)
    sound: NDArray[np.bool_]

    @property
    def unlisted(self) -> NDArray[np.bool_]:
        """Whether each folio is on no list (bool)."""
        unlisted: NDArray[np.bool_] = self.place == FolioList.NONE
        return unlisted

    def place_word(self, i: int) -> str:
        """Return the word for the list that a folio is on."""
        return FolioList(int(self.place[i])).word


class FolioLayout(Struct, frozen=True):
    """Offsets in bytes into the first two ``struct page``s of a HugeTLB folio."""

    page: PageLayout
    lru: int
    mapping: int
    private: int
    #: HugeTLB's mark: the word of 4 bytes at this offset, under this mask, has this
    #: value; ``None`` if the types do not have it
    mark: tuple[int, int, int] | None


def read_folio_layout(
    prog: Program, vmcoreinfo: Mapping[str, str], page: PageLayout
) -> FolioLayout:
    """
    Read the layout from the target's types.

    :raises LookupError: if a member is missing
    """
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
        # Of a word, the half with the lower bits.
        low = 0 if word_of(prog)[0] == "<" else 4
        return size + offsetof(page_type, "flags") + low, flag, flag
    except LookupError:
        pass
    try:
        # A destructor, by its number, a byte of the first tail page.
        dtor = int(prog.constant("HUGETLB_PAGE_DTOR").value_())
        offset = size + offsetof(page_type, "compound_dtor")
    except LookupError:
        return None
    shift = (offset % 4 if word_of(prog)[0] == "<" else 3 - offset % 4) * 8
    return offset - offset % 4, 0xFF << shift, dtor << shift


def no_folios() -> Folios:
    """Return an empty table of folios."""
    none = np.empty(0, dtype=np.int64)
    words = none.astype(np.uint64)
    return Folios(none, none, none.astype(np.uint8), none, words, words, none.astype(np.bool_))


def decode_folios(
    heads: Sequence[int],
    raw: bytes,
    hstates: Sequence[Hstate],
    which: NDArray[np.int64],
    place: FolioList,
    nid: int,
    layout: FolioLayout,
) -> Folios:
    """
    Decode folios.

    :param heads: pfns of head pages
    :param raw: the first two ``struct page``s of each
    :param which: index into ``hstates`` of each (int64)
    :param nid: node of the free list that they are on, else -1
    """
    size, count = layout.page.size, len(heads)
    rows = np.frombuffer(raw, np.uint8).reshape(count, 2 * size)

    def word(offset: int, width: int) -> NDArray[np.uint64]:
        column = rows[:, offset : offset + width].copy().view(f"{layout.page.word[0]}u{width}")
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
    Read the folios on all lists of all hstates.

    :param vmemmap: virtual address of the ``struct page`` of pfn 0
    :param frames: page frames that the kernel can have
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
    """The ``struct list_head`` of a list, not of an element."""

    address: int
    next: int
    prev: int


def _list_heads(
    prog: Program, hstate: Hstate, damage: list[Damage]
) -> Iterator[tuple[FolioList, int, _Head]]:
    """Yield the lists of an hstate that are not empty."""
    hstate_type = prog.type("struct hstate")
    size = sizeof(prog.type("struct list_head"))
    for member, place in (
        ("hugepage_freelists", FolioList.FREE),
        ("hugepage_activelist", FolioList.ACTIVE),
    ):
        start = hstate.address + offsetof(hstate_type, member)
        try:
            raw = prog.read(start, sizeof(hstate_type.member(member).type))
        except READ_ERRORS:
            damage.append(Damage(start, f"{member} can't be read", True))
            continue
        pointers = np.frombuffer(raw, word_of(prog)).reshape(-1, size // 8)
        addresses = start + np.arange(len(pointers), dtype=np.uint64) * np.uint64(size)
        for nid in np.flatnonzero(pointers[:, 0] != addresses).tolist():
            head = _Head(start + nid * size, int(pointers[nid, 0]), int(pointers[nid, 1]))
            if place is FolioList.FREE:
                if not (head.next or head.prev or nid in (hstate.nodes or ())):
                    # The node does not exist.
                    continue
                yield place, nid, head
            else:
                yield place, -1, head


class _Lists:
    """Reads lists of folios, each folio once."""

    def __init__(self, prog: Program, layout: FolioLayout, vmemmap: int, frames: int) -> None:
        self._prog = prog
        self._lru = layout.lru
        self._size = layout.page.size
        self._word = layout.page.word
        self._vmemmap = vmemmap
        self._frames = frames
        self._seen: set[int] = set()
        self.damage: list[Damage] = []

    def follow(self, head: _Head, most: int) -> tuple[list[int], bytes]:
        """
        Read a list; at a broken link, continue from the end of the list.

        :param most: elements that the list can have
        :return: pfns of the folios, and their first two ``struct page``s
        """
        found: list[tuple[int, bytes]] = []
        if not self._follow(head, head.next, 0, most, found):
            rest: list[tuple[int, bytes]] = []
            reported = len(self.damage)
            self._follow(head, head.prev, 8, most, rest)
            # The same broken link, seen from the other side.
            del self.damage[reported:]
            found += reversed(rest)
        return [pfn for pfn, _ in found], b"".join(raw for _, raw in found)

    def _follow(
        self, head: _Head, node: int, link: int, most: int, found: list[tuple[int, bytes]]
    ) -> bool:
        """Follow links in one direction; return whether they lead back to the head."""
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
            except READ_ERRORS:
                self.damage.append(
                    Damage(node - self._lru, "the head page of a folio can't be read", True)
                )
                return False
            self._seen.add(pfn)
            found.append((pfn, raw))
            links = np.frombuffer(raw, self._word, 2, self._lru).tolist()
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
