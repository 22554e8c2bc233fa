# SPDX-License-Identifier: LGPL-2.1-or-later
"""
From what is off in ``struct page``s to findings.

What is off (:class:`Off`) comes by the row, in any order; a :class:`Tally` adds up
that of one compound page, or of neighbouring rows of base pages, and tells it as one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, select
from . import RULES
from .struct_pages import idle_refcount, refcounts, resolve_heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .findings import Collector
    from .struct_pages import Due, Rows

__all__ = ("FURTHER", "Masks", "Off", "Tally")

#: where tail pages resolve to the right head from the first place that they are mapped at,
#: and to a wrong one from the last
FURTHER = "compound-head, further"
#: records of what is off that are kept before those of one compound page are added up
_GATHERED = 1 << 14

#: for each rule the struct pages that it does not hold for, shape ``(rows, struct pages)``
Masks = dict[str, "NDArray[np.bool_]"]


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

    def add(self, rows: Rows, off: Masks, own: NDArray[np.bool_], pfn: NDArray[np.int64]) -> None:
        """Add what is off in rows."""
        for name, mask in off.items():
            which = np.flatnonzero(mask.any(axis=1))
            if not len(which):
                continue
            rule, moved = name, np.zeros(len(which), dtype=np.int64)
            if name == FURTHER:
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
            rule = RULES[rule_id]
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
        refcount = int(refcounts(words, page))
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
