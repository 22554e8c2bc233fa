# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks the ``struct page``s of base pages, and of the frames that an altmap hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....columns import select
from ....limits import LIMITS
from ....rules.page_rows import PageKind, StructPages
from ....rules.page_violations import PageViolations
from ....vmemmap.tables import Kind
from .check import Region, picked
from .reading import Reading, VpageRows, rows_of
from .shortcuts import plain_base

if TYPE_CHECKING:
    from .check import ContentsCheck

__all__ = ("check_base_pages",)


def check_base_pages(check: ContentsCheck, region: Region) -> None:
    """Check the pages of a region without compound pages."""
    expected, vmemmap = check.expected, check.vmemmap
    kind_of = PageKind.ALTMAP if region.altmap else PageKind.BASE
    rules = check.rules_that_apply(kind_of)
    violations = PageViolations(expected, kind_of)
    numbers = picked(region, check.contents) + region.start // check.per_page
    check.sampled |= len(numbers) < region.parts
    for done in range(0, len(numbers), LIMITS.vpages):
        vpage = numbers[done : done + LIMITS.vpages]
        vpage = vpage[check.own(vpage)]
        first = vpage * check.per_page
        start = np.maximum(first, region.start)
        end = np.minimum(first + check.per_page, region.end)
        pfn, kind = vmemmap.frames_of(vpage)
        none = np.zeros(len(vpage), dtype=np.bool_)
        rows = VpageRows(vpage, start, first, first, start, end, none, pfn, kind)
        read = np.zeros(len(vpage), dtype=np.bool_)
        for words, which, at in Reading(rows, vmemmap).batches(check.step):
            read[which] = True
            if expected.nid is None:
                # The last page that the frame has may be another device's.
                last = (end - 1 - first)[which]
                expected.learn_node(words[at, last, vmemmap.page.flags // 8])
            part = select(rows, which)
            # Not all of what was read, or some of it twice.
            if len(at) != len(words) or (np.diff(at) != 1).any():
                words = words[at]
            full = rows_of(part, words)
            bad = ~plain_base(StructPages(full, expected, kind_of))
            if bad.any():
                violations.check(StructPages(select(full, bad), expected, kind_of), rules)
            if not region.altmap:
                check.base_checked += int((part.end - part.start).sum())
            check.asked.update(rules)
        lost = int((end - start)[~read & (kind != Kind.HOLE)].sum())
        if region.altmap:
            check.altmap_unreadable += lost
        else:
            check.base_unreadable += lost
        check.missed |= not read.all()
        sizes = {
            first: (0, pages)
            for first, pages in zip(start.tolist(), (end - start).tolist(), strict=True)
        }
        check.report(violations, sizes.__getitem__)
