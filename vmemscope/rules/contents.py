# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the ``struct page``s of device memory: compound pages, base pages, altmap.

In: pages of the vmemmap as read, one a row, and what they should hold. Out: which
``struct page``s are off, by rule.

Where tail pages share a frame, nearly all ``struct page``s are alike, and that
is one comparison of neighbours: :func:`alike` tells for which rows it is enough to
look at the first few ``struct page``s, and :func:`screen` looks at these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .struct_pages import ONES, idle_refcount, refcounts, resolve_heads
from .tally import FURTHER, Off

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .struct_pages import Due, Rows
    from .tally import Masks, Tally

__all__ = (
    "ALTMAP_RULES",
    "BASE_RULES",
    "COMPOUND_RULES",
    "alike",
    "check_frames",
    "check_pairs",
    "check_rows",
    "majority",
    "plain_base",
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

#: eight bytes that are each true
_EIGHT_TRUE = np.uint64(0x0101_0101_0101_0101)


def majority(several: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Get of three values the one that two of them are, if there is one.

    :param several: three or more, along the first axis: the first, the middle, the last
    """
    three = np.sort(several[[0, len(several) // 2, len(several) - 1]], axis=0)
    middle: NDArray[np.uint64] = three[1]
    return middle


# What is off in struct pages.


def _pfns(rows: Rows, count: int) -> NDArray[np.int64]:
    return rows.first[:, None] + np.arange(count)


def _strangers(
    rows: Rows, asked: NDArray[np.bool_], due: Due
) -> tuple[Masks, NDArray[np.bool_], NDArray[np.uint64]]:
    """
    Find struct pages that nobody initialised for the device.

    :return: what is off; which of those asked about are the device's; their flags
    """
    words = rows.words
    flags = words[:, :, due.page.flags // 8]
    blank = ((flags == 0) | (flags == ONES)) & asked
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


def _off_compounds(rows: Rows, due: Due) -> tuple[Masks, NDArray[np.bool_]]:
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
        off[FURTHER] = (tail & ~off["compound-head"] & (further != 0)[:, None]) & (
            resolve_heads(compound, address + further[:, None]) != goal
        )
    refcount = refcounts(words, page)
    idle = idle_refcount(due.pagemap, page)
    off["page-refcount"] = (tail & (refcount != 0)) | (head & (refcount < idle))
    return off, own


def _off_base(rows: Rows, due: Due, altmap: bool) -> tuple[Masks, NDArray[np.bool_]]:
    """The same of base pages, or of the frames of an altmap."""
    page, words = due.page, rows.words
    pfn = _pfns(rows, words.shape[1])
    asked = (pfn >= rows.start[:, None]) & (pfn < rows.end[:, None])
    off, own, flags = _strangers(rows, asked, due)
    refcount = refcounts(words, page)
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
    equal = np.empty(len(flat), dtype=np.bool_)
    np.equal(flat[size:], flat[:-size], out=equal[:-size])
    if size == 8:
        # Eight answers at a time.
        equal[-size:] = True
        next_alike = equal.view(np.uint64).reshape(rows, count) == _EIGHT_TRUE
    else:
        next_alike = equal.reshape(rows, count, size).all(axis=2)
    # The last of a row is not asked, and of a row with a head not the first few. A column
    # at a time: numpy is slow where the last axis is short.
    next_alike[:, -1] = True
    for column in range(plain):
        next_alike[:, column] |= is_head
    if next_alike.all():
        return np.ones(rows, dtype=np.bool_)
    result: NDArray[np.bool_] = next_alike.all(axis=1)
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
    good &= (refcounts(words, page) >= idle).all(axis=1)
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
    known = ~((usual == 0).all(axis=1) | (usual == ONES).all(axis=1))
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
