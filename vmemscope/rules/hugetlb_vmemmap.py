# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about HugeTLB's vmemmap optimization outside of folios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..text import count
from .hugetlb_folios import (
    UNREAD_LISTS,
    hugetlb_head_frame,
    hugetlb_mapping,
    hugetlb_tail_frame,
    hugetlb_unprotected,
)
from .hugetlb_halves import hugetlb_half
from .hugetlb_poisoned import hugetlb_poisoned
from .hugetlb_tails import hugetlb_restore, hugetlb_tail_page
from .page_rows import holds_mask, refcounts
from .rule import Scope, Severity, Skip, Violation, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.page import PageLayout
    from ..kernel.vmemmap_tails import Slot
    from ..vmemmap.folio_maps import ReadOnly
    from ..vmemmap.layout import Geometry

__all__ = (
    "OPTIMIZATION_RULES",
    "KeyFacts",
    "ReadOnlyFacts",
    "SharedPage",
    "SharedTailFacts",
    "hugetlb_key",
    "hugetlb_read_only",
    "hugetlb_shared_tail",
    "initialised_again",
)


class ReadOnlyFacts(NamedTuple):
    """Read-only vmemmap that describes no HugeTLB folio."""

    runs: ReadOnly
    #: runs that were not kept
    dropped: int
    geometry: Geometry


@rule(
    "hugetlb-read-only",
    Severity.ERROR,
    holds="read-only vmemmap belongs to an optimized HugeTLB folio",
    source="mm/hugetlb_vmemmap.c: vmemmap_remap_pte()",
    scope=Scope.HUGETLB,
    meaning="Only HugeTLB's optimization makes vmemmap read-only. Where no HugeTLB folio is, the"
    " next write to the struct pages (in prep_new_page() at the latest) is an oops; and the"
    " frames that were saved there are never allocated again.",
    look_at="The first struct pages that are described there: a HugeTLB folio that lost its"
    " mark, or that is being set up or taken down; or a page of the buddy allocator, which got"
    " the folio with its vmemmap still optimized.",
)
def hugetlb_read_only(facts: ReadOnlyFacts) -> Violations:
    runs, geometry = facts.runs, facts.geometry

    def sentence(i: int) -> str:
        pages = int(runs.length[i])
        pfn = int(runs.vpage[i]) * geometry.page_size // geometry.struct_page_size
        return (
            f"{count(pages, 'page')} of the vmemmap, from that of pfn {pfn:#x} on,"
            f" {agree(pages, 'is', 'are')} read-only, and no HugeTLB folio is there"
        )

    return Violations(
        np.arange(len(runs.vpage)),
        sentence,
        vaddr=lambda i: geometry.address(int(runs.vpage[i])),
        pfn=runs.pfn,
        expected="writable",
        observed="read-only",
        more=facts.dropped,
    )


class KeyFacts(NamedTuple):
    """The static key of the optimization."""

    #: optimized folios that it counts, ``None`` if there is none or it could not be read
    key: int | None
    address: int | None
    #: optimized folios that there are, ``None`` if not all are known
    flagged: int | None
    #: whether all folios of a zone share their tail pages, on kernels without a key
    shared_tails: bool


@rule(
    "hugetlb-key",
    Severity.WARNING,
    holds="the static key counts the folios that are optimized",
    source="mm/hugetlb_vmemmap.c: static_branch_inc(&hugetlb_optimize_vmemmap_key)",
    since="5.19",
    until="7.0",
    scope=Scope.HUGETLB,
    meaning="With the key at 0, compound_head() does not ask whether a page that looks like a"
    " head is a tail of an optimized folio (page_fixed_fake_head()): too low, tail pages are"
    " taken for heads; too high, a test remains in a hot path.",
    look_at="Whether folios are being optimized or restored at this very moment, and the error"
    " paths of both.",
)
def hugetlb_key(facts: KeyFacts) -> Iterator[Violation | Skip]:
    key, flagged = facts.key, facts.flagged
    if key is None and facts.shared_tails:
        yield Skip("this kernel has no static key")
    elif key is None:
        yield Skip("the key is not there, or could not be read")
    elif flagged is None:
        yield Skip(UNREAD_LISTS)
    elif key != flagged:
        yield Violation(
            f"hugetlb_optimize_vmemmap_key counts {key} optimized folios, there are {flagged}",
            vaddr=facts.address,
            expected=flagged,
            observed=key,
        )


class SharedPage(NamedTuple):
    """A frame that the tail pages of a zone share, as read."""

    tail: Slot
    #: its number, ``None`` if the zone points to no struct page
    pfn: int | None
    #: shape ``(struct pages, words)`` (uint64), ``None`` if it could not be read
    words: NDArray[np.uint64] | None
    #: ``None`` if that could not be read
    refcount: int | None
    #: node and zone that its tail pages claim, ``None`` if it is not known where they are
    place: tuple[int, int] | None
    #: whether it has PG_hwpoison
    poisoned: bool = False

    @property
    def name(self) -> str:
        """Return its owner, in words."""
        tail = self.tail
        return f"order {tail.order} of zone {tail.zone_name} of node {tail.nid}"


class SharedTailFacts(NamedTuple):
    """The frames that the tail pages of zones share."""

    pages: Sequence[SharedPage]
    page: PageLayout
    #: whether this kernel's folios share tail pages at all
    shared_tails: bool


@rule(
    "hugetlb-shared-tail",
    Severity.ERROR,
    holds="the tail pages that all folios of a zone and order share are alike, find their heads"
    " by the right mask, and are in a frame that is in use",
    source="mm/hugetlb_vmemmap.c: vmemmap_get_tail()",
    since="7.1",
    scope=Scope.HUGETLB,
    meaning="All optimized folios of that size in the zone show these struct pages as their"
    " tails. Whatever was written there is wrong for all of them at once: every lookup of a"
    " tail page by its frame number goes to a wrong head, or a reference is counted on a page"
    " that is no head.",
    look_at="Which of the struct pages differ: one was written to (nothing may, it is mapped"
    " read-only: so through the direct map); all are another's frame, or were initialised for"
    " another order. Tail pages of a gigantic page from boot (hugepages=1 with hugepagesz=1G)"
    " with a reference count of 1 each and lists of their own were initialised a second time:"
    " 7.2.13 does so, and when the page is freed, the log has 'BUG: Bad page state ... nonzero"
    " _refcount', and all of it is lost.",
)
def hugetlb_shared_tail(facts: SharedTailFacts) -> Iterator[Violation | Skip]:
    if not facts.shared_tails:
        yield Skip("tail pages map the frame of their own head page")
        return
    if not facts.pages:
        yield Skip("no zone has any")
        return
    for one in facts.pages:
        if one.pfn is None:
            yield Violation(
                f"the pointer to the shared tail pages for {one.name} leads to no struct page",
                vaddr=one.tail.page,
                observed=f"{one.tail.page:#x}",
            )
            continue
        if one.refcount is not None and one.refcount < 1:
            yield Violation(
                f"the shared tail pages for {one.name} lie in a frame that is free",
                vaddr=one.tail.page,
                pfn=one.pfn,
                expected="1 or more",
                observed=one.refcount,
            )
        if one.words is not None:
            yield from _odd_words(one, one.words, facts.page)
    there = [one for one in facts.pages if one.pfn is not None]
    if there and all(one.words is None and one.refcount is None for one in there):
        yield Skip("no frame of shared tail pages could be read")


def initialised_again(words: NDArray[np.uint64], layout: PageLayout) -> bool:
    """
    Return whether shared tail pages went through ``mm/mm_init.c: __init_single_page()`` again.

    Each then has a reference and a list of its own; ``prep_compound_tail()`` gave them back the
    mask only, which lies over the list's first pointer. Seen in 7.2.13, for gigantic pages from
    boot.

    :param words: a row for each ``struct page``, as read
    """
    previous = layout.compound // 8 + 1
    others = np.delete(words, previous, axis=1)
    lists = np.diff(words[:, previous]) == np.uint64(layout.size)
    return bool(
        lists.all() and (others == others[0]).all() and int(refcounts(words[0], layout)) == 1
    )


def _odd_words(
    one: SharedPage, words: NDArray[np.uint64], layout: PageLayout
) -> Iterator[Violation]:
    def violation(sentence: str, expected: int | str, observed: int | str) -> Violation:
        return Violation(sentence, one.tail.page, one.pfn, expected, observed)

    # The majority is right: one that was written to is the odd one out.
    rows, inverse, counts = np.unique(words, axis=0, return_inverse=True, return_counts=True)
    usual = int(np.argmax(counts))
    model = rows[usual]
    odd = np.flatnonzero(inverse.ravel() != usual)
    shared = f"the shared tail pages for {one.name}"
    if len(odd):
        first = int(odd[0])
        word = int(np.flatnonzero(words[first] != model)[0])
        alike = int(counts[usual])
        yield violation(
            f"{len(odd)} of {len(words)} shared tail pages for {one.name} differ from the rest,"
            f" first number {first}"
            if alike > len(odd)
            else f"the {len(words)} shared tail pages for {one.name} are not alike",
            f"{int(model[word]):#x} at byte {first * layout.size + word * 8}",
            f"{int(words[first][word]):#x}",
        )
    mask = -(layout.size << one.tail.order) & (1 << 64) - 1 | 1
    compound = model[layout.compound // 8]
    if int(compound) != mask or not bool(holds_mask(compound[None])[0]):
        yield violation(
            f"{shared} do not resolve to their heads", f"a mask of {mask:#x}", f"{int(compound):#x}"
        )
    refcount = int(refcounts(model, layout))
    if refcount:
        yield violation(f"{shared} have a reference count", 0, refcount)
    if one.place is not None and one.place != (one.tail.nid, one.tail.zone):
        yield violation(
            f"{shared} claim to be of another zone",
            f"node {one.tail.nid}, zone {one.tail.zone}",
            f"node {one.place[0]}, zone {one.place[1]}",
        )


#: rules that apply only to kernels with the optimization
OPTIMIZATION_RULES = (
    hugetlb_mapping,
    hugetlb_half,
    hugetlb_tail_frame,
    hugetlb_unprotected,
    hugetlb_head_frame,
    hugetlb_poisoned,
    hugetlb_tail_page,
    hugetlb_restore,
    hugetlb_key,
    hugetlb_shared_tail,
)
