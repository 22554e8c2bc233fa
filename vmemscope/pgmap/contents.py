# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ``struct page``s of device memory: which are looked into, and the looking.

All of them, a sample of each range's, or none (:class:`Contents`). They are
streamed: some thousand compound pages at a time are looked up in the page tables,
their frames read in order of address, a few megabytes at a time, and each frame
that tail pages share is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, select
from ..rules import CATALOGUE
from ..rules.contents import (
    ALTMAP_RULES,
    BASE_RULES,
    COMPOUND_RULES,
    alike,
    check_frames,
    check_pairs,
    check_rows,
    majority,
    plain_base,
    screen,
    spread,
    usual_tail,
)
from ..rules.ranges import check_mask_alignment
from ..rules.struct_pages import Due, holds_mask
from ..rules.tally import Tally
from ..walk import Kind
from .areas import Area, Contents, areas_of, picked, why_not
from .reading import FRAMES, Batch, read_batch, rows_of
from .subject import NO_RANGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..findings import Rule
    from ..kernel.page_flags import FlagLayout
    from ..vmemmap import Vmemmap
    from .subject import Subject

__all__ = ("Contents", "ContentsChecked", "check_contents", "frames_to_read")
#: compound pages that are looked up at a time, and vpages
_COMPOUNDS = 8192
_VPAGES = 16384


def _rules(*names: str) -> tuple[Rule, ...]:
    return tuple(CATALOGUE[name] for name in names)


#: the rules that are evaluated here
_ALIGNMENT = ("mask-alignment", "compound-alignment")
_RULES = _rules(*COMPOUND_RULES, *_ALIGNMENT)
_OF_COMPOUNDS = _rules(*(rule for rule in COMPOUND_RULES if rule not in BASE_RULES), *_ALIGNMENT)

_SAMPLED = "struct pages that are not in the sample (--contents all has all)"
_UNREAD = "struct pages that are not mapped, or could not be read"
_STRANGERS = "struct pages that are not the device's, or were never initialised"


class ContentsChecked(NamedTuple):
    """How many there are, were looked into, could not be read in full."""

    compounds: int = 0
    compounds_checked: int = 0
    compounds_unreadable: int = 0
    #: base pages: those of pagemaps without compound pages
    base_pages: int = 0
    base_pages_checked: int = 0
    base_pages_unreadable: int = 0


def frames_to_read(subject: Subject, vmemmap: Vmemmap, contents: Contents) -> int:
    """Tell about how many frames will be read, for progress to be shown."""
    if why_not(subject, vmemmap, contents) is not None:
        return 0
    frames = 0
    for area in areas_of(subject, vmemmap):
        each = 1
        if area.order:
            each = min(vmemmap.geometry.compound_vpages(area.order), 4)
            if subject.dedup.expected:
                each = 2
            elif contents is Contents.ALL:
                each = vmemmap.geometry.compound_vpages(area.order)
        frames += len(picked(area, contents)) * each
    return frames


def check_contents(
    subject: Subject,
    vmemmap: Vmemmap,
    flags: FlagLayout | None,
    contents: Contents,
    step: Callable[[int], None],
) -> ContentsChecked:
    """
    Look into the ``struct page``s of a pagemap.

    :param flags: where things are in ``page->flags``
    :param step: called with the frames of each batch that was read
    """
    findings = subject.findings
    reason = why_not(subject, vmemmap, contents)
    areas = [] if reason is not None else areas_of(subject, vmemmap)
    if reason is None and not areas:
        reason = "no page behind the altmap" if subject.ranges else NO_RANGE
    if reason is not None:
        findings.skipped(reason, *_RULES)
        return (
            _counted(areas_of(subject, vmemmap), vmemmap)
            if contents is Contents.NONE
            else (ContentsChecked())
        )
    if not subject.order:
        findings.skipped(subject.no_compounds or "no compound pages", *_OF_COMPOUNDS)
    if subject.foreign:
        findings.skipped("compound pages in a frame that is another's", *_RULES)
    due = Due(subject.pagemap, vmemmap.page, vmemmap.geometry, flags)
    if not due.place[0]:
        findings.skipped("where the zone is in page flags could not be told", *_rules("page-zone"))
    if due.folios and not subject.order:
        findings.skipped("its driver makes folios of base pages", *_rules("stray-head"))
    look = _Look(subject, vmemmap, due, contents, step)
    for area in areas:
        if area.order:
            look.at_compounds(area)
        else:
            look.at_base_pages(area)
    return look.finish(areas)


def _counted(areas: list[Area], vmemmap: Vmemmap) -> ContentsChecked:
    """Count what there is to be looked into."""
    return ContentsChecked(
        compounds=sum(area.parts for area in areas if area.order),
        base_pages=sum(
            area.end - area.start for area in areas if not area.order and not area.altmap
        ),
    )


class _Look:
    """Looks into the struct pages of one pagemap."""

    def __init__(
        self,
        subject: Subject,
        vmemmap: Vmemmap,
        due: Due,
        contents: Contents,
        step: Callable[[int], None],
    ) -> None:
        self.subject, self.vmemmap, self.due = subject, vmemmap, due
        self.contents, self.step = contents, step
        self.per_page = vmemmap.geometry.page_size // vmemmap.geometry.struct_page_size
        self.plain = min(vmemmap.page.folio_pages, self.per_page - 1)
        self.checked = self.unreadable = self.base_checked = self.base_unreadable = 0
        #: rules that were held against anything
        self.asked: set[str] = set()
        #: whether anything could not be read, was left out, or is not the device's
        self.missed = self.sampled = self.strangers = False
        #: whether tail pages hold a mask; ``None`` while none was seen
        self.masked: bool | None = None
        self.heads: list[int] = []

    def finish(self, areas: list[Area]) -> ContentsChecked:
        """Record what was checked, and what not."""
        findings = self.subject.findings
        findings.checked(*_rules(*(rule for rule in COMPOUND_RULES if rule in self.asked)))
        rules = _rules(*(COMPOUND_RULES if self.subject.order else BASE_RULES))
        for reason, holds in (
            (_UNREAD, self.missed),
            (_SAMPLED, self.sampled),
            (_STRANGERS, self.strangers),
        ):
            if holds:
                findings.skipped(reason, *rules)
        if self.subject.order:
            for rule in ("pgmap-link", "compound-order"):
                if self.asked and rule not in self.asked and not self.missed:
                    findings.skipped("no struct page that could be read is a head", *_rules(rule))
            if "tail-contents" not in self.asked:
                findings.skipped("no tail pages that share a frame", *_rules("tail-contents"))
            check_mask_alignment(
                self.subject.pagemap, self.heads, self.masked, self.vmemmap.geometry, findings
            )
        return _counted(areas, self.vmemmap)._replace(
            compounds_checked=self.checked,
            compounds_unreadable=self.unreadable,
            base_pages_checked=self.base_checked,
            base_pages_unreadable=self.base_unreadable,
        )

    # Base pages.

    def at_base_pages(self, area: Area) -> None:
        """Look into the pages of an area without compound pages."""
        tally = Tally(self.due, base=True)
        numbers = picked(area, self.contents) + area.start // self.per_page
        self.sampled |= len(numbers) < area.parts
        for done in range(0, len(numbers), _VPAGES):
            vpage = self._own(numbers[done : done + _VPAGES])
            first = vpage * self.per_page
            start = np.maximum(first, area.start)
            end = np.minimum(first + self.per_page, area.end)
            pfn, kind = self.vmemmap.frames_of(vpage)
            none = np.zeros(len(vpage), dtype=np.bool_)
            rows = Batch(vpage, start, first, first, start, end, none, pfn, kind)
            read = np.zeros(len(vpage), dtype=np.bool_)
            for words, which, at in read_batch(rows, self.vmemmap, self.step):
                read[which] = True
                self._learn(words[at])
                part = select(rows, which)
                # Not all of what was read, or some of it twice.
                if len(at) != len(words) or (np.diff(at) != 1).any():
                    words = words[at]
                full = rows_of(part, words)
                bad = ~plain_base(full, self.due, area.altmap)
                if bad.any():
                    check_frames(select(full, bad), self.due, tally, area.altmap)
                if not area.altmap:
                    self.base_checked += int((part.end - part.start).sum())
                self.asked.update(ALTMAP_RULES if area.altmap else self._base_rules())
            if not area.altmap:
                lost = ~read & (kind != Kind.HOLE)
                self.base_unreadable += int((end - start)[lost].sum())
            self.missed |= not read.all()
            sizes = {
                first: (0, pages)
                for first, pages in zip(start.tolist(), (end - start).tolist(), strict=True)
            }
            self.strangers |= tally.strangers
            tally.flush(self.subject.findings, sizes.__getitem__)

    def _base_rules(self) -> Iterator[str]:
        for rule in BASE_RULES:
            if (rule != "stray-head" or not self.due.folios) and (
                rule != "page-zone" or self.due.place[0]
            ):
                yield rule

    # Compound pages.

    def at_compounds(self, area: Area) -> None:
        """Look into the compound pages of an area."""
        tally = Tally(self.due, base=False)
        numbers = picked(area, self.contents)
        self.sampled |= len(numbers) < area.parts
        self.heads.append(area.start)
        for at in range(0, len(numbers), _COMPOUNDS):
            head = area.start + (numbers[at : at + _COMPOUNDS] << area.order)
            self._at_some(head, np.minimum(head + (1 << area.order), area.end), tally)

    def _at_some(self, head: NDArray[np.int64], end: NDArray[np.int64], tally: Tally) -> None:
        """
        Look into some compound pages.

        :param head: page frames of the heads, in order, shape ``(n,)``
        :param end: page frames after the compound pages, shape ``(n,)``
        """
        first, last = head // self.per_page, -(-end // self.per_page) - 1
        if self.subject.foreign:
            # That they map somebody else's frame is known, and what is read there is his. The
            # shared frame of the tails is known by the first of them.
            some = np.stack((first, np.minimum(first + 1, last), last))
            own = ~np.isin(some, list(self.subject.foreign)).any(axis=0)
            head, end, first, last = head[own], end[own], first[own], last[own]
        if not len(head):
            return
        some = np.stack((first, np.minimum(first + 1, last), np.minimum(first + 2, last), last))
        pfn, kind = self._looked_up(some)
        usual = majority(pfn[1:])
        at_usual = (kind[1:] == Kind.MAPPED) & (pfn[1:] == usual)
        shared = (at_usual.sum(axis=0) > 1) & (last > first + 1)
        counts = _Counts(head)
        heads = Batch(
            first, head, head, head, head, np.minimum(head + self.per_page, end), shared,
            pfn[0], kind[0],
        )  # fmt: skip
        # The first and the last of the vpages looked up that map the shared frame.
        tail = np.where(at_usual[0], some[1], np.where(at_usual[1], some[2], last))
        tail_last = np.where(at_usual[2], last, tail)
        begin = tail * self.per_page
        tails = Batch(
            tail, head, begin, tail_last * self.per_page, begin,
            np.minimum(begin + self.per_page, end), shared, usual,
            np.full(len(head), Kind.MAPPED, dtype=np.uint8),
        )  # fmt: skip
        self._check(heads, select(tails, shared), tally, counts)
        for rest in self._unshared(first, last, head, end, ~shared):
            self._check(rest, None, tally, counts)
        self.checked += int(np.count_nonzero(counts.seen))
        self.unreadable += int(np.count_nonzero(counts.lost))
        self.strangers |= tally.strangers
        tally.flush(self.subject.findings, counts.of)

    def _looked_up(self, some: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """
        Find the frames behind the first three vpages of compound pages and the last.

        :param some: shape ``(4, n)``
        :return: frames and kinds, same shape. Where the second and the last have the
            same frame, the third is taken to have it too: it would be outvoted
        """
        asked = [0, 1, 3]
        found, how = self.vmemmap.frames_of(some[asked].ravel())
        pfn, kind = np.empty(some.shape, np.uint64), np.empty(some.shape, np.uint8)
        pfn[asked], kind[asked] = found.reshape(3, -1), how.reshape(3, -1)
        pfn[2], kind[2] = pfn[1], kind[1]
        open_ = np.flatnonzero((pfn[1] != pfn[3]) | (kind[1] != kind[3]))
        if len(open_):
            pfn[2, open_], kind[2, open_] = self.vmemmap.frames_of(some[2, open_])
        return pfn, kind

    def _unshared(
        self,
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        head: NDArray[np.int64],
        end: NDArray[np.int64],
        which: NDArray[np.bool_],
    ) -> Iterator[Batch]:
        """Get the vpages after the first of compound pages whose tail pages share no frame."""
        numbers = np.flatnonzero(which & (last > first))
        if not len(numbers):
            return
        if self.contents is not Contents.ALL:
            # The kernel writes the first two of a deduplicated compound page; of
            # one that isn't, some kernels forgot the rest.
            lengths = np.minimum(last - first, 3)[numbers]
            self.sampled |= bool((last - first > 3)[numbers].any())
        else:
            lengths = (last - first)[numbers]
        ends = np.cumsum(lengths)
        for at in range(0, int(ends[-1]), _VPAGES):
            position = np.arange(at, min(at + _VPAGES, int(ends[-1])))
            of = np.searchsorted(ends, position, side="right")
            nth = position - (ends - lengths)[of] + 1
            one = numbers[of]
            vpage = first[one] + nth
            if self.contents is not Contents.ALL:
                vpage = np.where(nth == 3, last[one], vpage)
            begin = vpage * self.per_page
            pfn, kind = self.vmemmap.frames_of(vpage)
            yield Batch(
                vpage, head[one], begin, begin, begin,
                np.minimum(begin + self.per_page, end[one]),
                np.zeros(len(one), dtype=np.bool_), pfn, kind,
            )  # fmt: skip

    def _check(self, rows: Batch, tails: Batch | None, tally: Tally, counts: _Counts) -> None:
        """
        Read rows, and check them.

        :param rows: of any kind
        :param tails: frames that tail pages share: one for each of ``rows`` whose
            ``shared`` is set, in the same order
        """
        paired = np.flatnonzero(rows.shared) if tails is not None else np.empty(0, np.int64)
        count = len(rows.vpage)
        if tails is not None:
            rows = join([rows, tails])
        kept = self.plain + 1
        small = np.zeros((len(rows.vpage), kept, self.vmemmap.page.size // 8), dtype=np.uint64)
        odd_usual: tuple[list[NDArray[np.int64]], list[NDArray[np.uint64]]] = ([], [])
        plain_row = np.zeros(len(rows.vpage), dtype=np.bool_)
        is_head = rows.first == rows.head
        full = rows.end - rows.first == self.per_page
        read = np.zeros(len(rows.vpage), dtype=np.bool_)
        for words, which, at in read_batch(rows, self.vmemmap, self.step):
            read[which] = True
            with_head = np.zeros(len(words), dtype=np.bool_)
            with_head[at] = is_head[which]
            same = alike(words, with_head, self.plain)[at] & full[which]
            small[which] = words[at, :kept]
            self._learn(small[which])
            plain_row[which] = same
            if not same.all():
                odd = ~same
                some = rows_of(select(rows, which[odd]), words[at[odd]])
                odd_usual[0].append(which[odd])
                odd_usual[1].append(usual_tail(some, self.plain))
                check_rows(some, self.due, tally, self.plain)
        # Of a row of tail pages that are all alike, the first will do.
        for some_rows, slots in (
            (np.flatnonzero(plain_row & is_head), kept),
            (np.flatnonzero(plain_row & ~is_head), 1),
        ):
            short = rows_of(select(rows, some_rows), small[some_rows, :slots])
            bad = np.flatnonzero(screen(short, self.due))
            for done in range(0, len(bad), FRAMES):
                some = spread(select(short, bad[done : done + FRAMES]), self.per_page)
                check_rows(some, self.due, tally, self.plain)
        if len(paired):
            usual = small[:, -1]
            if odd_usual[0]:
                usual = usual.copy()
                usual[np.concatenate(odd_usual[0])] = np.concatenate(odd_usual[1])
            both = read[paired] & read[count:]
            one, other = paired[both], count + np.flatnonzero(both)
            check_pairs(
                rows_of(select(rows, one), small[one]),
                rows_of(select(rows, other), small[other]),
                (usual[one], usual[other]),
                self.due,
                tally,
            )
        self._record(rows, small, read, is_head)
        counts.add(rows, read, is_head)
        self.missed |= not read.all()

    def _record(
        self,
        rows: Batch,
        small: NDArray[np.uint64],
        read: NDArray[np.bool_],
        is_head: NDArray[np.bool_],
    ) -> None:
        """Note which rules were held against anything."""
        page = self.vmemmap.page
        if read.any():
            self.asked.add("page-uninitialised")
            if self.due.place[0]:
                self.asked.add("page-zone")
        # In another zone, they are nobody's to be held against more.
        own = read & self.due.in_zone(small[:, -1, page.flags // 8])
        if not own.any():
            return
        self.asked.update(("compound-head", "stray-head", "page-refcount"))
        if (own & rows.shared).any():
            self.asked.add("tail-contents")
        heads = small[read & is_head & self.due.in_zone(small[:, 0, page.flags // 8])]
        if not len(heads):
            return
        self.asked.add("head-flag")
        found = heads[:, 0]
        if (
            ((found[:, page.flags // 8] & np.uint64(page.pg_head)) != 0)
            & ((found[:, page.compound // 8] & np.uint64(1)) == 0)
        ).any():
            self.asked.update(("pgmap-link", "compound-order"))
        masked = bool(holds_mask(heads[:, 1, page.compound // 8]).any())
        self.masked = masked or bool(self.masked)

    # Reading.

    def _own(self, vpage: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leave out vpages that map somebody else's frame."""
        if not self.subject.foreign:
            return vpage
        return vpage[~np.isin(vpage, list(self.subject.foreign))]

    def _learn(self, words: NDArray[np.uint64]) -> None:
        if self.due.nid is None:
            self.due.learn_node(words[:, -1, self.vmemmap.page.flags // 8])


class _Counts:
    """Counts, for each of some compound pages, what was looked at."""

    def __init__(self, head: NDArray[np.int64]) -> None:
        self._head = head
        self._tails = np.zeros(len(head), dtype=np.int64)
        self._pages = np.zeros(len(head), dtype=np.int64)
        #: whether any of it could be read, or could not although it is mapped
        self.seen = np.zeros(len(head), dtype=np.bool_)
        self.lost = np.zeros(len(head), dtype=np.bool_)

    def add(self, rows: Batch, read: NDArray[np.bool_], is_head: NDArray[np.bool_]) -> None:
        """Add rows."""
        of = np.searchsorted(self._head, rows.head)
        pages = np.where(read, rows.end - rows.start, 0)
        np.add.at(self._pages, of, pages)
        np.add.at(self._tails, of, np.where(read & is_head, pages - 1, pages))
        self.seen[of[read]] = True
        self.lost[of[~read & (rows.kind != Kind.HOLE)]] = True

    def of(self, head: int) -> tuple[int, int]:
        """Get how many tail pages, and how many pages in all, were looked at."""
        at = int(np.searchsorted(self._head, head))
        return int(self._tails[at]), int(self._pages[at])
