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
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..columns import join, select
from ..layout import first_compound
from ..rules import CATALOGUE
from ..rules.contents import (
    ALTMAP_RULES,
    BASE_RULES,
    COMPOUND_RULES,
    Due,
    Rows,
    Tally,
    alike,
    check_frames,
    check_pairs,
    check_rows,
    holds_mask,
    majority,
    plain_base,
    screen,
    spread,
    usual_tail,
)
from ..rules.ranges import check_mask_alignment
from ..walk import Kind
from .subject import NO_RANGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..findings import Rule
    from ..kernel.page_flags import FlagLayout
    from ..vmemmap import Vmemmap
    from .subject import Subject

__all__ = ("Contents", "ContentsChecked", "check_contents", "frames_to_read")

#: compound pages, and vpages of base pages, of a range that are looked into for
#: a sample: spread evenly, the first and the last among them
_SAMPLE = 1024
#: compound pages that are looked up at a time, and vpages
_COMPOUNDS = 8192
_VPAGES = 16384
#: frames that are read at a time: their bytes should still be in the CPU's
#: caches when they are looked at
_FRAMES = 512
#: neighbouring frames that are worth a read of their own; and frames that may be between
_LONG = 32
_GAP = 4


def _rules(*names: str) -> tuple[Rule, ...]:
    return tuple(CATALOGUE[name] for name in names)


#: the rules that are evaluated here
_ALIGNMENT = "mask-alignment"
_RULES = _rules(*COMPOUND_RULES, _ALIGNMENT)
_OF_COMPOUNDS = _rules(*(rule for rule in COMPOUND_RULES if rule not in BASE_RULES), _ALIGNMENT)

_NONE = "contents of struct pages were not asked for (--contents none)"
_SAMPLED = "struct pages that are not in the sample (--contents all has all)"
_UNREAD = "struct pages that are not mapped, or could not be read"
_STRANGERS = "struct pages that are not the device's, or were never initialised"


class Contents(Enum):
    """How many ``struct page``s are looked into."""

    ALL = "all"
    SAMPLE = "sample"
    NONE = "none"


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
    if _why_not(subject, vmemmap, contents) is not None:
        return 0
    frames = 0
    for area in _areas(subject, vmemmap):
        each = 1
        if area.order:
            each = min(vmemmap.geometry.compound_vpages(area.order), 4)
            if subject.dedup.expected:
                each = 2
            elif contents is Contents.ALL:
                each = vmemmap.geometry.compound_vpages(area.order)
        frames += len(_picked(area, contents)) * each
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
    reason = _why_not(subject, vmemmap, contents)
    areas = [] if reason is not None else _areas(subject, vmemmap)
    if reason is None and not areas:
        reason = "no page behind the altmap" if subject.ranges else NO_RANGE
    if reason is not None:
        findings.skipped(reason, *_RULES)
        return (
            _counted(_areas(subject, vmemmap), vmemmap)
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


class _Area(NamedTuple):
    """Page frames whose ``struct page``s are initialised alike."""

    #: ``[start, end)``
    start: int
    end: int
    #: log2 of the pages in its compound pages; 0: base pages
    order: int
    #: whether these are the frames that an altmap hands out
    altmap: bool = False
    #: ``struct page``s in a vpage
    per_page: int = 1

    @property
    def parts(self) -> int:
        """Compound pages, or vpages of base pages."""
        if self.order:
            return -(-(self.end - self.start) >> self.order)
        return -(-self.end // self.per_page) - self.start // self.per_page


def _why_not(subject: Subject, vmemmap: Vmemmap, contents: Contents) -> str | None:
    geometry, order = vmemmap.geometry, subject.order
    if contents is Contents.NONE:
        return _NONE
    if not subject.shift_sound:
        return subject.no_compounds
    if order and geometry.compound_vpages(order) < 2:
        return "compound pages that share a page of the vmemmap"
    if geometry.page_size % geometry.struct_page_size or geometry.struct_page_size % 8:
        return "struct pages that lie across pages of the vmemmap"
    per_page = geometry.page_size // geometry.struct_page_size
    if order and any(area.start % per_page for area in _areas(subject, vmemmap) if area.order):
        return "compound pages that start inside a page of the vmemmap"
    return None


def _areas(subject: Subject, vmemmap: Vmemmap) -> list[_Area]:
    geometry, altmap = vmemmap.geometry, subject.pagemap.altmap
    per_page = geometry.page_size // geometry.struct_page_size
    areas = []
    for one in subject.ranges:
        start, end = one.start // geometry.page_size, (one.end + 1) // geometry.page_size
        first = first_compound(subject.pagemap, start)
        if altmap is not None:
            # Those of the reserved frames before are never written to.
            held = max(altmap.base_pfn + altmap.reserve, start)
            held_end = min(altmap.base_pfn + altmap.reserve + altmap.free, first, end)
            if held < held_end:
                areas.append(_Area(held, held_end, 0, True, per_page))
        if first < end:
            areas.append(_Area(first, end, subject.order, False, per_page))
    return areas


def _picked(area: _Area, contents: Contents) -> NDArray[np.int64]:
    """Pick compound pages, or vpages of base pages, by their number."""
    if contents is Contents.ALL or area.parts <= _SAMPLE:
        return np.arange(area.parts, dtype=np.int64)
    return np.arange(_SAMPLE, dtype=np.int64) * (area.parts - 1) // (_SAMPLE - 1)


def _counted(areas: list[_Area], vmemmap: Vmemmap) -> ContentsChecked:
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

    def finish(self, areas: list[_Area]) -> ContentsChecked:
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

    def at_base_pages(self, area: _Area) -> None:
        """Look into the pages of an area without compound pages."""
        tally = Tally(self.due, base=True)
        picked = _picked(area, self.contents) + area.start // self.per_page
        self.sampled |= len(picked) < area.parts
        for done in range(0, len(picked), _VPAGES):
            vpage = self._own(picked[done : done + _VPAGES])
            first = vpage * self.per_page
            start = np.maximum(first, area.start)
            end = np.minimum(first + self.per_page, area.end)
            pfn, kind = self.vmemmap.frames_of(vpage)
            none = np.zeros(len(vpage), dtype=np.bool_)
            rows = _Batch(vpage, start, first, first, start, end, none, pfn, kind)
            read = np.zeros(len(vpage), dtype=np.bool_)
            for words, which, at in self._frames(rows):
                read[which] = True
                self._learn(words[at])
                part = select(rows, which)
                if len(at) < len(words):
                    words = words[at]
                full = _rows_of(part, words)
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

    def at_compounds(self, area: _Area) -> None:
        """Look into the compound pages of an area."""
        tally = Tally(self.due, base=False)
        picked = _picked(area, self.contents)
        self.sampled |= len(picked) < area.parts
        self.heads.append(area.start)
        for at in range(0, len(picked), _COMPOUNDS):
            head = area.start + (picked[at : at + _COMPOUNDS] << area.order)
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
        heads = _Batch(
            first, head, head, head, head, np.minimum(head + self.per_page, end), shared,
            pfn[0], kind[0],
        )  # fmt: skip
        # The first and the last of the vpages looked up that map the shared frame.
        tail = np.where(at_usual[0], some[1], np.where(at_usual[1], some[2], last))
        tail_last = np.where(at_usual[2], last, tail)
        begin = tail * self.per_page
        tails = _Batch(
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
    ) -> Iterator[_Batch]:
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
            yield _Batch(
                vpage, head[one], begin, begin, begin,
                np.minimum(begin + self.per_page, end[one]),
                np.zeros(len(one), dtype=np.bool_), pfn, kind,
            )  # fmt: skip

    def _check(self, rows: _Batch, tails: _Batch | None, tally: Tally, counts: _Counts) -> None:
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
        for words, which, at in self._frames(rows):
            read[which] = True
            with_head = np.zeros(len(words), dtype=np.bool_)
            with_head[at] = is_head[which]
            same = alike(words, with_head, self.plain)[at] & full[which]
            small[which] = words[at, :kept]
            self._learn(small[which])
            plain_row[which] = same
            if not same.all():
                odd = ~same
                some = _rows_of(select(rows, which[odd]), words[at[odd]])
                odd_usual[0].append(which[odd])
                odd_usual[1].append(usual_tail(some, self.plain))
                check_rows(some, self.due, tally, self.plain)
        # Of a row of tail pages that are all alike, the first will do.
        for some_rows, slots in (
            (np.flatnonzero(plain_row & is_head), kept),
            (np.flatnonzero(plain_row & ~is_head), 1),
        ):
            short = _rows_of(select(rows, some_rows), small[some_rows, :slots])
            bad = np.flatnonzero(screen(short, self.due))
            for done in range(0, len(bad), _FRAMES):
                some = spread(select(short, bad[done : done + _FRAMES]), self.per_page)
                check_rows(some, self.due, tally, self.plain)
        if len(paired):
            usual = small[:, -1]
            if odd_usual[0]:
                usual = usual.copy()
                usual[np.concatenate(odd_usual[0])] = np.concatenate(odd_usual[1])
            both = read[paired] & read[count:]
            one, other = paired[both], count + np.flatnonzero(both)
            check_pairs(
                _rows_of(select(rows, one), small[one]),
                _rows_of(select(rows, other), small[other]),
                (usual[one], usual[other]),
                self.due,
                tally,
            )
        self._record(rows, small, read, is_head)
        counts.add(rows, read, is_head)
        self.missed |= not read.all()

    def _record(
        self,
        rows: _Batch,
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

    def _frames(
        self, rows: _Batch
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]]:
        """
        Read the frames of rows, in order of their numbers, some at a time.

        :return: words of frames, shape ``(n, struct pages, words)``, some of which
            may only have been read along; numbers of rows; and which of the
            frames each has. Rows that could not be read are left out
        """
        order = np.flatnonzero(rows.kind == Kind.MAPPED)
        pfn = rows.pfn[order]
        if (pfn[1:] < pfn[:-1]).any():
            order = order[np.argsort(pfn, kind="stable")]
            pfn = rows.pfn[order]
        shape = (-1, self.per_page, self.vmemmap.page.size // 8)
        for start, end, whole in _chunks(pfn):
            which, part = order[start:end], pfn[start:end]
            at = np.arange(len(part))
            if whole:
                at = (part - part[0]).astype(np.int64)
                part = np.arange(int(part[0]), int(part[-1]) + 1, dtype=np.uint64)
            data, readable = self.vmemmap.memory.read_frames(part)
            if not readable.all():
                which, at = which[readable[at]], at[readable[at]]
            self.step(end - start)
            if len(which):
                words = data.view(self.vmemmap.table.dtype).astype(np.uint64, copy=False)
                yield words.reshape(shape), which, at


def _chunks(pfn: NDArray[np.uint64]) -> Iterator[tuple[int, int, bool]]:
    """
    Cut frames into parts to be read.

    What lies close together is read as one, with what is between: it can then be
    looked at where it was read to, while single frames have to be put side by side.

    :param pfn: page frame numbers in order, shape ``(n,)``
    :return: first, first after it, and whether to read all between, too
    """
    breaks = np.append(np.flatnonzero(np.diff(pfn) > _GAP) + 1, len(pfn))
    start = 0
    while start < len(pfn):
        first = int(np.searchsorted(breaks, start, side="right"))
        end = min(start + _FRAMES, int(breaks[first]))
        whole = end - start >= _LONG
        if not whole:
            # As many short runs as there are until the next long one.
            lengths = np.diff(breaks[first : first + _FRAMES])
            long = np.flatnonzero(lengths >= _LONG)
            until = int(breaks[first + int(long[0])]) if len(long) else len(pfn)
            end = min(start + _FRAMES, until)
        yield start, end, whole
        start = end


class _Batch(NamedTuple):
    """Pages of the vmemmap to be read; as :class:`~vmemscope.rules.contents.Rows`."""

    vpage: NDArray[np.int64]
    head: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    shared: NDArray[np.bool_]
    #: frame, and :class:`~vmemscope.walk.Kind`
    pfn: NDArray[np.uint64]
    kind: NDArray[np.uint8]


def _rows_of(batch: _Batch, words: NDArray[np.uint64]) -> Rows:
    return Rows(
        batch.head, batch.first, batch.last, batch.start, batch.end, batch.shared, batch.pfn, words
    )


class _Counts:
    """Counts, for each of some compound pages, what was looked at."""

    def __init__(self, head: NDArray[np.int64]) -> None:
        self._head = head
        self._tails = np.zeros(len(head), dtype=np.int64)
        self._pages = np.zeros(len(head), dtype=np.int64)
        #: whether any of it could be read, or could not although it is mapped
        self.seen = np.zeros(len(head), dtype=np.bool_)
        self.lost = np.zeros(len(head), dtype=np.bool_)

    def add(self, rows: _Batch, read: NDArray[np.bool_], is_head: NDArray[np.bool_]) -> None:
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
