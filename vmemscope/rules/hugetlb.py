# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about HugeTLB's vmemmap optimization (HVO).

In: folios as their lists and ``struct page``s have them (:class:`Facts`), how
their vmemmap is mapped, what of it could not be read. What is not known of a
folio breaks no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..kernel.hugetlb_folio import Place
from ..text import binary_size
from ..vmemmap.tables import Kind
from . import RULES
from .page_rows import holds_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..audits.hugetlb.survey import Entries, FolioMaps, ReadOnly
    from ..kernel import Damage
    from ..kernel.hstate import Hstate
    from ..kernel.hugetlb_folio import Folios
    from ..kernel.hugetlb_vmemmap import TailPage
    from ..kernel.page import PageLayout
    from ..vmemmap.layout import Geometry
    from .findings import Collector
    from .rule import Rule

__all__ = (
    "Facts",
    "SharedPage",
    "check_counts",
    "check_elsewhere",
    "check_flags",
    "check_head_frames",
    "check_key",
    "check_lists",
    "check_mapping",
    "check_read_only",
    "check_shared_tails",
    "check_tail_frames",
    "evaluated",
    "told",
)

#: what a folio is called by the list that it is on
PLACES = {Place.FREE: "free", Place.ACTIVE: "used", Place.NONE: "unlisted"}


class Facts(NamedTuple):
    """All folios with how they are mapped; arrays have shape ``(n,)``."""

    folios: Folios
    hstates: Sequence[Hstate]
    maps: FolioMaps
    #: whether the folio says that it is optimized (bool)
    flagged: NDArray[np.bool_]
    #: whether all page tables of its vmemmap could be read (bool)
    readable: NDArray[np.bool_]
    #: frame that the read-only pages should map (uint64), and whether that is known (bool)
    tail_pfn: NDArray[np.uint64]
    tail_known: NDArray[np.bool_]
    geometry: Geometry
    #: walks the vmemmap of a folio once more
    entries: Callable[[int], Entries]

    def label(self, i: int) -> str:
        """Say which folio that is."""
        size = self.geometry.page_size << self.hstates[int(self.folios.hstate[i])].order
        place = PLACES[Place(int(self.folios.place[i]))]
        return f"the {place} {binary_size(size)} folio at pfn {int(self.folios.head[i]):#x}"

    def kept(self, i: int) -> int:
        """Get how many pages of vmemmap keep their frames when the folio is optimized."""
        return self.hstates[int(self.folios.hstate[i])].kept

    def page(self, i: int) -> int:
        """Get the virtual address of the head page's ``struct page``."""
        return self.geometry.page_address(int(self.folios.head[i]))


def check_lists(
    facts: Facts,
    damage: Iterable[Damage],
    overlaps: Iterable[tuple[int, int]],
    findings: Collector,
) -> None:
    """
    Check what the lists of folios hold.

    :param damage: links that lead nowhere, or not back
    :param overlaps: page frames of head pages: of a folio, and of one that it reaches into
    """
    rule = RULES["hugetlb-list"]
    findings.checked(rule)
    for one in damage:
        if not one.unreadable:
            findings.add(rule, one.message, vaddr=one.address)
    for pfn, other in overlaps:
        findings.add(
            rule,
            f"the folio at pfn {pfn:#x} reaches into the one at pfn {other:#x}",
            vaddr=facts.geometry.page_address(other),
        )
    index = np.flatnonzero(~facts.folios.sound)
    for i in told(rule.id, index, findings):
        order = facts.hstates[int(facts.folios.hstate[i])].order
        findings.add(
            rule,
            f"{facts.label(i)} has no head page of a HugeTLB folio of that size",
            vaddr=facts.page(i),
            pfn=_pfn(facts, i),
            expected=f"PG_head, marked as HugeTLB's, order {order}",
            observed=f"flags {int(facts.folios.flags[i]):#x}",
        )


def check_counts(
    hstates: Sequence[Hstate],
    listed: NDArray[np.int64],
    free: NDArray[np.int64],
    findings: Collector,
) -> None:
    """
    Check the kernel's counts of folios, where all lists could be read.

    :param listed: folios of each hstate that were found
    :param free: of these, those on free lists
    """
    rule = RULES["hugetlb-count"]
    findings.checked(rule)
    for hstate, found, unused in zip(hstates, listed.tolist(), free.tolist(), strict=True):
        if unused != hstate.free:
            findings.add(
                rule,
                f"{hstate.name}: {unused} folios are on free lists, the kernel counts"
                f" {hstate.free}",
                vaddr=hstate.address,
                expected=hstate.free,
                observed=unused,
            )
        # A folio that is on no list is still counted, and if its vmemmap is not
        # optimized nothing else leads to it.
        if found > hstate.nr:
            findings.add(
                rule,
                f"{hstate.name}: {found} folios are there, the kernel counts {hstate.nr}",
                vaddr=hstate.address,
                expected=hstate.nr,
                observed=found,
            )


def check_elsewhere(facts: Facts, missing: Sequence[int], findings: Collector) -> None:
    """
    Report folios that are on no list.

    :param missing: for each hstate, how many folios the kernel counts and nothing leads to
    """
    rule = RULES["hugetlb-elsewhere"]
    findings.checked(rule)
    index = np.flatnonzero(facts.folios.place == Place.NONE)
    for i in told(rule.id, index, findings):
        findings.add(
            rule,
            f"{facts.label(i)} is neither free nor in use by its lists: being moved, freed or"
            " taken out of service",
            vaddr=facts.page(i),
            pfn=_pfn(facts, i),
        )
    for hstate, count in zip(facts.hstates, missing, strict=True):
        if count:
            findings.add(
                rule,
                f"{hstate.name}: {count} more folios are counted than there are on lists",
                vaddr=hstate.address,
                expected=hstate.nr,
                observed=hstate.nr - count,
            )


def check_flags(facts: Facts, findings: Collector) -> None:
    """Check that a folio says that it is optimized if and only if it is."""
    rule, maps = RULES["hugetlb-flag"], facts.maps
    if not len(maps.first):
        findings.skipped("there are no folios", rule)
        return
    findings.checked(rule)
    unmapped = facts.flagged & (maps.read_only == 0) & facts.readable & (maps.writable > 0)
    for i in told(rule.id, np.flatnonzero(unmapped), findings):
        findings.add(
            rule,
            f"{facts.label(i)} says that its vmemmap is optimized, but none of it is read-only",
            vaddr=facts.page(i),
            pfn=_pfn(facts, i),
            expected="HPG_vmemmap_optimized clear",
            observed=f"private {int(facts.folios.private[i]):#x}",
        )
    for i in told(rule.id, np.flatnonzero(~facts.flagged & (maps.read_only > 0)), findings):
        entries = facts.entries(i)
        at, pfn = _first(entries, (entries.kind == Kind.MAPPED) & ~entries.writable)
        findings.add(
            rule,
            f"{facts.label(i)} does not say that its vmemmap is optimized, but"
            f" {_pages(int(maps.read_only[i]))} of it"
            f" {'is' if int(maps.read_only[i]) == 1 else 'are'} read-only",
            vaddr=None if at is None else facts.geometry.address(at),
            pfn=pfn,
            expected="writable",
            observed=f"private {int(facts.folios.private[i]):#x}",
        )


def check_mapping(facts: Facts, findings: Collector) -> None:
    """Check that of an optimized folio the head is writable, all else read-only."""
    rule, maps = RULES["hugetlb-mapping"], facts.maps
    optimized = facts.flagged & (maps.read_only > 0)
    evaluated(rule, optimized, findings)
    for what, expected, observed, counts in (
        ("can be written through", "read-only", "writable", maps.writable),
        (
            "can't be written through, though the head page lies there",
            "writable",
            "read-only",
            maps.head_read_only,
        ),
        ("can't be accessed at all", "mapped", "not mapped", maps.hole),
        ("can be executed", "no-execute", "executable", maps.executable),
    ):
        for i in told(rule.id, np.flatnonzero(optimized & (counts > 0)), findings):
            entries = facts.entries(i)
            head = entries.vpage < int(maps.first[i]) + facts.kept(i)
            mapped = entries.kind == Kind.MAPPED
            where = {
                "writable": mapped & entries.writable & ~head,
                "read-only": mapped & ~entries.writable & head,
                "not mapped": entries.kind == Kind.HOLE,
                "executable": entries.executable,
            }
            at, pfn = _first(entries, where[observed])
            findings.add(
                rule,
                f"{int(counts[i])} of {_pages(int(maps.end[i] - maps.first[i]))} of the vmemmap"
                f" of {facts.label(i)} {what}",
                vaddr=None if at is None else facts.geometry.address(at),
                pfn=pfn,
                expected=expected,
                observed=observed,
            )


def check_tail_frames(facts: Facts, shared: bool, findings: Collector) -> None:
    """
    Check which frame the read-only pages of folios map.

    :param shared: it is the zone's, not the folio's own
    """
    rule, maps = RULES["hugetlb-tail-frame"], facts.maps
    optimized = maps.read_only > 0
    evaluated(rule, optimized, findings)
    wrong = optimized & (
        (maps.low != maps.high)
        | (facts.tail_known & ((maps.low != facts.tail_pfn) | (maps.high != facts.tail_pfn)))
    )
    for i in told(rule.id, np.flatnonzero(wrong), findings):
        entries = facts.entries(i)
        read_only = (entries.kind == Kind.MAPPED) & ~entries.writable
        if bool(facts.tail_known[i]):
            right = int(facts.tail_pfn[i])
        else:
            # The one that most of them map.
            frames, counts = np.unique(entries.pfn[read_only], return_counts=True)
            right = int(frames[np.argmax(counts)]) if len(frames) else 0
        off = read_only & (entries.pfn != np.uint64(right))
        at, pfn = _first(entries, off)
        whose = "the frame of the zone's tail pages" if shared else "the frame of the head page"
        expected = f"pfn {right:#x}" if right else f"{whose}, of which there is none"
        findings.add(
            rule,
            f"{_pages(int(np.count_nonzero(off)))} of the vmemmap of {facts.label(i)}"
            f" {'maps' if np.count_nonzero(off) == 1 else 'map'} another frame than {whose}",
            vaddr=None if at is None else facts.geometry.address(at),
            pfn=pfn,
            expected=expected,
            observed=None if pfn is None else f"pfn {pfn:#x}",
        )


def check_head_frames(
    facts: Facts,
    refcounts: NDArray[np.int64],
    reserved: NDArray[np.bool_],
    readable: NDArray[np.bool_],
    in_ram: NDArray[np.bool_],
    findings: Collector,
) -> None:
    """
    Check that the head page of an optimized folio has a frame of its own.

    :param refcounts: of the frames behind the head pages
    :param reserved: whether they have PG_reserved: allocated at boot
    :param readable: whether that could be read
    :param in_ram: whether the frames are memory
    """
    rule, maps = RULES["hugetlb-head-frame"], facts.maps
    mapped = (maps.read_only > 0) & (maps.head_kind == Kind.MAPPED)
    evaluated(rule, mapped, findings)
    for i in told(rule.id, np.flatnonzero(mapped & (maps.foreign > 0)), findings):
        count = int(maps.foreign[i])
        findings.add(
            rule,
            f"{_pages(count)} of somebody else's vmemmap, the last at"
            f" {facts.geometry.address(int(maps.foreign_at[i])):#x},"
            f" {'maps' if count == 1 else 'map'} the frame of the head page of {facts.label(i)}",
            vaddr=facts.geometry.address(int(maps.first[i])),
            pfn=_pfn(facts, i),
            expected="a frame of its own",
            observed=f"pfn {_pfn(facts, i) or 0:#x}",
        )
    for i in told(rule.id, np.flatnonzero(mapped & ~in_ram), findings):
        findings.add(
            rule,
            f"the frame of the head page of {facts.label(i)} is not System RAM",
            vaddr=facts.geometry.address(int(maps.first[i])),
            pfn=_pfn(facts, i),
            expected="a frame of System RAM",
            observed=f"pfn {_pfn(facts, i) or 0:#x}",
        )
    # register_page_bootmem_memmap() takes a reference to what was allocated at boot,
    # where the architecture has it.
    most = np.where(reserved, 2, 1)
    off = mapped & in_ram & readable & ((refcounts < 1) | (refcounts > most))
    for i in told(rule.id, np.flatnonzero(off), findings):
        findings.add(
            rule,
            f"the frame of the head page of {facts.label(i)} has a reference count of"
            f" {int(refcounts[i])}",
            vaddr=facts.geometry.address(int(maps.first[i])),
            pfn=_pfn(facts, i),
            expected="1 or 2: it is from boot" if reserved[i] else 1,
            observed=int(refcounts[i]),
        )


def check_read_only(stray: ReadOnly, dropped: int, geometry: Geometry, findings: Collector) -> None:
    """Report read-only vmemmap that describes no HugeTLB folio."""
    rule = RULES["hugetlb-read-only"]
    findings.checked(rule)
    size = geometry.struct_page_size
    for i in told(rule.id, np.arange(len(stray.vpage)), findings):
        vpage = int(stray.vpage[i])
        findings.add(
            rule,
            f"{_pages(int(stray.length[i]))} of the vmemmap, of pfn"
            f" {vpage * geometry.page_size // size:#x} on, can't be written through, and no"
            " HugeTLB folio is there",
            vaddr=geometry.address(vpage),
            pfn=int(stray.pfn[i]),
            expected="writable",
            observed="read-only",
        )
    findings.add_uncounted(rule, dropped)


def check_key(key: int, address: int | None, flagged: int, findings: Collector) -> None:
    """
    Check how many optimized folios the static key counts, all of them being known.

    :param address: of the key
    """
    rule = RULES["hugetlb-key"]
    findings.checked(rule)
    if key != flagged:
        findings.add(
            rule,
            f"hugetlb_optimize_vmemmap_key counts {key} optimized folios, there are {flagged}",
            vaddr=address,
            expected=flagged,
            observed=key,
        )


class SharedPage(NamedTuple):
    """A frame that the tail pages of a zone share, as read."""

    tail: TailPage
    #: its number, ``None`` if the zone points to no struct page
    pfn: int | None
    #: shape ``(struct pages, words)`` (uint64), ``None`` if it could not be read
    words: NDArray[np.uint64] | None
    #: ``None`` if that could not be read
    refcount: int | None
    #: node and zone that its tail pages claim, ``None`` if it is not known where they are
    place: tuple[int, int] | None


def check_shared_tails(
    pages: Iterable[SharedPage], layout: PageLayout, findings: Collector
) -> None:
    """Check the frames that the tail pages of zones share."""
    rule = RULES["hugetlb-shared-tail"]
    for one in pages:
        name = f"order {one.tail.order} of zone {one.tail.zone_name} of node {one.tail.nid}"
        if one.pfn is None:
            findings.add(
                rule,
                f"what is there for {name} is no struct page",
                vaddr=one.tail.page,
                observed=f"{one.tail.page:#x}",
            )
            continue
        if one.refcount is not None:
            findings.checked(rule)
            if one.refcount < 1:
                findings.add(
                    rule,
                    f"the shared tail pages for {name} lie in a frame that is free",
                    vaddr=one.tail.page,
                    pfn=one.pfn,
                    expected="1 or more",
                    observed=one.refcount,
                )
        if one.words is not None:
            findings.checked(rule)
            _check_shared_words(one, name, layout, findings)


def _check_shared_words(
    one: SharedPage, name: str, layout: PageLayout, findings: Collector
) -> None:
    rule, words = RULES["hugetlb-shared-tail"], one.words
    assert words is not None
    # Which of them is right is for the majority to tell: one that was written to
    # is the odd one out.
    rows, inverse, counts = np.unique(words, axis=0, return_inverse=True, return_counts=True)
    usual = int(np.argmax(counts))
    model = rows[usual]
    odd = np.flatnonzero(inverse.ravel() != usual)
    if len(odd):
        first = int(odd[0])
        word = int(np.flatnonzero(words[first] != model)[0])
        alike = int(counts[usual])
        findings.add(
            rule,
            f"{len(odd)} of {len(words)} shared tail pages for {name} differ from the rest,"
            f" first number {first}"
            if alike > len(odd)
            else f"the {len(words)} shared tail pages for {name} are not alike",
            vaddr=one.tail.page,
            pfn=one.pfn,
            expected=f"{int(model[word]):#x} at byte {first * layout.size + word * 8}",
            observed=f"{int(words[first][word]):#x}",
        )
    mask = -(layout.size << one.tail.order) & (1 << 64) - 1 | 1
    compound = model[layout.compound // 8]
    if int(compound) != mask or not bool(holds_mask(compound[None])[0]):
        findings.add(
            rule,
            f"the shared tail pages for {name} do not find their heads",
            vaddr=one.tail.page,
            pfn=one.pfn,
            expected=f"a mask of {mask:#x}",
            observed=f"{int(compound):#x}",
        )
    refcount = int(model.view("<i4")[layout.refcount // 4])
    if refcount:
        findings.add(
            rule,
            f"the shared tail pages for {name} have a reference count",
            vaddr=one.tail.page,
            pfn=one.pfn,
            expected=0,
            observed=refcount,
        )
    if one.place is not None and one.place != (one.tail.nid, one.tail.zone):
        findings.add(
            rule,
            f"the shared tail pages for {name} claim to be of another zone",
            vaddr=one.tail.page,
            pfn=one.pfn,
            expected=f"node {one.tail.nid}, zone {one.tail.zone}",
            observed=f"node {one.place[0]}, zone {one.place[1]}",
        )


def evaluated(rule: Rule, optimized: NDArray[np.bool_], findings: Collector) -> None:
    """Say whether there is anything to evaluate a rule about optimized folios for."""
    if optimized.any():
        findings.checked(rule)
    else:
        findings.skipped("no folio is optimized", rule)


def told(rule: str, index: NDArray[np.int64], findings: Collector) -> Iterator[int]:
    """Go through those of many that there is room for to tell, and count the rest."""
    room = findings.room(RULES[rule])
    yield from index[:room].tolist()
    findings.add_uncounted(RULES[rule], max(len(index) - room, 0))


def _first(entries: Entries, which: NDArray[np.bool_]) -> tuple[int | None, int | None]:
    """Get the first of some vpages, and the frame behind it; neither if there is none any more."""
    index = np.flatnonzero(which)
    if not len(index):
        return None, None
    i = int(index[0])
    mapped = int(entries.kind[i]) == Kind.MAPPED
    return int(entries.vpage[i]), int(entries.pfn[i]) if mapped else None


def _pfn(facts: Facts, i: int) -> int | None:
    """Get the frame behind a folio's head page."""
    return int(facts.maps.head_pfn[i]) if facts.maps.head_kind[i] == Kind.MAPPED else None


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"
