# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the lists of HugeTLB's folios, and their counters.

Unknown facts violate no rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .rule import Scope, Severity, Violation, Violations, rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..kernel import Damage
    from ..kernel.hstate import Hstate
    from .hugetlb_folios import FolioFacts

__all__ = (
    "CountFacts",
    "ElsewhereFacts",
    "ListFacts",
    "hugetlb_count",
    "hugetlb_elsewhere",
    "hugetlb_list",
)


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
