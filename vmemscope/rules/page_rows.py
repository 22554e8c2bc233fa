# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``struct page``s of device memory as read, and as the kernel writes them.

:class:`Rows` are pages of the vmemmap, one a row; :class:`Expected` is what the kernel
writes to the ``struct page``s of a pagemap. :class:`StructPages` is both together: the
facts of the rules in :mod:`.struct_pages`.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.page import PageLayout
    from ..kernel.page_flags import FlagLayout
    from ..vmemmap.layout import Geometry

__all__ = (
    "Expected",
    "PageKind",
    "Rows",
    "StructPages",
    "holds_mask",
    "idle_refcount",
    "is_blank",
    "majority",
    "refcounts",
    "resolve_heads",
)

_ONES = np.uint64((1 << 64) - 1)


class Rows(NamedTuple):
    """Pages of the vmemmap as read, and what they describe; all have length ``n``."""

    #: page frame of the compound page's head; of base pages, that of the first checked
    #: one of the row (int64). Violations are added up by it
    head: NDArray[np.int64]
    #: page frame that the first ``struct page`` of the row describes (int64)
    first: NDArray[np.int64]
    #: the same of the last vpage that maps the same frame: with a mask, tail pages
    #: resolve to another head from there (int64)
    last: NDArray[np.int64]
    #: page frames ``[start, end)`` of the row that are checked (int64)
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    #: whether the compound page's tail pages share a frame (bool)
    shared: NDArray[np.bool_]
    #: frame that was read (uint64)
    frame: NDArray[np.uint64]
    #: shape ``(n, struct pages, words)`` (uint64): all of the row, or the first of it
    words: NDArray[np.uint64]


class Expected(Struct):
    """What the ``struct page``s of a pagemap should hold."""

    pagemap: Pagemap
    page: PageLayout
    geometry: Geometry
    #: where zone and node are in ``page->flags``; the number of ZONE_DEVICE.
    #: ``None`` where that is not known
    flags: FlagLayout | None
    #: node of the device; ``None``: not known
    nid: int | None = None
    #: whether its tail pages share a frame with those of other devices
    per_zone: bool = False

    @property
    def order(self) -> int:
        """Return log2 of the pages in a compound page."""
        return self.pagemap.vmemmap_shift or 0

    @property
    def folios(self) -> bool:
        """
        Return whether a driver may make folios of base pages.

        ``fs/dax.c: dax_folio_init()`` (6.15+, with ``folio->pgmap``),
        ``mm/memremap.c: zone_device_page_init()`` of device-private memory (6.19+).
        """
        return self.page.folio_pgmap and self.pagemap.type not in ("generic", "p2pdma")

    @property
    def zone_shift(self) -> int | None:
        """Return the lowest bit of the zone in ``page->flags``."""
        if self.flags is None or self.flags.node_width is None:
            return None
        return 64 - self.flags.node_width - self.flags.zone_width

    @property
    def zone_mask(self) -> int:
        """Return the mask of the zone in ``page->flags``, 0 if that is not known."""
        shift = self.zone_shift
        return (
            0 if shift is None or self.flags is None else (1 << self.flags.zone_width) - 1 << shift
        )

    @property
    def place(self) -> tuple[int, int]:
        """Return the mask of zone and node (if known) in ``page->flags``, and their value."""
        shift, flags = self.zone_shift, self.flags
        if shift is None or flags is None or flags.device_zone is None:
            return 0, 0
        mask, value = self.zone_mask, flags.device_zone << shift
        if self.nid is not None:
            top = shift + flags.zone_width
            mask |= (1 << 64) - (1 << top)
            value |= self.nid << top
        return mask, value

    def addresses(self, pfn: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the virtual addresses of the ``struct page``s of page frames, same shape."""
        base = np.uint64(self.geometry.vmemmap)
        address: NDArray[np.uint64] = base + pfn.astype(np.uint64) * np.uint64(self.page.size)
        return address

    def in_zone(self, flags: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return the mask of ``page->flags`` with ZONE_DEVICE; all, if the zone is not known."""
        mask, value = self.zone_mask, self.place[1]
        inside: NDArray[np.bool_] = (flags & np.uint64(mask)) == np.uint64(value & mask)
        return inside

    def learn_node(self, flags: NDArray[np.uint64]) -> None:
        """Set the device's node to that of most pages: all pages of a pagemap are on one."""
        shift = self.zone_shift
        if self.nid is not None or shift is None or not len(flags):
            return
        mask, value = self.place
        flags = flags[(flags & np.uint64(mask)) == np.uint64(value)]
        if len(flags) and self.flags is not None and self.flags.node_width:
            nodes = flags >> np.uint64(shift + self.flags.zone_width)
            self.nid = int(np.bincount(nodes.astype(np.int64)).argmax())

    def mask_alike(self) -> NDArray[np.uint64]:
        """
        Return, for each word, the bits that only rule ``tail-contents`` checks.

        :return: shape ``(words,)`` (uint64)
        """
        mask = np.full(self.page.size // 8, _ONES)
        known = self.place[0] | self.page.pg_head | self.page.pg_reserved
        if self.per_zone:
            # vmemmap_shared_tail_page() leaves all else 0 that is no flag: the last CPU, a tag.
            bits = max(self.flags.names, default=-1) + 1 if self.flags is not None else 0
            known |= (1 << 64) - (1 << bits)
        mask[self.page.flags // 8] &= ~np.uint64(known)
        mask[self.page.compound // 8] = 0
        mask[self.page.refcount // 8] &= ~np.uint64(
            0xFFFF_FFFF << self.page.shift(self.page.refcount, 4)
        )
        return mask


class PageKind(Enum):
    """What the kernel initialises ``struct page``s as."""

    #: pages of compound pages
    COMPOUND = "compound"
    #: base pages of the device
    BASE = "base"
    #: frames that an altmap hands out
    ALTMAP = "altmap"


class StructPages:
    """
    Rows of ``struct page``s of one kind, with the masks that rules use.

    Masks are bool; they and other arrays have shape ``(rows, struct pages)``.

    :param usual: the words that the tail pages of each row should hold, shape
        ``(rows, words)``; by default those of most of the row
    """

    def __init__(
        self,
        rows: Rows,
        expected: Expected,
        kind: PageKind,
        usual: NDArray[np.uint64] | None = None,
    ) -> None:
        self.rows, self.expected, self.kind = rows, expected, kind
        #: shape ``(rows, struct pages, words)`` (uint64)
        self.words = rows.words
        self._usual = usual

    @classmethod
    def none(cls, expected: Expected, kind: PageKind) -> StructPages:
        """Return a table without rows."""
        number, truth = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
        words = np.empty((0, 1, expected.page.size // 8), dtype=np.uint64)
        frame = number.astype(np.uint64)
        return cls(
            Rows(number, number, number, number, number, truth, frame, words), expected, kind
        )

    def _word(self, offset: int) -> NDArray[np.uint64]:
        return self.words[:, :, offset // 8]

    @cached_property
    def pfn(self) -> NDArray[np.int64]:
        """Page frames that the ``struct page``s describe (int64)."""
        pfn: NDArray[np.int64] = self.rows.first[:, None] + np.arange(self.words.shape[1])
        return pfn

    @cached_property
    def flags(self) -> NDArray[np.uint64]:
        """``page->flags`` (uint64)."""
        return self._word(self.expected.page.flags)

    @cached_property
    def compound(self) -> NDArray[np.uint64]:
        """``compound_head`` or ``compound_info`` (uint64)."""
        return self._word(self.expected.page.compound)

    @cached_property
    def pgmap(self) -> NDArray[np.uint64]:
        """The pointer to the pagemap, of those that have one (uint64)."""
        return self._word(self.expected.page.pgmap)

    @cached_property
    def order(self) -> NDArray[np.uint64]:
        """The order of the compound page, where the first tail page has it (uint64)."""
        page = self.expected.page
        at = page.order
        order: NDArray[np.uint64] = self._word(at) >> np.uint64(page.shift(at, 1)) & np.uint64(0xFF)
        return order

    @cached_property
    def refcounts(self) -> NDArray[np.int32]:
        """``_refcount`` (int32)."""
        return refcounts(self.words, self.expected.page)

    @cached_property
    def asked(self) -> NDArray[np.bool_]:
        """Mask of the pages to check."""
        rows = self.rows
        asked: NDArray[np.bool_] = (self.pfn >= rows.start[:, None]) & (
            self.pfn < rows.end[:, None]
        )
        return asked

    @cached_property
    def blank(self) -> NDArray[np.bool_]:
        """Mask of uninitialised pages."""
        blank: NDArray[np.bool_] = ((self.flags == 0) | (self.flags == _ONES)) & self.asked
        if blank.any():
            blank[blank] = is_blank(self.words[blank])
        return blank

    @cached_property
    def misplaced(self) -> NDArray[np.bool_]:
        """Mask of pages of another zone or node than the device."""
        mask, value = self.expected.place
        known = self.flags & np.uint64(mask)
        misplaced: NDArray[np.bool_] = self.asked & ~self.blank & (known != np.uint64(value))
        return misplaced

    @cached_property
    def own(self) -> NDArray[np.bool_]:
        """Mask of the device's pages: one of another zone was never the device's."""
        foreign = self.misplaced & ~self.expected.in_zone(self.flags)
        return self.asked & ~self.blank & ~foreign

    @cached_property
    def tail(self) -> NDArray[np.bool_]:
        """Mask of tail pages: by place, or, in folios of base pages, by compound_head."""
        if self.kind is PageKind.COMPOUND:
            tail: NDArray[np.bool_] = self.own & (self.pfn != self.rows.head[:, None])
            return tail
        folios = self.kind is PageKind.BASE and self.expected.folios
        return self.own & self.says_tail if folios else np.zeros_like(self.own)

    @cached_property
    def head(self) -> NDArray[np.bool_]:
        """Mask of head pages, and of base pages that are no tail."""
        return self.own & ~self.tail

    @cached_property
    def second(self) -> NDArray[np.bool_]:
        """Mask of the first tail pages of compound pages, which have the order."""
        second: NDArray[np.bool_] = self.tail & (self.pfn == self.rows.head[:, None] + 1)
        return second

    @cached_property
    def says_head(self) -> NDArray[np.bool_]:
        """Mask of pages with PG_head."""
        has: NDArray[np.bool_] = (self.flags & np.uint64(self.expected.page.pg_head)) != 0
        return has

    @cached_property
    def says_tail(self) -> NDArray[np.bool_]:
        """Mask of pages that are marked as a tail."""
        says: NDArray[np.bool_] = (self.compound & np.uint64(1)) != 0
        return says

    @cached_property
    def no_head(self) -> NDArray[np.bool_]:
        """Mask of head pages that are not marked as a head."""
        return self.head & (~self.says_head | self.says_tail)

    @cached_property
    def idle(self) -> int:
        """The lowest valid reference count of a page that is no tail."""
        if self.kind is PageKind.ALTMAP:
            # mm/mm_init.c: memmap_init_range(): ordinary pages that are never handed out.
            return 1
        return idle_refcount(self.expected.pagemap, self.expected.page)

    @property
    def plain(self) -> int:
        """The number of the first tail page without members of the folio."""
        slots: int = self.words.shape[1]
        return min(self.expected.page.folio_pages, slots - 1)

    @cached_property
    def usual(self) -> NDArray[np.uint64]:
        """The words of most of a row's tail pages, shape ``(rows, words)`` (uint64)."""
        if self._usual is not None:
            return self._usual
        count = self.words.shape[1]
        at = [min(self.plain + 1, count - 1), (count + self.plain) // 2, count - 1]
        return majority(np.stack([self.words[:, slot] for slot in at]))


def majority(several: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Return the value that two of the first, the middle and the last value share.

    :param several: three or more values along the first axis
    """
    first, middle, last = several[0], several[len(several) // 2], several[-1]
    lower, upper = np.minimum(first, middle), np.maximum(first, middle)
    median: NDArray[np.uint64] = np.maximum(lower, np.minimum(upper, last))
    return median


def is_blank(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """
    Return the mask of ``struct page``s that are all zeros or all ones.

    :param words: shape ``(n, words)``
    :return: mask, shape ``(n,)``
    """
    blank: NDArray[np.bool_] = (words == 0).all(axis=1) | (words == _ONES).all(axis=1)
    return blank


def idle_refcount(pagemap: Pagemap, page: PageLayout) -> int:
    """
    Return the lowest valid reference count of a pagemap's page that is no tail.

    ``mm/memremap.c: free_zone_device_folio()`` resets the count of an idle page to 1,
    except for types whose driver hands pages out with a new reference:
    DEVICE_PRIVATE and COHERENT, and since 6.15 (as ``folio->pgmap``) FS_DAX
    (``fs/dax.c: dax_folio_put()``) and PCI_P2PDMA.
    """
    if pagemap.type == "generic" or (pagemap.type == "fsdax" and not page.folio_pgmap):
        return 1
    return 0


def holds_mask(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """
    Return which ``compound_info`` words hold a mask and not a pointer (7.1+).

    A mask has ones from bit 63 down to some bit, and zeros below except for bit 0.
    No pointer into the vmemmap has that form.
    """
    inverse = ~(words & ~np.uint64(1))
    mask: NDArray[np.bool_] = ((inverse & (inverse + np.uint64(1))) == 0) & (
        (words & np.uint64(1)) != 0
    )
    return mask


def resolve_heads(words: NDArray[np.uint64], addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Return the heads of pages, as the kernel's ``compound_head()`` does.

    :param words: ``compound_head`` or ``compound_info`` of each page
    :param addresses: virtual address of each ``struct page``, in bytes
    :return: virtual address that each resolves to; itself where bit 0 is clear
    """
    is_tail = (words & np.uint64(1)) != 0
    pointed = np.where(holds_mask(words), addresses & words & ~np.uint64(1), words - np.uint64(1))
    return np.where(is_tail, pointed, addresses)


def refcounts(words: NDArray[np.uint64], page: PageLayout) -> NDArray[np.int32]:
    """
    Return ``_refcount`` of ``struct page``s (int32).

    :param words: their words along the last axis
    """
    word = words[..., page.refcount // 8] >> np.uint64(page.shift(page.refcount, 4))
    counts: NDArray[np.int32] = word.astype(np.uint32).view(np.int32)
    return counts
