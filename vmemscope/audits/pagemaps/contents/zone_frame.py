# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks the ``struct page``s in a frame of tail pages that all devices of a node share.

It is checked once, with the first of them: what is wrong there, all of them show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....rules.page_rows import PageKind, StructPages
from ....rules.page_violations import PageViolations
from ....rules.struct_pages import (
    compound_head,
    page_refcount,
    page_uninitialised,
    page_zone,
    stray_head,
    tail_contents,
)
from ....vmemmap.tables import Kind
from .reading import Reading, VpageRows, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .check import ContentsCheck

__all__ = ("check_zone_frame",)

#: rules about tail pages
_RULES = (
    compound_head, page_uninitialised, page_zone, stray_head, page_refcount, tail_contents,
)  # fmt: skip


def check_zone_frame(
    check: ContentsCheck, model: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64] | None:
    """
    Check the frame that a pagemap's tail pages share with other devices'.

    :param model: the words that its ``struct page``s must hold, where all heads' frames have
        others, shape ``(words,)``; by default those of most
    :return: what most of its ``struct page``s hold, shape ``(words,)`` (uint64); ``None`` if
        there is no such frame, or it could not be read
    """
    audited, per_page = check.audited, check.per_page
    shared, vpage = audited.shared, audited.zone_vpage
    if shared is None or shared.pfn is None or vpage is None:
        return None
    row = _row(check, vpage, shared.pfn)
    for words, _, at in Reading(row, check.vmemmap).batches(check.step):
        rows = rows_of(row, words[at])
        usual = None if model is None else model[None]
        pages = StructPages(rows, check.expected, PageKind.COMPOUND, usual)
        if shared.is_first(audited.pagemap.address):
            check.expected.learn_node(rows.words[:, -1, check.vmemmap.page.flags // 8])
            violations = PageViolations(check.expected, PageKind.COMPOUND, shared.name)
            violations.check(pages, _RULES if model is None else (tail_contents,))
            check.asked.update(_RULES)
            check.report(violations, lambda _: (per_page, per_page))
        found: NDArray[np.uint64] = pages.usual[0]
        return found
    return None


def _row(check: ContentsCheck, vpage: int, pfn: int) -> VpageRows:
    """Return the first vpage that maps the frame, as a row to be read."""
    audited, first = check.audited, vpage * check.per_page
    start = next(start for start, end in audited.layout.pfns if start <= first < end)
    head = start + (first - start >> audited.order << audited.order)
    one = np.array([first], dtype=np.int64)
    return VpageRows(
        one // check.per_page, one * 0 + head, one, one, one, one + check.per_page,
        np.ones(1, dtype=np.bool_), np.array([pfn], dtype=np.uint64),
        np.array([Kind.MAPPED.value], dtype=np.uint8),
    )  # fmt: skip
