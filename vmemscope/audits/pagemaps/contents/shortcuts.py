# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Finds pages of the vmemmap in which no ``struct page`` can be wrong, without a check of all.

Where tail pages share a frame, nearly all ``struct page``s are alike, and that
is one comparison of neighbours: :func:`alike` finds the rows of which it is enough to
check the first few ``struct page``s, and :func:`screen` checks these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....columns import select
from ....rules.page_rows import (
    PageKind,
    StructPages,
    holds_mask,
    resolve_heads,
)
from ....rules.struct_pages import COMPOUND_RULES, tail_contents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.page_rows import Expected, Rows

__all__ = ("alike", "plain_base", "screen", "spread")

#: rules that the first few ``struct page``s are enough for
_SCREENED = tuple(rule for rule in COMPOUND_RULES if rule is not tail_contents)


def alike(
    words: NDArray[np.uint64],
    is_head: NDArray[np.bool_],
    asked: NDArray[np.bool_],
    plain: int,
) -> NDArray[np.bool_]:
    """
    Find rows whose ``struct page``s are all alike, after the first few of a head's.

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


def screen(rows: Rows, expected: Expected) -> NDArray[np.bool_]:
    """
    Find rows in which any rule is violated, of rows that :func:`alike` is true for.

    :param rows: all with a head, or none; with the first ``struct page``s only: up to
        the first plain one after a head; the last stands for all after it
    """
    count = len(rows.head)
    suspect = np.zeros(count, dtype=np.bool_)
    which = np.arange(count)
    if count > 1 and not _wrong(select(rows, slice(1)), expected)[0]:
        # Nothing is wrong in the first of them, nor in any that is like it.
        which = np.flatnonzero(~_like_first(rows, expected))
    if len(which):
        suspect[which] = _wrong(select(rows, which), expected)
    return suspect


def _wrong(rows: Rows, expected: Expected) -> NDArray[np.bool_]:
    """Find rows in which any rule is violated, each by itself."""
    pages = StructPages(rows, expected, PageKind.COMPOUND)
    suspect = ~pages.own
    for rule in _SCREENED:
        for found in rule.wrong(pages):
            suspect |= found.where
    # By a mask, those are right between the first and the last that is.
    head = resolve_heads(pages.compound[:, -1], expected.addresses(_last(rows)))
    wrong: NDArray[np.bool_] = head != expected.addresses(rows.head)
    return suspect.any(axis=1) | wrong


def _last(rows: Rows) -> NDArray[np.int64]:
    """Return the last page frame that a row describes, seen from the last place it is mapped at."""
    last: NDArray[np.int64] = np.maximum(rows.last, rows.first) + (rows.end - rows.first) - 1
    return last


def _like_first(rows: Rows, expected: Expected) -> NDArray[np.bool_]:
    """Find rows that hold what the first does, and lead to their own heads."""
    page = expected.page
    count, slots, size = rows.words.shape
    same = rows.words.reshape(count, -1) == rows.words[0].reshape(-1)
    tail = 1 if rows.first[0] == rows.head[0] else 0
    same.reshape(count, slots, size)[:, tail:, page.compound // 8] = True
    goal = expected.addresses(rows.head)[:, None]
    compound = rows.words[:, tail:, page.compound // 8]
    leads = compound == goal | np.uint64(1)
    if not leads.all():
        # A mask that leads the last of them to the head leads all before there, too.
        last = expected.addresses(_last(rows))[:, None]
        leads |= holds_mask(compound) & (resolve_heads(compound, last) == goal)
    if same.all() and leads.all():
        # Asking each row takes ten times the time.
        return np.ones(count, dtype=np.bool_)
    like: NDArray[np.bool_] = same.all(axis=1) & leads.all(axis=1)
    return like


def spread(rows: Rows, count: int) -> Rows:
    """Extend rows of which only the first ``struct page``s were kept to full rows."""
    missing = count - rows.words.shape[1]
    rest = np.repeat(rows.words[:, -1:], missing, axis=1)
    return rows._replace(words=np.concatenate((rows.words, rest), axis=1))


def plain_base(pages: StructPages) -> NDArray[np.bool_]:
    """Find rows of base pages in which nothing can be wrong: a few columns say so."""
    rows, expected, page = pages.rows, pages.expected, pages.expected.page
    altmap = pages.kind is PageKind.ALTMAP
    mask, value = expected.place
    mask, value = mask | page.pg_reserved, value | page.pg_reserved
    if not altmap and not expected.folios:
        mask |= page.pg_head
    good: NDArray[np.bool_]
    good = ((pages.flags & np.uint64(mask)) == np.uint64(value)).all(axis=1)
    good &= (rows.start == rows.first) & (rows.end == rows.first + pages.words.shape[1])
    if not altmap:
        good &= (pages.pgmap == np.uint64(expected.pagemap.address)).all(axis=1)
    good &= (pages.refcounts >= pages.idle).all(axis=1)
    return good
