# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks into the ``struct page``s of base pages, and of the frames that an altmap hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....columns import select
from ....limits import LIMITS
from ....rules.page_rows import PageKind, StructPages
from ....rules.page_violations import PageViolations
from ....vmemmap.tables import Kind
from .areas import Area, picked
from .reading import Batch, Reading, rows_of
from .shortcuts import plain_base

if TYPE_CHECKING:
    from .look import Look

__all__ = ("look_at_base_pages",)


def look_at_base_pages(look: Look, area: Area) -> None:
    """Look into the pages of an area without compound pages."""
    expected, vmemmap = look.expected, look.vmemmap
    kind_of = PageKind.ALTMAP if area.altmap else PageKind.BASE
    rules = look.rules_that_apply(kind_of)
    violations = PageViolations(expected, kind_of)
    numbers = picked(area, look.contents) + area.start // look.per_page
    look.sampled |= len(numbers) < area.parts
    for done in range(0, len(numbers), LIMITS.vpages):
        vpage = numbers[done : done + LIMITS.vpages]
        vpage = vpage[look.own(vpage)]
        first = vpage * look.per_page
        start = np.maximum(first, area.start)
        end = np.minimum(first + look.per_page, area.end)
        pfn, kind = vmemmap.frames_of(vpage)
        none = np.zeros(len(vpage), dtype=np.bool_)
        rows = Batch(vpage, start, first, first, start, end, none, pfn, kind)
        read = np.zeros(len(vpage), dtype=np.bool_)
        for words, which, at in Reading(rows, vmemmap).batches(look.step):
            read[which] = True
            if expected.nid is None:
                expected.learn_node(words[at, -1, vmemmap.page.flags // 8])
            part = select(rows, which)
            # Not all of what was read, or some of it twice.
            if len(at) != len(words) or (np.diff(at) != 1).any():
                words = words[at]
            full = rows_of(part, words)
            bad = ~plain_base(StructPages(full, expected, kind_of))
            if bad.any():
                violations.check(StructPages(select(full, bad), expected, kind_of), rules)
            if not area.altmap:
                look.base_checked += int((part.end - part.start).sum())
            look.asked.update(rules)
        if not area.altmap:
            lost = ~read & (kind != Kind.HOLE)
            look.base_unreadable += int((end - start)[lost].sum())
        look.missed |= not read.all()
        sizes = {
            first: (0, pages)
            for first, pages in zip(start.tolist(), (end - start).tolist(), strict=True)
        }
        look.report(violations, sizes.__getitem__)
