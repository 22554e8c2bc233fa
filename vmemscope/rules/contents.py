# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the ``struct page``s of device memory: compound pages, base pages, altmap.

In: pages of the vmemmap as read, one a row (:class:`Rows`), and what they should
hold (:class:`Due`). Out: which ``struct page``s are off, by rule (:class:`Off`), and
findings of them: one for each compound page, one for each row of base pages.

Where tail pages share a frame, nearly all ``struct page``s are alike, and that
is one comparison of neighbours: :func:`alike` tells for which rows it is enough to
look at the first few ``struct page``s, and :func:`screen` looks at these.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, select
from . import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..findings import Collector
    from ..kernel.dev_pagemap import Pagemap
    from ..kernel.page import PageLayout
    from ..kernel.page_flags import FlagLayout
    from ..layout import Geometry

__all__ = (
    "ALTMAP_RULES",
    "BASE_RULES",
    "COMPOUND_RULES",
    "Due",
    "Off",
    "Rows",
    "Tally",
    "alike",
    "check_frames",
    "check_pairs",
    "check_rows",
    "holds_mask",
    "idle_refcount",
    "majority",
    "plain_base",
    "resolve_heads",
    "screen",
    "spread",
    "usual_tail",
)

#: rules that are evaluated for compound pages, for base pages, for the frames of an altmap
COMPOUND_RULES = (
    "head-flag", "compound-head", "compound-order", "pgmap-link", "stray-head", "page-refcount",
    "page-zone", "page-uninitialised", "tail-contents",
)  # fmt: skip
BASE_RULES = ("pgmap-link", "stray-head", "page-refcount", "page-zone", "page-uninitialised")
ALTMAP_RULES = ("page-refcount", "page-zone", "page-uninitialised")

_ONES = np.uint64((1 << 64) - 1)
#: eight bytes that are each true
_EIGHT_TRUE = np.uint64(0x0101_0101_0101_0101)
#: where tail pages resolve to the right head from the first place that they are mapped at,
#: and to a wrong one from the last
_FURTHER = "compound-head, further"
#: records of what is off that are kept before those of one compound page are added up
_GATHERED = 1 << 14


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
        mask = np.full(self.page.size // 8, _ONES)
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


def majority(several: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Get of three values the one that two of them are, if there is one.

    :param several: three or more, along the first axis: the first, the middle, the last
    """
    three = np.sort(several[[0, len(several) // 2, len(several) - 1]], axis=0)
    middle: NDArray[np.uint64] = three[1]
    return middle


# What is off in struct pages.


class Off(NamedTuple):
    """Places where a rule does not hold, at most one of a row; all have length ``n``."""

    #: as :attr:`Rows.head` (int64)
    head: NDArray[np.int64]
    #: page frame of the first ``struct page`` that is off (int64)
    pfn: NDArray[np.int64]
    #: frame that it lies in (uint64)
    frame: NDArray[np.uint64]
    #: how many are off (int64)
    several: NDArray[np.int64]
    #: the words of that first one, shape ``(n, words)`` (uint64)
    words: NDArray[np.uint64]


_Masks = dict[str, "NDArray[np.bool_]"]


def _pfns(rows: Rows, count: int) -> NDArray[np.int64]:
    return rows.first[:, None] + np.arange(count)


def _refcounts(words: NDArray[np.uint64], page: PageLayout) -> NDArray[np.int32]:
    word = words[..., page.refcount // 8] >> np.uint64(page.refcount % 8 * 8)
    counts: NDArray[np.int32] = word.astype(np.uint32).view(np.int32)
    return counts


def _strangers(
    rows: Rows, asked: NDArray[np.bool_], due: Due
) -> tuple[_Masks, NDArray[np.bool_], NDArray[np.uint64]]:
    """
    Find struct pages that nobody initialised for the device.

    :return: what is off; which of those asked about are the device's; their flags
    """
    words = rows.words
    flags = words[:, :, due.page.flags // 8]
    blank = ((flags == 0) | (flags == _ONES)) & asked
    if blank.any():
        blank[blank] = (words[blank] == flags[blank][:, None]).all(axis=1)
    mask, value = due.place
    known = flags & np.uint64(mask)
    misplaced = asked & ~blank & (known != np.uint64(value))
    # In another zone, it was never the device's.
    foreign = misplaced & ~due.in_zone(flags)
    off = {"page-uninitialised": blank}
    if mask:
        reserved = (flags & np.uint64(due.page.pg_reserved)) != 0
        off["page-zone"] = misplaced | (asked & ~blank & ~reserved)
    return off, asked & ~blank & ~foreign, flags


def _off_compounds(rows: Rows, due: Due) -> tuple[_Masks, NDArray[np.bool_]]:
    """Tell which struct pages of compound pages are off; and which are the device's at all."""
    page, words = due.page, rows.words
    pfn = _pfns(rows, words.shape[1])
    asked = (pfn >= rows.start[:, None]) & (pfn < rows.end[:, None])
    off, own, flags = _strangers(rows, asked, due)
    at_head = pfn == rows.head[:, None]
    head, tail = own & at_head, own & ~at_head
    compound = words[:, :, page.compound // 8]
    has_flag = (flags & np.uint64(page.pg_head)) != 0
    no_head = head & (~has_flag | ((compound & np.uint64(1)) != 0))
    off["head-flag"] = no_head
    off["pgmap-link"] = (
        head & ~no_head & (words[:, :, page.pgmap // 8] != np.uint64(due.pagemap.address))
    )
    # The order is in the first tail page, in the row that the head is in; of what is no
    # head it is not asked. In the same byte as PG_head would be, it is taken for no flag.
    second = tail & (pfn == rows.head[:, None] + 1)
    order = (words[:, :, page.order // 8] >> np.uint64(page.order % 8 * 8)) & np.uint64(0xFF)
    off["compound-order"] = (
        second & (order != np.uint64(due.order)) & ~no_head.any(axis=1, keepdims=True)
    )
    if page.order == page.flags and page.pg_head <= 0xFF:
        has_flag &= ~second
    off["stray-head"] = tail & has_flag
    size, base = np.uint64(page.size), np.uint64(due.geometry.vmemmap)
    address = base + pfn.astype(np.uint64) * size
    goal = (base + rows.head.astype(np.uint64) * size)[:, None]
    off["compound-head"] = tail & (resolve_heads(compound, address) != goal)
    further = (rows.last - rows.first).astype(np.uint64) * size
    if further.any():
        # The same struct pages, seen from the last place that they are mapped at.
        off[_FURTHER] = (tail & ~off["compound-head"] & (further != 0)[:, None]) & (
            resolve_heads(compound, address + further[:, None]) != goal
        )
    refcount = _refcounts(words, page)
    idle = idle_refcount(due.pagemap, page)
    off["page-refcount"] = (tail & (refcount != 0)) | (head & (refcount < idle))
    return off, own


def _off_base(rows: Rows, due: Due, altmap: bool) -> tuple[_Masks, NDArray[np.bool_]]:
    """The same of base pages, or of the frames of an altmap."""
    page, words = due.page, rows.words
    pfn = _pfns(rows, words.shape[1])
    asked = (pfn >= rows.start[:, None]) & (pfn < rows.end[:, None])
    off, own, flags = _strangers(rows, asked, due)
    refcount = _refcounts(words, page)
    if altmap:
        # mm/mm_init.c: memmap_init_range(): pages as any, and nobody gives them out.
        off["page-refcount"] = own & (refcount < 1)
        return off, own
    compound = words[:, :, page.compound // 8]
    tail = own & ((compound & np.uint64(1)) != 0) & due.folios
    off["pgmap-link"] = (
        own & ~tail & (words[:, :, page.pgmap // 8] != np.uint64(due.pagemap.address))
    )
    if not due.folios:
        off["stray-head"] = own & ((flags & np.uint64(page.pg_head)) != 0)
    idle = idle_refcount(due.pagemap, page)
    off["page-refcount"] = own & (refcount < np.where(tail, 0, idle))
    return off, own


# Looking at a few struct pages instead of all.


def alike(words: NDArray[np.uint64], is_head: NDArray[np.bool_], plain: int) -> NDArray[np.bool_]:
    """
    Tell which rows have ``struct page``s that are all alike, after the first few of a head's.

    :param words: shape ``(n, struct pages, words)``
    :param is_head: whether the row starts with a head, shape ``(n,)``
    :param plain: the first ``struct page`` after a head that is a tail like any other
    """
    rows, count, size = words.shape
    if not rows or count <= plain + 1:
        return np.zeros(rows, dtype=np.bool_)
    # One comparison over all of it, of each word with that of the next struct page,
    # takes a third of the time of one row by row.
    flat = words.reshape(-1)
    equal = np.ones(len(flat), dtype=np.bool_)
    np.equal(flat[size:], flat[:-size], out=equal[:-size])
    if size == 8:
        # Eight answers at a time.
        next_alike = equal.view(np.uint64).reshape(rows, count) == _EIGHT_TRUE
    else:
        next_alike = equal.reshape(rows, count, size).all(axis=2)
    result: NDArray[np.bool_] = next_alike[:, plain:-1].all(axis=1)
    result &= is_head | next_alike[:, :plain].all(axis=1)
    return result


def screen(rows: Rows, due: Due) -> NDArray[np.bool_]:
    """
    Tell which rows have anything off, of rows that :func:`alike` is true for.

    :param rows: with the first ``struct page``s only: up to the first plain one
        after a head; the last stands for all after it
    """
    off, own = _off_compounds(rows, due)
    suspect = ~own
    for mask in off.values():
        suspect |= mask
    # By a mask, those are right between the first and the last that is.
    size, base = np.uint64(due.page.size), np.uint64(due.geometry.vmemmap)
    last = np.maximum(rows.last, rows.first) + (rows.end - rows.first) - 1
    found = resolve_heads(
        rows.words[:, -1, due.page.compound // 8], base + last.astype(np.uint64) * size
    )
    wrong: NDArray[np.bool_] = found != base + rows.head.astype(np.uint64) * size
    return suspect.any(axis=1) | wrong


def spread(rows: Rows, count: int) -> Rows:
    """Get rows as read in full from rows of which only the first ``struct page``s were kept."""
    missing = count - rows.words.shape[1]
    rest = np.repeat(rows.words[:, -1:], missing, axis=1)
    return rows._replace(words=np.concatenate((rows.words, rest), axis=1))


def plain_base(rows: Rows, due: Due, altmap: bool) -> NDArray[np.bool_]:
    """Tell which rows of base pages can't have anything off: a few columns tell."""
    page, words = due.page, rows.words
    whole = (rows.start == rows.first) & (rows.end == rows.first + words.shape[1])
    mask, value = due.place
    mask, value = mask | page.pg_reserved, value | page.pg_reserved
    if not altmap and not due.folios:
        mask |= page.pg_head
    good: NDArray[np.bool_]
    good = ((words[:, :, page.flags // 8] & np.uint64(mask)) == np.uint64(value)).all(axis=1)
    good &= whole
    if not altmap:
        good &= (words[:, :, page.pgmap // 8] == np.uint64(due.pagemap.address)).all(axis=1)
    idle = 1 if altmap else idle_refcount(due.pagemap, page)
    good &= (_refcounts(words, page) >= idle).all(axis=1)
    return good


# From what is off to findings.


def check_rows(rows: Rows, due: Due, tally: Tally, plain: int) -> None:
    """
    Check rows of compound pages, each in full.

    :param plain: the first ``struct page`` after a head that is a tail like any other
    """
    off, own = _off_compounds(rows, due)
    pfn = _pfns(rows, rows.words.shape[1])
    # Where tail pages share a frame, all but the first few should be alike.
    tails = own & (pfn >= rows.head[:, None] + plain) & rows.shared[:, None]
    usual = usual_tail(rows, plain)
    differs = ((rows.words ^ usual[:, None]) & due.mask_alike()).any(axis=2)
    known = ~((usual == 0).all(axis=1) | (usual == _ONES).all(axis=1))
    off["tail-contents"] = tails & differs & known[:, None]
    tally.add(rows, off, own, pfn)


def check_pairs(
    head: Rows,
    tail: Rows,
    usual: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    due: Due,
    tally: Tally,
) -> None:
    """
    Hold the frames that compound pages share for their tail pages against their heads' frames.

    :param head: the rows with the heads; what :attr:`Rows.words` holds is not asked
    :param tail: the rows with the tail pages, of the same compound pages in the same order
    :param usual: what most tail pages hold in each of these, shape ``(n, words)``
    """
    known = np.ones(len(head.head), dtype=np.bool_)
    for rows, words in zip((head, tail), usual, strict=True):
        one = rows._replace(words=words[:, None])
        _, own, _ = _strangers(one, np.ones((len(words), 1), dtype=np.bool_), due)
        known &= own[:, 0]
    which = np.flatnonzero(known & (((usual[0] ^ usual[1]) & due.mask_alike()) != 0).any(axis=1))
    if len(which):
        count = tail.end[which] - tail.start[which]
        tally.add_off(
            "tail-contents",
            Off(tail.head[which], tail.start[which], tail.frame[which], count, usual[1][which]),
        )


def usual_tail(rows: Rows, plain: int) -> NDArray[np.uint64]:
    """
    Get what most of a row's tail pages hold, word by word.

    :return: shape ``(n, words)``
    """
    count = rows.words.shape[1]
    at = [min(plain + 1, count - 1), (count + plain) // 2, count - 1]
    return majority(np.stack([rows.words[:, slot] for slot in at]))


def check_frames(rows: Rows, due: Due, tally: Tally, altmap: bool) -> None:
    """Check rows of base pages, or of the frames of an altmap, each in full."""
    off, own = _off_base(rows, due, altmap)
    tally.add(rows, off, own, _pfns(rows, rows.words.shape[1]))


class Tally:
    """
    Gathers what is off, and makes findings of it.

    :param base: whether it is base pages, not compound pages
    """

    def __init__(self, due: Due, base: bool) -> None:
        self._due = due
        self._base = base
        self._per_page = due.geometry.page_size // due.page.size
        self._off: dict[str, list[Off]] = {}
        self._records = 0
        #: whether there were struct pages that are not the device's
        self.strangers = False

    def add(self, rows: Rows, off: _Masks, own: NDArray[np.bool_], pfn: NDArray[np.int64]) -> None:
        """Add what is off in rows."""
        for name, mask in off.items():
            which = np.flatnonzero(mask.any(axis=1))
            if not len(which):
                continue
            rule, moved = name, np.zeros(len(which), dtype=np.int64)
            if name == _FURTHER:
                rule, moved = "compound-head", (rows.last - rows.first)[which]
            self.strangers |= rule in ("page-uninitialised", "page-zone")
            slot = mask[which].argmax(axis=1)
            self.add_off(
                rule,
                Off(
                    rows.head[which],
                    pfn[which, slot] + moved,
                    rows.frame[which],
                    mask[which].sum(axis=1),
                    rows.words[which, slot],
                ),
            )

    def add_off(self, rule: str, off: Off) -> None:
        """Add places where a rule does not hold."""
        self._off.setdefault(rule, []).append(off)
        self._records += len(off.head)
        if self._records > _GATHERED:
            self._off = {name: [_by_head(parts)] for name, parts in self._off.items()}
            self._records = 0

    def flush(self, findings: Collector, looked: Callable[[int], tuple[int, int]]) -> None:
        """
        Make findings of what was added, and forget it.

        :param looked: gets, by :attr:`Rows.head`, how many tail pages and how
            many ``struct page``s in all were looked at
        """
        for rule_id, parts in self._off.items():
            rule = CATALOGUE[rule_id]
            off = _by_head(parts)
            # Neighbouring rows of base pages are told as one.
            apart = np.ones(len(off.head), dtype=np.bool_)
            apart[1:] = np.diff(off.head) > (self._per_page if self._base else 0)
            first = np.append(np.flatnonzero(apart), len(off.head)).tolist()
            places = len(first) - 1
            told = min(findings.room(rule), places)
            for i, end in pairwise(first[: told + 1]):
                several = [looked(head) for head in off.head[i:end].tolist()]
                pfn = int(off.pfn[i])
                message, expected, observed = self._told(
                    rule_id,
                    int(off.head[i]),
                    pfn,
                    int(off.several[i:end].sum()),
                    sum(tails for tails, _ in several),
                    sum(pages for _, pages in several),
                    off.words[i],
                )
                findings.add(
                    rule,
                    message,
                    vaddr=self._due.geometry.page_address(pfn),
                    pfn=int(off.frame[i]),
                    expected=expected,
                    observed=observed,
                )
            findings.add_uncounted(rule, places - told)
        self._off = {}
        self._records = 0

    def _told(
        self,
        rule: str,
        head: int,
        pfn: int,
        count: int,
        tails: int,
        pages: int,
        words: NDArray[np.uint64],
    ) -> tuple[str, str | int | None, str | int | None]:
        """Put into words what is off: message, what should be there, what is."""
        due, page = self._due, self._due.page
        compound = f"the compound page at pfn {head:#x}"
        if self._base:
            compound = f"the base pages from pfn {head:#x} on"
        one = count == 1
        flags = int(words[page.flags // 8])
        if rule == "head-flag":
            seen = f"flags {flags:#x}, compound word {int(words[page.compound // 8]):#x}"
            return f"{compound} is no head page", "PG_head set, no tail", seen
        if rule == "compound-order":
            order = int(words[page.order // 8]) >> page.order % 8 * 8 & 0xFF
            return f"{compound} has a wrong order", due.order, order
        if rule == "pgmap-link":
            who = (
                f"{count} of {pages} struct pages looked at of {compound} {'does' if one else 'do'}"
                if self._base
                else f"{compound} does"
            )
            return (
                f"{who} not point back to {'its' if one else 'their'} pagemap",
                f"{due.pagemap.address:#x}",
                f"{int(words[page.pgmap // 8]):#x}",
            )
        if rule == "compound-head":
            at = np.array([due.geometry.page_address(pfn)], dtype=np.uint64)
            return (
                f"{count} of {tails} tail pages looked at of {compound}"
                f" {'resolves' if one else 'resolve'} to a wrong head",
                f"{due.geometry.page_address(head):#x}",
                f"{int(resolve_heads(words[None, page.compound // 8], at)[0]):#x}",
            )
        who = f"{count} of {pages} struct pages looked at of {compound}"
        if rule == "stray-head":
            return f"{who} {'has' if one else 'have'} PG_head and should not", None, f"{flags:#x}"
        if rule == "tail-contents":
            return (
                f"{who} {'is' if one else 'are'} not like the other tail pages",
                None,
                " ".join(f"{word:x}" for word in words.tolist()),
            )
        if rule == "page-uninitialised":
            what = "ones" if int(words[0]) else "zeros"
            return f"{who} {'was' if one else 'were'} never initialised", None, f"all {what}"
        if rule == "page-zone":
            return (
                f"{who} {'is' if one else 'are'} not marked as the device's",
                self._place_text(),
                self._place_text(flags),
            )
        refcount = int(_refcounts(words, page))
        if not self._base and pfn != head:
            return f"{who} {'is a tail' if one else 'are tails'} with references", 0, refcount
        idle = idle_refcount(due.pagemap, page)
        what = "has a reference count" if one else "have reference counts"
        return f"{who} {what} lower than when idle", f"at least {idle}", refcount

    def _place_text(self, flags: int | None = None) -> str:
        """Put zone, node and PG_reserved into words: as they are in flags, or as they should be."""
        due, layout = self._due, self._due.flags
        if flags is None:
            node = "" if due.nid is None else f", node {due.nid}"
            return f"zone Device{node}, reserved"
        decoded = layout.decode(flags) if layout is not None else None
        zone = decoded.zone_name or decoded.zone if decoded is not None else "?"
        nid = decoded.nid if decoded is not None else None
        reserved = "reserved" if flags & due.page.pg_reserved else "not reserved"
        return f"zone {zone}, node {nid}, {reserved}"


def _by_head(parts: list[Off]) -> Off:
    """Add up what is off in one compound page, in order; keep the first place of each."""
    off = join(parts)
    off = select(off, np.lexsort((off.pfn, off.head)))
    first = np.flatnonzero(np.concatenate(([True], off.head[1:] != off.head[:-1])))
    total = np.add.reduceat(off.several, first)
    return select(off, first)._replace(several=total)
