# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about HugeTLB's folios: their lists, their flags, and how their vmemmap is mapped.

Unknown facts violate no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..text import binary_size, count
from ..vmemmap.tables import Kind
from .rule import Scope, Severity, Skip, Value, Violation, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..audits.hugetlb.walk import FolioEntries, FolioMaps
    from ..kernel import Damage
    from ..kernel.hstate import Hstate
    from ..kernel.hugetlb_folio import Folios
    from ..vmemmap.layout import Geometry
    from ..vmemmap.schemes import Scheme

__all__ = (
    "UNREAD_LISTS",
    "CountFacts",
    "ElsewhereFacts",
    "FolioFacts",
    "HeadFrameFacts",
    "ListFacts",
    "hugetlb_count",
    "hugetlb_elsewhere",
    "hugetlb_flag",
    "hugetlb_head_frame",
    "hugetlb_list",
    "hugetlb_mapping",
    "hugetlb_tail_frame",
    "hugetlb_unprotected",
)

UNREAD_LISTS = "not all lists of folios could be followed"


class FolioFacts(NamedTuple):
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
    #: how tail pages share it: it is the zone's, or the folio's own
    scheme: Scheme
    #: tail pages with frames of their own where the rest shares, as the kernel may leave a
    #: folio (int64)
    half: NDArray[np.int64]
    geometry: Geometry
    #: whether all lists of folios could be followed
    complete: bool
    #: walks the vmemmap of a folio once more
    entries: Callable[[int], FolioEntries]

    @property
    def shared_tails(self) -> bool:
        """Return whether the frame is the zone's, not the folio's own."""
        return self.scheme.per_zone

    @property
    def shared_word(self) -> str:
        """Return the word for pages that share a frame, and can be told by that."""
        return "read-only" if self.geometry.arch.read_only else "shared"

    @property
    def own_word(self) -> str:
        """Return the word for the other pages."""
        return "writable" if self.geometry.arch.read_only else "not shared"

    @property
    def none_optimized(self) -> Skip:
        """Return why there is nothing to check, where no folio is optimized."""
        return Skip("no folio is optimized" if self.complete else UNREAD_LISTS)

    def hstate(self, i: int) -> Hstate:
        """Return the hstate of a folio."""
        return self.hstates[int(self.folios.hstate[i])]

    def label(self, i: int) -> str:
        """Return the name of a folio, in words."""
        size = self.geometry.page_size << self.hstate(i).order
        place = self.folios.place_word(i)
        return f"the {place} {binary_size(size)} folio at pfn {int(self.folios.head[i]):#x}"

    def page(self, i: int) -> int:
        """Return the virtual address of the head page's ``struct page``."""
        return self.geometry.page_address(int(self.folios.head[i]))

    def head_pfn(self, i: int) -> int | None:
        """Return the frame behind the head page, ``None`` if there is none."""
        return int(self.maps.head_pfn[i]) if self.maps.head_kind[i] == Kind.MAPPED else None

    def of_folios(
        self,
        where: NDArray[np.bool_],
        sentence: Callable[[int], str],
        *,
        expected: Value | Callable[[int], Value] = None,
        observed: Value | Callable[[int], Value] = None,
    ) -> Violations:
        """Return violations of folios, at their head pages."""
        return Violations(
            where,
            sentence,
            vaddr=self.page,
            pfn=self.head_pfn,
            expected=expected,
            observed=observed,
        )

    def at(
        self,
        entries: FolioEntries,
        which: NDArray[np.bool_],
        sentence: str,
        *,
        expected: Value,
        observed: Callable[[int | None], Value] | Value,
    ) -> Violation:
        """
        Return a violation at the first of some entries of a folio, or without a place.

        :param observed: or made of the frame that the entry maps
        """
        index = np.flatnonzero(which)
        vaddr = pfn = None
        if len(index):
            i = int(index[0])
            vaddr = self.geometry.address(int(entries.vpage[i]))
            pfn = int(entries.pfn[i]) if int(entries.kind[i]) == Kind.MAPPED else None
        seen = observed(pfn) if callable(observed) else observed
        return Violation(sentence, vaddr, pfn, expected, seen)


class ListFacts(NamedTuple):
    """The lists of folios, and what is wrong with them."""

    #: folios on lists, including those that are none
    folios: FolioFacts
    #: links that lead nowhere, or not back
    damage: Iterable[Damage]
    #: page frames of head pages: of a folio, and of one that it reaches into
    overlaps: Iterable[tuple[int, int]]


@rule(
    "hugetlb-list",
    Severity.ERROR,
    holds="the lists of a size of huge pages can be followed, and hold heads of its folios",
    source="mm/hugetlb.c: enqueue_hugetlb_folio(), __prep_new_hugetlb_folio()",
    scope=Scope.HUGETLB,
    meaning="A list of HugeTLB folios leads to something that is no HugeTLB folio of its size,"
    " to one twice, or nowhere. The next allocation from the pool takes what is there for a"
    " huge page, and hands out memory that is in use for something else.",
    look_at="The struct page at the address: all of it overwritten (then by whom: an optimized"
    " folio whose vmemmap was restored wrongly has tail pages where its head should be), or"
    " one word.",
)
def hugetlb_list(facts: ListFacts) -> Iterator[Violation | Violations]:
    for one in facts.damage:
        if not one.unreadable:
            yield Violation(one.message, vaddr=one.address)
    folios = facts.folios
    for pfn, other in facts.overlaps:
        yield Violation(
            f"the folio at pfn {pfn:#x} reaches into the one at pfn {other:#x}",
            vaddr=folios.geometry.page_address(other),
        )
    yield folios.of_folios(
        ~folios.folios.sound,
        lambda i: f"{folios.label(i)} has no head page of a HugeTLB folio of that size",
        expected=lambda i: f"PG_head, marked as HugeTLB's, order {folios.hstate(i).order}",
        observed=lambda i: f"flags {int(folios.folios.flags[i]):#x}",
    )


class CountFacts(NamedTuple):
    """How many folios are on lists that could all be followed."""

    hstates: Sequence[Hstate]
    #: folios of each hstate that were found (int64), shape ``(hstates,)``
    found: NDArray[np.int64]
    #: of these, those on free lists (int64), shape ``(hstates,)``
    free: NDArray[np.int64]


@rule(
    "hugetlb-count",
    Severity.WARNING,
    holds="as many folios are on the lists of free ones as the kernel counts, and no more in all",
    source="mm/hugetlb.c: add_hugetlb_folio(), remove_hugetlb_folio()",
    scope=Scope.HUGETLB,
    meaning="What /sys/kernel/mm/hugepages says of the pool is not what is in it. With more"
    " counted than there are, an allocation that counts on a free folio finds none.",
    look_at="Whether the pool is being resized at this very moment; else the difference, and"
    " which list it is on.",
)
def hugetlb_count(facts: CountFacts) -> Iterator[Violation]:
    found, free = facts.found.tolist(), facts.free.tolist()
    for hstate, there, unused in zip(facts.hstates, found, free, strict=True):
        if unused != hstate.free:
            yield Violation(
                f"{hstate.name}: {unused} folios are on free lists, the kernel counts"
                f" {hstate.free}",
                vaddr=hstate.address,
                expected=hstate.free,
                observed=unused,
            )
        # A folio that is on no list is still counted, and if its vmemmap is not
        # optimized nothing else leads to it.
        if there > hstate.nr:
            yield Violation(
                f"{hstate.name}: {there} folios are there, the kernel counts {hstate.nr}",
                vaddr=hstate.address,
                expected=hstate.nr,
                observed=there,
            )


class ElsewhereFacts(NamedTuple):
    """Folios, those on no list among them."""

    folios: FolioFacts
    #: for each hstate, how many folios the kernel counts and nothing leads to
    missing: Sequence[int]


@rule(
    "hugetlb-elsewhere",
    Severity.NOTE,
    holds="each folio is on the list of those that are free or of those in use",
    source="mm/hugetlb.c: folio_isolate_hugetlb(), remove_hugetlb_folio()",
    scope=Scope.HUGETLB,
    meaning="Nothing is wrong by itself: a folio that is being migrated, demoted, allocated or"
    " freed is on neither list for a while. One that is not optimized can't be found then, only"
    " missed.",
    look_at="Whether it is still so a moment later: a folio that stays isolated was leaked by"
    " the code that isolated it.",
)
def hugetlb_elsewhere(facts: ElsewhereFacts) -> Iterator[Violation | Violations]:
    folios = facts.folios
    yield folios.of_folios(
        folios.folios.unlisted,
        lambda i: (
            f"{folios.label(i)} is neither free nor in use by its lists: being moved, freed or"
            " taken out of service"
        ),
    )
    for hstate, missing in zip(folios.hstates, facts.missing, strict=True):
        if missing:
            yield Violation(
                f"{hstate.name}: {missing} more folios are counted than there are on lists",
                vaddr=hstate.address,
                expected=hstate.nr,
                observed=hstate.nr - missing,
            )


@rule(
    "hugetlb-flag",
    Severity.ERROR,
    holds="a folio says that its vmemmap is optimized if and only if it is",
    source="mm/hugetlb_vmemmap.c: hugetlb_vmemmap_optimize_folio(),"
    " hugetlb_vmemmap_restore_folio()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="HPG_vmemmap_optimized decides whether the vmemmap is restored before the folio is"
    " given back. Set without need, frames are allocated for nothing, and the old ones are"
    " lost. Clear while tail pages are read-only, the folio is freed as it is, and the first"
    " write to one of its struct pages is an oops in kernel mode.",
    look_at="Whether an optimization or restoration is under way, or failed half-way for want"
    " of memory (mm/hugetlb_vmemmap.c: vmemmap_remap_alloc()). 6.1.47, 6.4.11 and 6.5 have a"
    " fix for folios that were no longer marked while still optimized.",
)
def hugetlb_flag(facts: FolioFacts) -> Iterator[Violations | Skip]:
    maps = facts.maps
    if not len(maps.first):
        yield Skip("there are no folios" if facts.complete else UNREAD_LISTS)
        return

    def private(i: int) -> str:
        return f"private {int(facts.folios.private[i]):#x}"

    yield facts.of_folios(
        facts.flagged & (maps.read_only == 0) & facts.readable & (maps.writable > 0),
        lambda i: (
            f"{facts.label(i)} says that its vmemmap is optimized, but none of it is"
            f" {facts.shared_word}"
        ),
        expected="HPG_vmemmap_optimized clear",
        observed=private,
    )

    def unmarked(i: int) -> Violation:
        entries, pages = facts.entries(i), int(maps.read_only[i])
        tail = entries.vpage >= int(maps.first[i]) + facts.hstate(i).kept
        return facts.at(
            entries,
            (entries.kind == Kind.MAPPED) & ~entries.writable & tail,
            f"{facts.label(i)} does not say that its vmemmap is optimized, but"
            f" {count(pages, 'page')} of it {agree(pages, 'is', 'are')} {facts.shared_word}",
            expected=facts.own_word,
            observed=private(i),
        )

    yield Violations.each(~facts.flagged & (maps.read_only > 0), unmarked)


@rule(
    "hugetlb-mapping",
    Severity.ERROR,
    holds="of an optimized folio's vmemmap the head page is writable, all else read-only, nothing"
    " executable",
    source="mm/hugetlb_vmemmap.c: vmemmap_remap_pte()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="A tail page that can be written through changes the struct pages of all others"
    " that share its frame; a head page that can't be is an oops when the folio is next"
    " allocated; a hole is one for the next access.",
    look_at="How many entries of the folio are so: one is damage to a page table entry, some in"
    " a row an interrupted optimization or restoration.",
)
def hugetlb_mapping(facts: FolioFacts) -> Iterator[Violations | Skip]:
    maps, protects = facts.maps, facts.geometry.arch.read_only
    optimized = facts.flagged & (maps.read_only > 0)
    if not optimized.any():
        yield facts.none_optimized
        return
    for what, expected, observed, counts in (
        (
            "can be written to" if protects else "have frames of their own",
            facts.shared_word,
            facts.own_word,
            maps.writable,
        ),
        (
            "can't be written to, though the head page lies there",
            "writable",
            "read-only",
            maps.head_read_only,
        ),
        ("can't be accessed at all", "mapped", "not mapped", maps.hole),
        ("can be executed", "no-execute", "executable", maps.executable),
    ):

        def wrong(
            i: int,
            what: str = what,
            expected: str = expected,
            observed: str = observed,
            counts: NDArray[np.int64] = counts,
        ) -> Violation:
            entries = facts.entries(i)
            head = entries.vpage < int(maps.first[i]) + facts.hstate(i).kept
            mapped = entries.kind == Kind.MAPPED
            where = {
                facts.own_word: mapped & entries.writable & ~head,
                "read-only": mapped & ~entries.writable & head,
                "not mapped": entries.kind == Kind.HOLE,
                "executable": entries.executable,
            }
            return facts.at(
                entries,
                where[observed],
                f"{int(counts[i])} of {count(int(maps.end[i] - maps.first[i]), 'page')} of the"
                f" vmemmap of {facts.label(i)} {what}",
                expected=expected,
                observed=observed,
            )

        where = optimized & (counts > 0)
        if counts is maps.writable:
            # Rule hugetlb-half reports those.
            where &= facts.half == 0
        yield Violations.each(where, wrong)


@rule(
    "hugetlb-unprotected",
    Severity.NOTE,
    holds="shared tail pages are protected against writes",
    source="include/linux/pgtable.h: PAGE_KERNEL_RO",
    since="6.3",
    archs=("riscv64",),
    scope=Scope.HUGETLB,
    meaning="That is how these kernels are: the architecture defines no PAGE_KERNEL_RO, so"
    " optimized tail pages are mapped writable. Nothing stops a stray write to one of them, and"
    " it changes the tail pages of every huge page that shares the frame.",
    look_at="Nothing, unless tail pages are wrong: then a write that other architectures would"
    " have stopped is one of the suspects.",
)
def hugetlb_unprotected(facts: FolioFacts) -> Iterator[Violation | Skip]:
    if facts.geometry.arch.read_only:
        yield Skip("what is shared is read-only here")
        return
    optimized = np.flatnonzero(facts.maps.read_only > 0)
    if not len(optimized):
        yield facts.none_optimized
        return
    # Pages from boot are protected all the same (vmemmap_wrprotect_hvo()).
    optimized = optimized[facts.maps.open[optimized] > 0]
    if not len(optimized):
        return
    yield Violation(
        f"the shared tail pages of {count(len(optimized), 'folio')} can be written to:"
        f" {facts.geometry.arch.name} has no read-only protection for the kernel's pages",
        vaddr=facts.geometry.address(int(facts.maps.first[optimized[0]])),
    )


@rule(
    "hugetlb-tail-frame",
    Severity.ERROR,
    holds="the tail pages of an optimized folio map the frame that they should share",
    source="mm/hugetlb_vmemmap.c: vmemmap_remap_free(), vmemmap_get_tail()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="Up to 7.0 tail pages map the frame of their folio's head page (5.14 to 5.17: the"
    " one after it), since 7.1 one that all folios of a zone and size share"
    " (zone->vmemmap_tails). One that maps another shows struct pages of another folio, or"
    " another owner's data: compound_head() returns a wrong head.",
    look_at="Whose frame it is: that of another folio (a wrong remapping), or one that was"
    " freed and is in use again. On a kernel that was patched to share tail pages, whether the"
    " zone's are those of another order.",
)
def hugetlb_tail_frame(facts: FolioFacts) -> Iterator[Violations | Skip]:
    maps, known = facts.maps, facts.tail_known
    if facts.shared_tails and len(known) and not known.any():
        yield Skip("it is not known which frame folios of a zone share", partly=True)
    optimized = maps.read_only > 0
    if not optimized.any():
        yield facts.none_optimized
        return
    whose = "the frame of the zone's tail pages"
    if not facts.shared_tails:
        whose = "the frame of the head page"

    def another(i: int) -> Violation:
        entries = facts.entries(i)
        read_only = (entries.kind == Kind.MAPPED) & ~entries.writable
        read_only &= entries.vpage >= int(maps.first[i]) + facts.hstate(i).kept
        if bool(known[i]):
            right = int(facts.tail_pfn[i])
        else:
            # The one that most of them map.
            frames, counts = np.unique(entries.pfn[read_only], return_counts=True)
            right = int(frames[np.argmax(counts)]) if len(frames) else 0
        wrong = read_only & (entries.pfn != np.uint64(right))
        pages = int(np.count_nonzero(wrong))
        return facts.at(
            entries,
            wrong,
            f"{count(pages, 'page')} of the vmemmap of {facts.label(i)}"
            f" {agree(pages, 'maps', 'map')} another frame than {whose}",
            expected=f"pfn {right:#x}" if right else f"{whose}, of which there is none",
            observed=lambda pfn: None if pfn is None else f"pfn {pfn:#x}",
        )

    other = (maps.low != facts.tail_pfn) | (maps.high != facts.tail_pfn)
    optimized &= facts.half == 0
    yield Violations.each(optimized & ((maps.low != maps.high) | (known & other)), another)


class HeadFrameFacts(NamedTuple):
    """Folios, and the frames behind their head pages; arrays have shape ``(n,)``."""

    folios: FolioFacts
    #: reference counts of the frames (int64)
    refcounts: NDArray[np.int64]
    #: whether they have PG_reserved: allocated at boot (bool)
    reserved: NDArray[np.bool_]
    #: whether that could be read (bool)
    readable: NDArray[np.bool_]
    #: whether the frames are memory (bool)
    in_ram: NDArray[np.bool_]

    def violations(
        self,
        where: NDArray[np.bool_],
        sentence: Callable[[int], str],
        expected: Value | Callable[[int], Value],
        observed: Callable[[int], Value] | NDArray[np.int64] | None = None,
    ) -> Violations:
        """
        Return violations of folios, at the first page of their vmemmap.

        :param observed: the frame behind it by default
        """
        facts = self.folios
        return Violations(
            where,
            sentence,
            vaddr=lambda i: facts.geometry.address(int(facts.maps.first[i])),
            pfn=facts.head_pfn,
            expected=expected,
            observed=(lambda i: f"pfn {facts.head_pfn(i) or 0:#x}")
            if observed is None
            else observed,
        )


@rule(
    "hugetlb-head-frame",
    Severity.ERROR,
    holds="the frame of an optimized folio's head page is its own, and in use",
    source="mm/hugetlb_vmemmap.c: vmemmap_remap_free(), free_vmemmap_page_list()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="The head page of an optimized folio has a frame with one reference, two if it is"
    " from boot. With none it was freed, and the next to get it overwrites the folio's struct"
    " page; mapped elsewhere too, two parts of the memory map overwrite each other.",
    look_at="What the frame is now, and who else maps it. A count that is one too high for a"
    " moment is a page walker's.",
)
def hugetlb_head_frame(facts: HeadFrameFacts) -> Iterator[Violations | Skip]:
    folios, maps, refcounts = facts.folios, facts.folios.maps, facts.refcounts
    mapped = (maps.read_only > 0) & (maps.head_kind == Kind.MAPPED)
    if not mapped.any():
        yield folios.none_optimized
        return

    def foreign(i: int) -> str:
        pages, last = int(maps.foreign[i]), folios.geometry.address(int(maps.foreign_at[i]))
        return (
            f"{count(pages, 'page')} of vmemmap outside the folio's own, the last at {last:#x},"
            f" {agree(pages, 'maps', 'map')} the frame of the head page of {folios.label(i)}"
        )

    yield facts.violations(mapped & (maps.foreign > 0), foreign, "a frame of its own")
    yield facts.violations(
        mapped & ~facts.in_ram,
        lambda i: f"the frame of the head page of {folios.label(i)} is not System RAM",
        "a frame of System RAM",
    )
    # register_page_bootmem_memmap() takes a reference to what was allocated at boot,
    # where the architecture has it.
    wrong = (refcounts < 1) | (refcounts > np.where(facts.reserved, 2, 1))
    yield facts.violations(
        mapped & facts.in_ram & facts.readable & wrong,
        lambda i: (
            f"the frame of the head page of {folios.label(i)} has a reference count of"
            f" {int(refcounts[i])}"
        ),
        lambda i: "1 or 2: it is from boot" if facts.reserved[i] else 1,
        refcounts,
    )
