# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``struct page``s of device memory as they were read, and what they should hold.

:class:`Rows` are pages of the vmemmap, one a row; :class:`Due` is what the kernel
writes to the ``struct page``s of a pagemap, and where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.page import PageLayout
    from ..kernel.page_flags import FlagLayout
    from ..vmemmap.layout import Geometry

__all__ = ("ONES", "Due", "Rows", "holds_mask", "idle_refcount", "refcounts", "resolve_heads")

ONES = np.uint64((1 << 64) - 1)


class Rows(NamedTuple):
    """Pages of the vmemmap as read, and what they describe; all have length ``n``."""

    #: page frame of the compound page's head; of base pages, that of the first in
    #: the row that is asked about (int64). Findings are gathered by it
    head: NDArray[np.int64]
    #: page frame that the first ``struct page`` of the row describes (int64)
    first: NDArray[np.int64]
    #: the same of the last vpage that maps the same frame: tail pages look
    #: different from there, if what leads to their head is a mask (int64)
    last: NDArray[np.int64]
    #: page frames ``[start, end)`` of the row that are asked about (int64)
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    #: whether the compound page's tail pages share a frame (bool)
    shared: NDArray[np.bool_]
    #: frame that was read (uint64)
    frame: NDArray[np.uint64]
    #: shape ``(n, struct pages, words)`` (uint64): all of the row, or the first of it
    words: NDArray[np.uint64]


@dataclass
class Due:
    """What the ``struct page``s of a pagemap should hold."""

    pagemap: Pagemap
    page: PageLayout
    geometry: Geometry
    #: where zone and node are in ``page->flags``; the number of ZONE_DEVICE.
    #: ``None`` where it could not be told
    flags: FlagLayout | None
    #: node of the device, found out from most of its pages; ``None``: not known
    nid: int | None = None

    @property
    def order(self) -> int:
        """log2 of the pages in a compound page."""
        return self.pagemap.vmemmap_shift or 0

    @property
    def folios(self) -> bool:
        """
        Whether a driver may make folios of base pages.

        ``fs/dax.c: dax_folio_init()`` (6.15+, with ``folio->pgmap``),
        ``mm/memremap.c: zone_device_page_init()`` of device-private memory (6.19+).
        """
        return self.page.folio_pgmap and self.pagemap.type not in ("generic", "p2pdma")

    @property
    def zone_shift(self) -> int | None:
        """Where the zone is in ``page->flags``, in bits from the lowest."""
        if self.flags is None or self.flags.node_width is None:
            return None
        return 64 - self.flags.node_width - self.flags.zone_width

    @property
    def zone_mask(self) -> int:
        """The bits of ``page->flags`` that the zone is in, 0 if that is not known."""
        shift = self.zone_shift
        return (
            0 if shift is None or self.flags is None else (1 << self.flags.zone_width) - 1 << shift
        )

    @property
    def place(self) -> tuple[int, int]:
        """Mask of zone and node (if known) in ``page->flags``, and what should be there."""
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
        """Get the virtual addresses of the ``struct page``s of page frames, same shape."""
        base = np.uint64(self.geometry.vmemmap)
        address: NDArray[np.uint64] = base + pfn.astype(np.uint64) * np.uint64(self.page.size)
        return address

    def in_zone(self, flags: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Tell which ``page->flags`` are those of a page in ZONE_DEVICE, as far as is known."""
        mask, value = self.zone_mask, self.place[1]
        inside: NDArray[np.bool_] = (flags & np.uint64(mask)) == np.uint64(value & mask)
        return inside

    def learn_node(self, flags: NDArray[np.uint64]) -> None:
        """Take the node that most pages have for the device's: all of a pagemap are on one."""
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
        Get, for each word, the bits that no rule but ``tail-contents`` is about.

        :return: shape ``(words,)``
        """
        mask = np.full(self.page.size // 8, ONES)
        known = self.place[0] | self.page.pg_head | self.page.pg_reserved
        mask[self.page.flags // 8] &= ~np.uint64(known)
        mask[self.page.compound // 8] = 0
        mask[self.page.refcount // 8] &= ~np.uint64(0xFFFF_FFFF << self.page.refcount % 8 * 8)
        return mask


def idle_refcount(pagemap: Pagemap, page: PageLayout) -> int:
    """
    Get the reference count that a page of a pagemap has at the least, if it is no tail.

    ``mm/memremap.c: free_zone_device_folio()`` sets the count of pages that nobody
    uses any more back to 1, but for types whose driver hands them out anew:
    DEVICE_PRIVATE and COHERENT, and since 6.15 (as ``folio->pgmap``) FS_DAX
    (``fs/dax.c: dax_folio_put()``) and PCI_P2PDMA.
    """
    if pagemap.type == "generic" or (pagemap.type == "fsdax" and not page.folio_pgmap):
        return 1
    return 0


def holds_mask(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """
    Tell which ``compound_info`` words hold a mask and not a pointer (7.1+).

    A mask is all ones from bit 63 down to some bit, zeros below but for bit 0.
    No pointer into the vmemmap looks like that.
    """
    inverse = ~(words & ~np.uint64(1))
    mask: NDArray[np.bool_] = ((inverse & (inverse + np.uint64(1))) == 0) & (
        (words & np.uint64(1)) != 0
    )
    return mask


def resolve_heads(words: NDArray[np.uint64], addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Resolve tail pages to their heads as the kernel does (``compound_head()``).

    :param words: ``compound_head`` or ``compound_info`` of each page
    :param addresses: virtual address of each ``struct page``, in bytes
    :return: virtual address that each resolves to; itself where bit 0 is clear
    """
    is_tail = (words & np.uint64(1)) != 0
    pointed = np.where(holds_mask(words), addresses & words & ~np.uint64(1), words - np.uint64(1))
    return np.where(is_tail, pointed, addresses)


def refcounts(words: NDArray[np.uint64], page: PageLayout) -> NDArray[np.int32]:
    """
    Get ``_refcount`` of ``struct page``s.

    :param words: their words along the last axis
    """
    word = words[..., page.refcount // 8] >> np.uint64(page.refcount % 8 * 8)
    counts: NDArray[np.int32] = word.astype(np.uint32).view(np.int32)
    return counts
