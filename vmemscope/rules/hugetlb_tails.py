# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the tail pages that optimized HugeTLB folios keep, and how they are restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..vmemmap.tables import Kind
from .hugetlb_folios import FolioFacts
from .rule import Scope, Severity, Skip, Violation, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.hugetlb_folio import FolioLayout
    from ..kernel.vmemmap_restore import Restore
    from ..vmemmap.folio_tails import TailPages

__all__ = (
    "FolioTailFacts",
    "RestoreFacts",
    "hugetlb_restore",
    "hugetlb_tail_page",
    "with_tail_pages",
)

#: TAIL_MAPPING less where poison begins (include/linux/poison.h)
_TAIL_MAPPING = 0x400


class _Word(NamedTuple):
    """A word that is the same in all tail pages without members of the folio."""

    name: str
    #: in bytes; the number of its lowest bit in the word there; and bits from that on
    offset: int
    shift: int
    mask: int
    #: what it is, shape ``(folios,)`` (uint64)
    value: NDArray[np.uint64]
    #: whether 0 in all of a folio's will do as well, shape ``(folios,)`` (bool)
    or_none: NDArray[np.bool_]


def with_tail_pages(facts: FolioFacts) -> NDArray[np.int64]:
    """Return the numbers of folios with read-only vmemmap and a mapped head page (int64)."""
    return np.flatnonzero((facts.maps.read_only > 0) & (facts.maps.head_kind == Kind.MAPPED))


class FolioTailFacts(NamedTuple):
    """Folios, and the tail pages in the frames that they keep."""

    folios: FolioFacts
    #: pages of vmemmap as read, some at a time
    read: Iterable[TailPages]
    layout: FolioLayout
    #: what poisoned pointers are counted from
    poison: int


@rule(
    "hugetlb-tail-page",
    Severity.ERROR,
    holds="tail pages in the frame of an optimized folio's head have their head, TAIL_MAPPING and"
    " no reference",
    source="mm/page_alloc.c: prep_compound_tail(), free_tail_page_prepare()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="The first page of vmemmap of an optimized folio has the struct pages of its head"
    " and of the tail pages after it. Those of them that have no members of struct folio are"
    " all alike; up to 7.0 they are what all other tail pages of the folio show, and what those"
    " are restored from. One that differs is multiplied: compound_head() returns a wrong head,"
    " or, when the folio is freed, the log has 'BUG: Bad page state ... corrupted mapping in"
    " tail page', and all of it is lost.",
    look_at="Which word differs. A mapping of 0 in all folios alike means that struct folio"
    " goes over more struct pages than the types say, or that the folio was initialised"
    " without prep_compound_tail(); a reference count is that of a page walker that did not see"
    " that the page is a tail.",
)
def hugetlb_tail_page(facts: FolioTailFacts) -> Iterator[Violations | Skip]:
    if not (facts.folios.maps.read_only > 0).any():
        yield facts.folios.none_optimized
        return
    expected = _words(facts)
    for pages in facts.read:
        yield _odd_tails(facts, pages, expected)


def _odd_tails(facts: FolioTailFacts, pages: TailPages, expected: tuple[_Word, ...]) -> Violations:
    folios, layout = facts.folios, facts.layout
    # The first struct pages have members of the folio.
    skipped = max(layout.page.folio_pages - pages.first, 0)
    #: for each struct page the words that are wrong, a bit for each
    wrong = np.zeros((len(pages.folio), pages.words.shape[1] - skipped), dtype=np.uint8)
    for bit, word in enumerate(expected):
        found = pages.words[:, skipped:, word.offset // 8] >> np.uint64(word.shift)
        found &= np.uint64(word.mask)
        differs = found != word.value[pages.folio][:, None]
        # Or all alike 0.
        none = word.or_none[pages.folio] & (2 * differs.sum(axis=1) > differs.shape[1])
        differs[none] = found[none] != 0
        wrong |= differs.astype(np.uint8) << bit
    wrong[~pages.readable] = 0

    def odd(row: int) -> Violation:
        i, column = int(pages.folio[row]), int(np.flatnonzero(wrong[row])[0])
        bits = int(wrong[row, column])
        # The lowest bit that is set.
        word = expected[(bits & -bits).bit_length() - 1]
        value = int(pages.words[row, column + skipped, word.offset // 8])
        number, several = pages.first + skipped + column, int(np.count_nonzero(wrong[row]))
        return Violation(
            f"{several} of the tail pages in the frame of the head page of {folios.label(i)}"
            f" {agree(several, 'is', 'are')} wrong, first {word.name} of number {number}",
            vaddr=folios.page(i) + number * layout.page.size,
            pfn=int(folios.maps.head_pfn[i]),
            expected=f"{int(word.value[i]):#x}",
            observed=f"{value >> word.shift & word.mask:#x}",
        )

    return Violations.each(np.flatnonzero(wrong.any(axis=1)), odd)


def _words(facts: FolioTailFacts) -> tuple[_Word, ...]:
    """Return the words that ``mm/page_alloc.c: prep_compound_tail()`` writes."""
    folios, page = facts.folios, facts.layout.page
    heads, which = folios.folios.head, folios.folios.hstate
    word = (1 << 64) - 1
    if folios.shared_tails:
        # A mask that finds the head.
        orders = np.array([one.order for one in folios.hstates], dtype=np.uint64)
        sizes = np.uint64(page.size) << orders[which]
        head = ~(sizes - np.uint64(1)) | np.uint64(1)
    else:
        offsets = heads.astype(np.uint64) * np.uint64(page.size)
        head = np.uint64(folios.geometry.vmemmap) + offsets + np.uint64(1)
    no, nothing = np.zeros(len(heads), dtype=np.bool_), np.zeros(len(heads), dtype=np.uint64)
    mapping = nothing + np.uint64(facts.poison + _TAIL_MAPPING)
    # prep_compound_gigantic_page() left it alone up to 6.6, and for those that were not
    # from boot up to 6.11; the code that frees gigantic pages does not check it.
    gigantic = np.array([one.gigantic for one in folios.hstates], dtype=np.bool_)
    return (
        _Word("the head", page.compound, 0, word, head, no),
        _Word("the mapping", facts.layout.mapping, 0, word, mapping, gigantic[which]),
        _Word(
            "the reference count",
            page.refcount,
            page.shift(page.refcount, 4),
            0xFFFF_FFFF,
            nothing,
            no,
        ),
    )


class RestoreFacts(NamedTuple):
    """Folios, and how the kernel restores their vmemmap."""

    folios: FolioFacts
    #: what it restores a page of vmemmap by, ``None`` if that is not known
    restore: Restore | None


@rule(
    "hugetlb-restore",
    Severity.ERROR,
    holds="the kernel resets what it copies of a folio's head when it restores the vmemmap",
    source="mm/hugetlb_vmemmap.c: vmemmap_restore_pte(), reset_struct_pages()",
    since="5.18",
    until="7.0",
    archs=("x86_64",),
    scope=Scope.HUGETLB,
    meaning="Before an optimized folio is freed, each page of its vmemmap that was freed"
    " is restored as a copy of the one with its head; copies of the head and of the tail"
    " pages that have members of the folio must then be overwritten with plain tail pages."
    " This kernel's code does not do that. Nothing is wrong with the folios as long as they"
    " stay in the pool. Once one is freed (nr_hugepages lowered, memory failure, memory taken"
    " offline), it has a head in front of every 64th of its pages: the log has 'BUG: Bad page"
    " state ... corrupted mapping in tail page', the kernel is tainted (B), and the folio is"
    " lost until the next boot. Where pages are not checked when they are freed, they come back"
    " marked as HugeTLB's.",
    look_at="The kernel's version: 6.12.114 got 'mm/hugetlb_vmemmap: fix incorrect vmemmap"
    " restore in rollback', and at least up to 6.12.118 the code has no reset any more"
    " (vmemscope reads the code, not the version). Until that is fixed, keep the pool as it is,"
    " or disable vm.hugetlb_optimize_vmemmap before folios are allocated.",
)
def hugetlb_restore(facts: RestoreFacts) -> Iterator[Violation | Skip]:
    folios, restore = facts.folios, facts.restore
    if folios.shared_tails:
        yield Skip("tail pages are restored from a frame that holds nothing else")
        return
    if restore is None or restore.resets is None:
        yield Skip("the code that restores vmemmap can't be read")
        return
    # Before 5.18 there was a page of nothing but plain tail pages to copy.
    copied = np.array([one.kept == 1 for one in folios.hstates], dtype=np.bool_)
    lost = int(np.count_nonzero((folios.maps.read_only > 0) & copied[folios.folios.hstate]))
    if not lost:
        yield folios.none_optimized
    elif not restore.resets:
        whom = f"none of {lost} optimized folios can be freed"
        if lost == 1:
            whom = "the optimized folio can't be freed"
        yield Violation(
            f"{whom}: this kernel copies the page with the head to where it restores tail pages,"
            " and does not reset the copy",
            vaddr=restore.address,
            expected="copies of the head, and of tail pages with members of the folio, are reset",
            observed="they are not",
        )
