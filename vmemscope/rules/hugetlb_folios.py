# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about HugeTLB's folios: what they say of themselves, and how their vmemmap is mapped.

Unknown facts violate no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..text import binary_size, count
from ..vmemmap.tables import Kind
from .rule import Scope, Severity, Skip, Value, Violation, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.hstate import Hstate
    from ..kernel.hugetlb_folio import Folios
    from ..vmemmap.folio_maps import FolioEntries, FolioMaps
    from ..vmemmap.layout import Geometry
    from ..vmemmap.schemes import Scheme

__all__ = (
    "UNREAD_LISTS",
    "FolioFacts",
    "HeadFrameFacts",
    "hugetlb_flag",
    "hugetlb_head_frame",
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
    #: whether they have PG_hwpoison (bool)
    poisoned: NDArray[np.bool_]
    #: whether that could be read (bool)
    readable: NDArray[np.bool_]
    #: whether the frames are memory (bool)
    in_ram: NDArray[np.bool_]
    #: nodes that have a part of the section that they describe, 0 if not known (int64)
    nodes: NDArray[np.int64]

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


def _from_boot(nodes: int) -> str:
    """Return the references that a frame from boot may have, in words."""
    if nodes == 0:
        return "1 or more: it is from boot"
    several = f", for {nodes} nodes" if nodes > 1 else ""
    return f"1 {'to' if nodes > 1 else 'or'} {nodes + 1}: it is from boot{several}"


@rule(
    "hugetlb-head-frame",
    Severity.ERROR,
    holds="the frame of an optimized folio's head page is its own, and in use",
    source="mm/hugetlb_vmemmap.c: vmemmap_remap_free(), free_vmemmap_page_list()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="The head page of an optimized folio has a frame with one reference, two if it is"
    " from boot, and one more for each further node that has a part of its section. With none it"
    " was freed, and the next to get it overwrites the folio's struct page; mapped elsewhere too,"
    " two parts of the memory map overwrite each other.",
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
    # register_page_bootmem_memmap() takes a reference to what was allocated at boot, where the
    # architecture has it: one for each node that has a part of the section.
    most = np.where(facts.reserved, facts.nodes + 1, 1)
    wrong = (refcounts < 1) | ((refcounts > most) & ~(facts.reserved & (facts.nodes == 0)))
    yield facts.violations(
        mapped & facts.in_ram & facts.readable & wrong,
        lambda i: (
            f"the frame of the head page of {folios.label(i)} has a reference count of"
            f" {int(refcounts[i])}"
        ),
        lambda i: _from_boot(int(facts.nodes[i])) if facts.reserved[i] else 1,
        refcounts,
    )
