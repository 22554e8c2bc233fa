# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Looks into the ``struct page``s of compound pages.

Some thousand at a time: the frame with the head and the one that tail pages share are
read at a glance; only those that are not alike, or whose first few ``struct page``s have
anything off, are looked into in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ....columns import join, select
from ....limits import LIMITS
from ....rules.page_rows import PageKind, StructPages, holds_mask, majority
from ....rules.page_violations import PageViolations
from ....rules.struct_pages import (
    COMPOUND_RULES,
    compound_head,
    compound_order,
    head_flag,
    page_refcount,
    page_uninitialised,
    page_zone,
    pgmap_link,
    stray_head,
    tail_contents,
)
from ....vmemmap.tables import Kind
from .areas import Area, Contents, picked
from .reading import Batch, Glance, Reading, glance, rows_of
from .shortcuts import screen, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.page_rows import Rows
    from .look import Look

__all__ = ("look_at_compounds",)


def look_at_compounds(look: Look, area: Area) -> None:
    """Look into the compound pages of an area."""
    violations = PageViolations(look.expected, PageKind.COMPOUND)
    numbers = picked(area, look.contents)
    look.sampled |= len(numbers) < area.parts
    look.heads.append(area.start)
    for at in range(0, len(numbers), LIMITS.compounds):
        head = area.start + (numbers[at : at + LIMITS.compounds] << area.order)
        end = np.minimum(head + (1 << area.order), area.end)
        first, last = head // look.per_page, -(-end // look.per_page) - 1
        # That they map somebody else's frame is known, and what is read there is his. The
        # shared frame of the tails is known by the first of them.
        own = look.own(np.stack((first, np.minimum(first + 1, last), last))).all(axis=0)
        if own.any():
            _Some(look, violations, head[own], end[own]).look_into()


class _Some:
    """
    Some compound pages.

    :param head: page frames of the heads, in order, shape ``(n,)``, n at least 1
    :param end: page frames after the compound pages, shape ``(n,)``
    """

    def __init__(
        self,
        look: Look,
        violations: PageViolations,
        head: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> None:
        self.look, self.violations = look, violations
        self.head, self.end = head, end
        #: first and last vpage of each
        self.first, self.last = head // look.per_page, -(-end // look.per_page) - 1
        self.counts = _Counts(head)

    def look_into(self) -> None:
        """Look into them."""
        look, counts = self.look, self.counts
        head, end, first, last = self.head, self.end, self.first, self.last
        some = np.stack((first, np.minimum(first + 1, last), np.minimum(first + 2, last), last))
        pfn, kind = self._frames_behind(some)
        usual = majority(pfn[1:])
        at_usual = (kind[1:] == Kind.MAPPED) & (pfn[1:] == usual)
        shared = (at_usual.sum(axis=0) > 1) & (last > first + 1)
        heads = Batch(
            first, head, head, head, head, np.minimum(head + look.per_page, end), shared,
            pfn[0], kind[0],
        )  # fmt: skip
        # The first and the last of the vpages looked up that map the shared frame.
        tail = np.where(at_usual[0], some[1], np.where(at_usual[1], some[2], last))
        tail_last = np.where(at_usual[2], last, tail)
        begin = tail * look.per_page
        tails = Batch(
            tail, head, begin, tail_last * look.per_page, begin,
            np.minimum(begin + look.per_page, end), shared, usual,
            np.full(len(head), Kind.MAPPED, dtype=np.uint8),
        )  # fmt: skip
        paired = np.flatnonzero(shared)
        self._check(
            join([heads, select(tails, paired)]),
            np.concatenate((np.arange(len(head)), paired)),
            paired,
        )
        for rest, of in self._unshared(~shared):
            self._check(rest, of, None)
        look.checked += int(np.count_nonzero(counts.seen))
        look.unreadable += int(np.count_nonzero(counts.lost))
        look.report(self.violations, counts.of)

    def _frames_behind(
        self, some: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """
        Find the frames behind the first three vpages of the compound pages and the last.

        :param some: shape ``(4, n)``
        :return: frames and kinds, same shape. Where the second and the last have the
            same frame, the third is taken to have it too: it would be outvoted
        """
        frames_of = self.look.vmemmap.frames_of
        first, second, third, last = some
        found, how = frames_of(np.stack((first, second, last)).ravel())
        pfn, kind = found.reshape(3, -1)[[0, 1, 1, 2]], how.reshape(3, -1)[[0, 1, 1, 2]]
        open_ = np.flatnonzero((pfn[1] != pfn[3]) | (kind[1] != kind[3]))
        if len(open_):
            pfn[2, open_], kind[2, open_] = frames_of(third[open_])
        return pfn, kind

    def _unshared(self, which: NDArray[np.bool_]) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """
        Get the vpages after the first of compound pages whose tail pages share no frame.

        :return: the vpages, and which compound page each is of
        """
        look, first, last = self.look, self.first, self.last
        numbers = np.flatnonzero(which & (last > first))
        if not len(numbers):
            return
        if look.contents is not Contents.ALL:
            # The kernel writes the first two of a deduplicated compound page; of
            # one that isn't, some kernels forgot the rest.
            lengths = np.minimum(last - first, 3)[numbers]
            look.sampled |= bool((last - first > 3)[numbers].any())
        else:
            lengths = (last - first)[numbers]
        ends = np.cumsum(lengths)
        for at in range(0, int(ends[-1]), LIMITS.vpages):
            position = np.arange(at, min(at + LIMITS.vpages, int(ends[-1])))
            of = np.searchsorted(ends, position, side="right")
            nth = position - (ends - lengths)[of] + 1
            one = numbers[of]
            vpage = first[one] + nth
            if look.contents is not Contents.ALL:
                vpage = np.where(nth == 3, last[one], vpage)
            begin = vpage * look.per_page
            pfn, kind = look.vmemmap.frames_of(vpage)
            rows = Batch(
                vpage, self.head[one], begin, begin, begin,
                np.minimum(begin + look.per_page, self.end[one]),
                np.zeros(len(one), dtype=np.bool_), pfn, kind,
            )  # fmt: skip
            yield rows, one

    def _check(self, rows: Batch, of: NDArray[np.int64], paired: NDArray[np.int64] | None) -> None:
        """
        Read rows, and check them.

        :param rows: frames with heads; and those that tail pages share, or other tail pages
        :param of: which compound page each is of, shape ``(n,)``
        :param paired: rows with heads whose tail pages share a frame: the last of
            ``rows``, in the same order
        """
        look, expected = self.look, self.look.expected
        seen = glance(rows, look.vmemmap, look.plain, look.step)
        expected.learn_node(seen.plain[seen.read, look.vmemmap.page.flags // 8])
        usual = seen.plain
        # Where all tail pages are alike, the first few struct pages will do, and of a
        # row without a head one.
        same = seen.read & seen.alike & (rows.end - rows.first == look.per_page)
        with_head, first = seen.heads, seen.first
        if not same[with_head].all():
            with_head, first = with_head[same[with_head]], first[same[with_head]]
        without = np.flatnonzero(same & (rows.first != rows.head))
        for which, words in ((with_head, first), (without, usual[without, None])):
            short = rows_of(select(rows, which), words)
            bad = np.flatnonzero(screen(short, expected))
            for done in range(0, len(bad), LIMITS.frames):
                some = spread(select(short, bad[done : done + LIMITS.frames]), look.per_page)
                self._check_pages(some)
        odd = np.flatnonzero(seen.read & ~same)
        if len(odd):
            self._check_in_full(rows, odd, seen.read, usual)
        if paired is not None:
            both = seen.read[paired] & seen.read[len(rows.head) - len(paired) :]
            one, other = paired[both], len(rows.head) - len(paired) + np.flatnonzero(both)
            self._check_pairs(rows_of(rows, usual[:, None]), one, other)
        self._record(rows, seen, usual)
        self.counts.add(of, rows, seen.read)
        look.missed |= not seen.read.all()

    def _check_in_full(
        self,
        rows: Batch,
        which: NDArray[np.int64],
        read: NDArray[np.bool_],
        usual: NDArray[np.uint64],
    ) -> None:
        """
        Check rows ``struct page`` by ``struct page``. They are read again for it.

        :param which: numbers of these rows
        :param read: is set to whether they could be, for each of ``rows``
        :param usual: what most tail pages hold in each of ``rows`` is set there
        """
        look = self.look
        read[which] = False
        for words, some, at in Reading(select(rows, which), look.vmemmap).batches(_no_step):
            part = rows_of(select(rows, which[some]), words[at])
            read[which[some]] = True
            usual[which[some]] = self._check_pages(part).usual

    def _check_pages(self, rows: Rows) -> StructPages:
        """Check rows that are whole."""
        pages = StructPages(rows, self.look.expected, PageKind.COMPOUND)
        self.violations.check(pages, COMPOUND_RULES)
        return pages

    def _check_pairs(self, rows: Rows, head: NDArray[np.int64], tail: NDArray[np.int64]) -> None:
        """
        Compare the frames that compound pages share for their tail pages with their heads' frames.

        :param rows: with what most tail pages hold in each, shape ``(n, 1, words)``
        :param head: numbers of the rows with the heads, shape ``(m,)``
        :param tail: and of those with the tail pages, of the same compound pages in the same order
        """
        expected = self.look.expected
        differs = (rows.words[head, 0] ^ rows.words[tail, 0]) & expected.mask_alike()
        if not differs.any():
            return
        which = np.flatnonzero(differs.any(axis=1))
        own = StructPages(select(rows, head[which]), expected, PageKind.COMPOUND).own[:, 0]
        which = which[own]
        for done in range(0, len(which), LIMITS.frames):
            some = which[done : done + LIMITS.frames]
            odd = spread(select(rows, tail[some]), self.look.per_page)
            usual = rows.words[head[some], 0]
            pages = StructPages(odd, expected, PageKind.COMPOUND, usual)
            self.violations.check(pages, (tail_contents,))

    def _record(self, rows: Batch, seen: Glance, usual: NDArray[np.uint64]) -> None:
        """Note which rules were held against anything."""
        look, page = self.look, self.look.vmemmap.page
        expected, asked = look.expected, look.asked
        if seen.read.any():
            asked.add(page_uninitialised)
            if expected.place[0]:
                asked.add(page_zone)
        # In another zone, they are nobody's to be held against more.
        own = seen.read & expected.in_zone(usual[:, page.flags // 8])
        if not own.any():
            return
        asked.update((compound_head, stray_head, page_refcount))
        if (own & rows.shared).any():
            asked.add(tail_contents)
        flags = seen.first[:, 0, page.flags // 8]
        in_zone = expected.in_zone(flags)
        if not in_zone.any():
            return
        asked.add(head_flag)
        lead = (seen.first[:, 0, page.compound // 8] & np.uint64(1)) != 0
        if (in_zone & ((flags & np.uint64(page.pg_head)) != 0) & ~lead).any():
            asked.update((pgmap_link, compound_order))
        masked = bool((in_zone & holds_mask(seen.first[:, 1, page.compound // 8])).any())
        look.masked = masked or bool(look.masked)


def _no_step(frames: int) -> None:
    """Make no progress: what is read again has been counted."""


class _Counts:
    """Counts, for each of some compound pages, what was looked at."""

    def __init__(self, head: NDArray[np.int64]) -> None:
        self._head = head
        self._tails = np.zeros(len(head), dtype=np.int64)
        self._pages = np.zeros(len(head), dtype=np.int64)
        #: whether any of it could be read, or could not although it is mapped
        self.seen = np.zeros(len(head), dtype=np.bool_)
        self.lost = np.zeros(len(head), dtype=np.bool_)

    def add(self, of: NDArray[np.int64], rows: Batch, read: NDArray[np.bool_]) -> None:
        """
        Add rows.

        :param of: which compound page each is of
        """
        pages = np.where(read, rows.end - rows.start, 0)
        np.add.at(self._pages, of, pages)
        np.add.at(self._tails, of, pages - (read & (rows.first == rows.head)))
        self.seen[of[read]] = True
        self.lost[of[~read & (rows.kind != Kind.HOLE)]] = True

    def of(self, head: int) -> tuple[int, int]:
        """Get how many tail pages, and how many pages in all, were looked at."""
        at = int(np.searchsorted(self._head, head))
        return int(self._tails[at]), int(self._pages[at])
