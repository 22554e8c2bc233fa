# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks the ``struct page``s of compound pages.

Some thousand at a time: the first few ``struct page``s are kept of the frame with the head and
of the one that tail pages share. A frame is checked in full only if the others are not alike,
or a rule is violated in the first few.
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
from .check import Contents, Region, picked
from .reading import FirstPages, Reading, VpageRows, read_first_pages, rows_of
from .shortcuts import screen, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.page_rows import Rows
    from .check import ContentsCheck

__all__ = ("check_compounds",)


def check_compounds(check: ContentsCheck, region: Region) -> None:
    """Check the compound pages of a region."""
    violations = PageViolations(check.expected, PageKind.COMPOUND)
    numbers = picked(region, check.contents)
    check.sampled |= len(numbers) < region.parts
    check.heads.append(region.start)
    for at in range(0, len(numbers), LIMITS.compounds):
        head = region.start + (numbers[at : at + LIMITS.compounds] << region.order)
        end = np.minimum(head + (1 << region.order), region.end)
        first, last = head // check.per_page, -(-end // check.per_page) - 1
        # That they map somebody else's frame is known, and what is read there is his. The
        # shared frame of the tails is known by the first of them.
        asked = [first, np.minimum(first + 1, last), last]
        if check.audited.shared_pfn is not None:
            # That frame is nobody's, and checked by itself.
            del asked[1:]
        own = check.own(np.stack(asked)).all(axis=0)
        if own.any():
            _CompoundBatch(check, violations, head[own], end[own]).check()


class _CompoundBatch:
    """
    Some compound pages.

    :param head: page frames of the heads, in order, shape ``(n,)``, n at least 1
    :param end: page frames after the compound pages, shape ``(n,)``
    """

    def __init__(
        self,
        check: ContentsCheck,
        violations: PageViolations,
        head: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> None:
        self.parent, self.violations = check, violations
        self.head, self.end = head, end
        #: first and last vpage of each
        self.first, self.last = head // check.per_page, -(-end // check.per_page) - 1
        self.counts = _Counts(head)

    def check(self) -> None:
        """Check them."""
        check, counts = self.parent, self.counts
        head, end, first, last = self.head, self.end, self.first, self.last
        some = np.stack((first, np.minimum(first + 1, last), np.minimum(first + 2, last), last))
        pfn, kind = self._frames_behind(some)
        usual, zone = majority(pfn[1:]), check.audited.shared_pfn
        if zone is not None:
            usual = np.full(len(head), zone, dtype=np.uint64)
        at_usual = (kind[1:] == Kind.MAPPED) & (pfn[1:] == usual)
        shared = (at_usual.sum(axis=0) > 1) & (last > first + 1)
        heads = VpageRows(
            first, head, head, head, head, np.minimum(head + check.per_page, end), shared,
            pfn[0], kind[0],
        )  # fmt: skip
        # The first and the last of the vpages looked up that map the shared frame.
        tail = np.where(at_usual[0], some[1], np.where(at_usual[1], some[2], last))
        tail_last = np.where(at_usual[2], last, tail)
        begin = tail * check.per_page
        tails = VpageRows(
            tail, head, begin, tail_last * check.per_page, begin,
            np.minimum(begin + check.per_page, end), shared, usual,
            np.full(len(head), Kind.MAPPED, dtype=np.uint8),
        )  # fmt: skip
        paired = np.flatnonzero(shared)
        if zone is not None:
            # What they share with others is checked by itself.
            paired = paired[:0]
        self._check(
            join([heads, select(tails, paired)]),
            np.concatenate((np.arange(len(head)), paired)),
            paired,
        )
        for rest, of in self._unshared(~shared):
            self._check(rest, of, None)
        check.checked += int(np.count_nonzero(counts.seen))
        check.unreadable += int(np.count_nonzero(counts.lost))
        check.report(self.violations, counts.of)

    def _frames_behind(
        self, some: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """
        Find the frames behind the first three vpages of the compound pages and the last.

        :param some: shape ``(4, n)``
        :return: frames and kinds, same shape. Where the second and the last have the
            same frame, the third is taken to have it too: it would be outvoted
        """
        frames_of = self.parent.vmemmap.frames_of
        first, second, third, last = some
        found, how = frames_of(np.stack((first, second, last)).ravel())
        pfn, kind = found.reshape(3, -1)[[0, 1, 1, 2]], how.reshape(3, -1)[[0, 1, 1, 2]]
        open_ = np.flatnonzero((pfn[1] != pfn[3]) | (kind[1] != kind[3]))
        if len(open_):
            pfn[2, open_], kind[2, open_] = frames_of(third[open_])
        return pfn, kind

    def _unshared(self, which: NDArray[np.bool_]) -> Iterator[tuple[VpageRows, NDArray[np.int64]]]:
        """
        Return the vpages after the first of compound pages whose tail pages share no frame.

        :return: the vpages, and which compound page each is of
        """
        check, first, last = self.parent, self.first, self.last
        numbers = np.flatnonzero(which & (last > first))
        if not len(numbers):
            return
        if check.contents is not Contents.ALL:
            # The kernel writes the first two of a deduplicated compound page; of
            # one that isn't, some kernels forgot the rest.
            lengths = np.minimum(last - first, 3)[numbers]
            check.sampled |= bool((last - first > 3)[numbers].any())
        else:
            lengths = (last - first)[numbers]
        ends = np.cumsum(lengths)
        for at in range(0, int(ends[-1]), LIMITS.vpages):
            position = np.arange(at, min(at + LIMITS.vpages, int(ends[-1])))
            of = np.searchsorted(ends, position, side="right")
            nth = position - (ends - lengths)[of] + 1
            one = numbers[of]
            vpage = first[one] + nth
            if check.contents is not Contents.ALL:
                vpage = np.where(nth == 3, last[one], vpage)
            begin = vpage * check.per_page
            pfn, kind = check.vmemmap.frames_of(vpage)
            if (zone := check.audited.shared_pfn) is not None:
                # What it shares with other devices is checked by itself.
                own = (pfn != zone) | (kind != Kind.MAPPED)
                one, vpage, begin, pfn, kind = (
                    one[own], vpage[own], begin[own], pfn[own], kind[own],
                )  # fmt: skip
            rows = VpageRows(
                vpage, self.head[one], begin, begin, begin,
                np.minimum(begin + check.per_page, self.end[one]),
                np.zeros(len(one), dtype=np.bool_), pfn, kind,
            )  # fmt: skip
            yield rows, one

    def _check(
        self, rows: VpageRows, of: NDArray[np.int64], paired: NDArray[np.int64] | None
    ) -> None:
        """
        Read rows, and check them.

        :param rows: frames with heads; and those that tail pages share, or other tail pages
        :param of: which compound page each is of, shape ``(n,)``
        :param paired: rows with heads whose tail pages share a frame: the last of
            ``rows``, in the same order
        """
        check, expected = self.parent, self.parent.expected
        seen = read_first_pages(rows, check.vmemmap, check.plain, check.step)
        expected.learn_node(seen.plain[seen.read, check.vmemmap.page.flags // 8])
        usual = seen.plain
        # Where all tail pages are alike, the first few struct pages will do, and of a
        # row without a head one.
        same = seen.read & seen.alike & (rows.end - rows.first == check.per_page)
        with_head, first = seen.heads, seen.first
        if not same[with_head].all():
            with_head, first = with_head[same[with_head]], first[same[with_head]]
        without = np.flatnonzero(same & (rows.first != rows.head))
        for which, words in ((with_head, first), (without, usual[without, None])):
            short = rows_of(select(rows, which), words)
            bad = np.flatnonzero(screen(short, expected))
            for done in range(0, len(bad), LIMITS.frames):
                some = spread(select(short, bad[done : done + LIMITS.frames]), check.per_page)
                self._check_pages(some)
        odd = np.flatnonzero(seen.read & ~same)
        if len(odd):
            self._check_in_full(rows, odd, seen.read, usual)
        if paired is not None:
            both = seen.read[paired] & seen.read[len(rows.head) - len(paired) :]
            one, other = paired[both], len(rows.head) - len(paired) + np.flatnonzero(both)
            self._check_pairs(rows_of(rows, usual[:, None]), one, other)
        if check.zone_usual is not None:
            self._compare_with_zone(rows, np.flatnonzero(seen.read & rows.shared), usual)
        self._record(rows, seen, usual)
        self.counts.add(of, rows, seen.read)
        check.missed |= not seen.read.all()

    def _check_in_full(
        self,
        rows: VpageRows,
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
        check = self.parent
        read[which] = False
        for words, some, at in Reading(select(rows, which), check.vmemmap).batches(_no_step):
            part = rows_of(select(rows, which[some]), words[at])
            read[which[some]] = True
            usual[which[some]] = self._check_pages(part).usual

    def _check_pages(self, rows: Rows) -> StructPages:
        """Check rows that are whole."""
        pages = StructPages(rows, self.parent.expected, PageKind.COMPOUND)
        self.violations.check(pages, COMPOUND_RULES)
        return pages

    def _check_pairs(self, rows: Rows, head: NDArray[np.int64], tail: NDArray[np.int64]) -> None:
        """
        Compare the frames that compound pages share for their tail pages with their heads' frames.

        :param rows: with what most tail pages hold in each, shape ``(n, 1, words)``
        :param head: numbers of the rows with the heads, shape ``(m,)``
        :param tail: and of those with the tail pages, of the same compound pages in the same order
        """
        expected = self.parent.expected
        differs = (rows.words[head, 0] ^ rows.words[tail, 0]) & expected.mask_alike()
        if not differs.any():
            return
        which = np.flatnonzero(differs.any(axis=1))
        own = StructPages(select(rows, head[which]), expected, PageKind.COMPOUND).own[:, 0]
        which = which[own]
        for done in range(0, len(which), LIMITS.frames):
            some = which[done : done + LIMITS.frames]
            odd = spread(select(rows, tail[some]), self.parent.per_page)
            usual = rows.words[head[some], 0]
            pages = StructPages(odd, expected, PageKind.COMPOUND, usual)
            self.violations.check(pages, (tail_contents,))

    def _compare_with_zone(
        self, rows: VpageRows, which: NDArray[np.int64], usual: NDArray[np.uint64]
    ) -> None:
        """
        Compare tail pages in the heads' frames with those that all devices share.

        :param which: numbers of the rows with heads
        :param usual: what most tail pages hold in each row, shape ``(n, words)``
        """
        check, zone = self.parent, self.parent.zone_usual
        assert zone is not None
        differs = (usual[which] ^ zone) & check.expected.mask_alike()
        if len(which) and differs.any(axis=1).all():
            # Then it is what they share that was written to.
            check.heads_usual = usual[which[0]]
            return
        which = which[differs.any(axis=1)]
        for words, some, at in Reading(select(rows, which), check.vmemmap).batches(_no_step):
            part = rows_of(select(rows, which[some]), words[at])
            model = np.repeat(zone[None], len(some), axis=0)
            pages = StructPages(part, check.expected, PageKind.COMPOUND, model)
            self.violations.check(pages, (tail_contents,))

    def _record(self, rows: VpageRows, seen: FirstPages, usual: NDArray[np.uint64]) -> None:
        """Record which rules were evaluated."""
        check, page = self.parent, self.parent.vmemmap.page
        expected, asked = check.expected, check.asked
        if seen.read.any():
            asked.add(page_uninitialised)
            if expected.place[0]:
                asked.add(page_zone)
        # In another zone, they are checked no further.
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
        check.masked = masked or bool(check.masked)


def _no_step(frames: int) -> None:
    """Count nothing: frames that are read again were counted before."""


class _Counts:
    """Counts the pages checked in each of some compound pages."""

    def __init__(self, head: NDArray[np.int64]) -> None:
        self._head = head
        self._tails = np.zeros(len(head), dtype=np.int64)
        self._pages = np.zeros(len(head), dtype=np.int64)
        #: whether any of it could be read, or could not although it is mapped
        self.seen = np.zeros(len(head), dtype=np.bool_)
        self.lost = np.zeros(len(head), dtype=np.bool_)

    def add(self, of: NDArray[np.int64], rows: VpageRows, read: NDArray[np.bool_]) -> None:
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
        """Return how many tail pages, and how many pages in all, were checked."""
        at = int(np.searchsorted(self._head, head))
        return int(self._tails[at]), int(self._pages[at])
