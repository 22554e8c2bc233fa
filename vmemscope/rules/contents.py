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

from ..columns import select
from .struct_pages import ONES, holds_mask, idle_refcount, refcounts, resolve_heads
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


def majority(several: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    Get of three values the one that two of them are, if there is one.

    :param several: three or more, along the first axis: the first, the middle, the last
    """
    first, middle, last = several[0], several[len(several) // 2], several[-1]
    lower, upper = np.minimum(first, middle), np.maximum(first, middle)
    median: NDArray[np.uint64] = np.maximum(lower, np.minimum(upper, last))
    return median


# What is off in struct pages.


def _pfns(rows: Rows, count: int) -> NDArray[np.int64]:
    return rows.first[:, None] + np.arange(count)


def _strangers(
    words: NDArray[np.uint64], asked: NDArray[np.bool_], due: Due
) -> tuple[Masks, NDArray[np.bool_], NDArray[np.uint64]]:
    """
    Find struct pages that nobody initialised for the device.

    :return: what is off; which of those asked about are the device's; their flags
    """
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
    off, own, flags = _strangers(words, asked, due)
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
    address, goal = due.addresses(pfn), due.addresses(rows.head)[:, None]
    off["compound-head"] = tail & (resolve_heads(compound, address) != goal)
    further = (rows.last - rows.first).astype(np.uint64) * np.uint64(page.size)
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
    off, own, flags = _strangers(words, asked, due)
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


def alike(
    words: NDArray[np.uint64],
    is_head: NDArray[np.bool_],
    asked: NDArray[np.bool_],
    plain: int,
) -> NDArray[np.bool_]:
    """
    Tell which rows have ``struct page``s that are all alike, after the first few of a head's.

    :param words: shape ``(n, struct pages, words)``
    :param is_head: whether each starts with a head, shape ``(n,)``
    :param asked: which are asked about, shape ``(n,)``
    :param plain: the first ``struct page`` after a head that is a tail like any other
    :return: shape ``(n,)``; true where it is not asked
    """
    rows, count, size = words.shape
    if not rows or count <= plain + 1:
        return np.zeros(rows, dtype=np.bool_)
    # One comparison over all of it, of each word with that of the next struct page,
    # takes a third of the time of one row by row; and so does one question to all rows.
    flat = words.reshape(-1)
    equal = np.empty(len(flat), dtype=np.bool_)
    np.equal(flat[size:], flat[:-size], out=equal[:-size])
    by_row = equal.reshape(rows, count * size)
    by_row[:, -size:] = True
    by_row[np.flatnonzero(is_head), : plain * size] = True
    by_row[np.flatnonzero(~asked)] = True
    if equal.all():
        return np.ones(rows, dtype=np.bool_)
    result: NDArray[np.bool_] = np.all(by_row, axis=1)
    return result


def screen(rows: Rows, due: Due) -> NDArray[np.bool_]:
    """
    Tell which rows have anything off, of rows that :func:`alike` is true for.

    :param rows: all with a head, or none; with the first ``struct page``s only: up to
        the first plain one after a head; the last stands for all after it
    """
    count = len(rows.head)
    suspect = np.zeros(count, dtype=np.bool_)
    which = np.arange(count)
    if count > 1 and not _off(select(rows, slice(1)), due)[0]:
        # Nothing is off in the first of them, nor in any that is like it.
        which = np.flatnonzero(~_like_first(rows, due))
    if len(which):
        suspect[which] = _off(select(rows, which), due)
    return suspect


def _off(rows: Rows, due: Due) -> NDArray[np.bool_]:
    """Tell which rows have anything off, each by itself."""
    off, own = _off_compounds(rows, due)
    suspect = ~own
    for mask in off.values():
        suspect |= mask
    # By a mask, those are right between the first and the last that is.
    found = resolve_heads(rows.words[:, -1, due.page.compound // 8], due.addresses(_last(rows)))
    wrong: NDArray[np.bool_] = found != due.addresses(rows.head)
    return suspect.any(axis=1) | wrong


def _last(rows: Rows) -> NDArray[np.int64]:
    """Get the last page frame that a row describes, seen from the last place it is mapped at."""
    last: NDArray[np.int64] = np.maximum(rows.last, rows.first) + (rows.end - rows.first) - 1
    return last


def _like_first(rows: Rows, due: Due) -> NDArray[np.bool_]:
    """Tell which rows hold what the first does, and lead to their own heads."""
    page = due.page
    count, slots, size = rows.words.shape
    same = rows.words.reshape(count, -1) == rows.words[0].reshape(-1)
    tail = 1 if rows.first[0] == rows.head[0] else 0
    same.reshape(count, slots, size)[:, tail:, page.compound // 8] = True
    goal = due.addresses(rows.head)[:, None]
    compound = rows.words[:, tail:, page.compound // 8]
    leads = compound == goal | np.uint64(1)
    if not leads.all():
        # A mask that leads the last of them to the head leads all before there, too.
        last = due.addresses(_last(rows))[:, None]
        leads |= holds_mask(compound) & (resolve_heads(compound, last) == goal)
    if same.all() and leads.all():
        # Asking each row takes ten times the time.
        return np.ones(count, dtype=np.bool_)
    like: NDArray[np.bool_] = same.all(axis=1) & leads.all(axis=1)
    return like


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
    rows: Rows, head: NDArray[np.int64], tail: NDArray[np.int64], due: Due, tally: Tally
) -> None:
    """
    Hold the frames that compound pages share for their tail pages against their heads' frames.

    :param rows: with what most tail pages hold in each, shape ``(n, 1, words)``
    :param head: numbers of the rows with the heads, shape ``(m,)``
    :param tail: and of those with the tail pages, of the same compound pages in the same order
    """
    differs = (rows.words[head, 0] ^ rows.words[tail, 0]) & due.mask_alike()
    if not differs.any():
        return
    which = np.flatnonzero(differs.any(axis=1))
    for several in (head, tail):
        words = rows.words[several[which]]
        _, own, _ = _strangers(words, np.ones(words.shape[:2], dtype=np.bool_), due)
        which = which[own[:, 0]]
    if len(which):
        odd = select(rows, tail[which])
        tally.add_off(
            "tail-contents",
            Off(odd.head, odd.start, odd.frame, odd.end - odd.start, odd.words[:, 0]),
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
