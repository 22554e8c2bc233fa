# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the tail pages that optimized HugeTLB folios keep, and what becomes of them.

In: the facts of :mod:`.hugetlb`, the ``struct page``s themselves, and what the kernel
does with them when it gives a folio back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..vmemmap.tables import Kind
from . import RULES
from .hugetlb import evaluated, told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ..audits.hugetlb.tails import TailPages
    from ..kernel.hugetlb_folio import FolioLayout
    from ..kernel.vmemmap_restore import Restore
    from .findings import Collector
    from .hugetlb import Facts

__all__ = ("check_restore", "check_tail_pages", "with_tail_pages")

#: TAIL_MAPPING less where poison begins (include/linux/poison.h)
_TAIL_MAPPING = 0x400


class _Word(NamedTuple):
    """A word that all tail pages without members of their own have alike."""

    name: str
    #: in bytes, and bits of the word there that count
    offset: int
    mask: int
    #: what it is, shape ``(folios,)`` (uint64)
    value: NDArray[np.uint64]
    #: whether 0 in all of a folio's will do as well, shape ``(folios,)`` (bool)
    or_none: NDArray[np.bool_]


def with_tail_pages(facts: Facts) -> NDArray[np.int64]:
    """Get which folios have pages of vmemmap that can't be written to, and one of their own."""
    return np.flatnonzero((facts.maps.read_only > 0) & (facts.maps.head_kind == Kind.MAPPED))


def check_tail_pages(
    facts: Facts,
    read: Iterable[TailPages],
    layout: FolioLayout,
    masks: bool,
    poison: int,
    findings: Collector,
) -> int:
    """
    Check tail pages that have no members of the folio.

    :param masks: tail pages hold a mask that finds their head
    :param poison: what poisoned pointers are counted from
    :return: pages of vmemmap that could not be read
    """
    rule = RULES["hugetlb-tail-page"]
    evaluated(rule, facts.maps.read_only > 0, findings)
    expected = _words(facts, layout, masks, poison)
    unread = 0
    for pages in read:
        unread += int(np.count_nonzero(~pages.readable))
        # The first struct pages have members of the folio.
        skipped = max(layout.page.folio_pages - pages.first, 0)
        off = np.zeros((len(pages.folio), pages.words.shape[1] - skipped), dtype=np.uint8)
        for bit, word in enumerate(expected):
            found = pages.words[:, skipped:, word.offset // 8] >> np.uint64(word.offset % 8 * 8)
            found &= np.uint64(word.mask)
            wrong = found != word.value[pages.folio][:, None]
            # Or all alike 0.
            none = word.or_none[pages.folio] & (2 * wrong.sum(axis=1) > wrong.shape[1])
            wrong[none] = found[none] != 0
            off |= wrong.astype(np.uint8) << bit
        off[~pages.readable] = 0
        for row in told(rule.id, np.flatnonzero(off.any(axis=1)), findings):
            i, column = int(pages.folio[row]), int(np.flatnonzero(off[row])[0])
            bits = int(off[row, column])
            # The lowest bit that is set.
            word = expected[(bits & -bits).bit_length() - 1]
            value = int(pages.words[row, column + skipped, word.offset // 8])
            number, count = pages.first + skipped + column, int(np.count_nonzero(off[row]))
            findings.add(
                rule,
                f"{count} of the tail pages in the frame of the head page of {facts.label(i)}"
                f" {'is' if count == 1 else 'are'} not what tail pages are: {word.name} of number"
                f" {number}",
                vaddr=facts.page(i) + number * layout.page.size,
                pfn=int(facts.maps.head_pfn[i]),
                expected=f"{int(word.value[i]):#x}",
                observed=f"{value >> word.offset % 8 * 8 & word.mask:#x}",
            )
    return unread


def _words(facts: Facts, layout: FolioLayout, masks: bool, poison: int) -> tuple[_Word, ...]:
    """Get what prep_compound_tail() writes."""
    geometry, heads = facts.geometry, facts.folios.head
    word = (1 << 64) - 1
    if masks:
        orders = np.array([one.order for one in facts.hstates], dtype=np.uint64)
        sizes = np.uint64(layout.page.size) << orders[facts.folios.hstate]
        head = ~(sizes - np.uint64(1)) | np.uint64(1)
    else:
        offsets = heads.astype(np.uint64) * np.uint64(layout.page.size)
        head = np.uint64(geometry.vmemmap) + offsets + np.uint64(1)
    no, nothing = np.zeros(len(heads), dtype=np.bool_), np.zeros(len(heads), dtype=np.uint64)
    mapping = nothing + np.uint64(poison + _TAIL_MAPPING)
    # prep_compound_gigantic_page() left it alone up to 6.6, and for those that were not
    # from boot up to 6.11; what takes gigantic pages apart again does not look at it.
    gigantic = np.array([one.gigantic for one in facts.hstates], dtype=np.bool_)
    return (
        _Word("the head", layout.page.compound, word, head, no),
        _Word("the mapping", layout.mapping, word, mapping, gigantic[facts.folios.hstate]),
        _Word("the reference count", layout.page.refcount, 0xFFFF_FFFF, nothing, no),
    )


def check_restore(facts: Facts, restore: Restore | None, findings: Collector) -> None:
    """
    Check that the kernel can give optimized folios back.

    :param restore: what it restores a page of vmemmap by
    """
    rule = RULES["hugetlb-restore"]
    # Before 5.18 there was a page of nothing but plain tail pages to copy.
    copied = [one.kept == 1 for one in facts.hstates]
    lost = (facts.maps.read_only > 0) & np.array(copied, dtype=np.bool_)[facts.folios.hstate]
    if restore is None or restore.resets is None:
        findings.skipped("the code that restores vmemmap is not to be read", rule)
        return
    evaluated(rule, lost, findings)
    if restore.resets or not lost.any():
        return
    count = int(np.count_nonzero(lost))
    findings.add(
        rule,
        f"none of {count} optimized folios can be given back: this kernel copies the page with the"
        " head to where it restores tail pages, and leaves it so"
        if count > 1
        else "the optimized folio can't be given back: this kernel copies the page with the head"
        " to where it restores tail pages, and leaves it so",
        vaddr=restore.address,
        expected="copies of the head, and of what has members of the folio, are reset",
        observed="they are not",
    )
