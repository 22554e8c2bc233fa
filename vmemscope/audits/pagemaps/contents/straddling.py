# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks ``struct page``s that lie across pages of the vmemmap, and compound pages within one.

The kernel shares no frame of theirs (``include/linux/mm.h: vmemmap_can_optimize()`` wants a
power of two, and more than two pages of the vmemmap), and each is read by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....columns import numbered
from ....rules.page_rows import PageKind, Rows, StructPages, holds_mask
from ....rules.page_violations import PageViolations
from ....vmemmap.struct_pages import read_struct_pages
from .check import Contents, picked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....rules.page_violations import PageRule
    from .check import ContentsCheck, Region

__all__ = ("check_straddling",)

#: rows read at a time: 2 MiB of struct pages of 64 bytes
_BATCH = 64


def check_straddling(check: ContentsCheck, region: Region) -> None:
    """Check the pages of a region, a subsection's or a compound page's ``struct page``s a row."""
    kind = PageKind.COMPOUND if region.order else PageKind.BASE
    kind = PageKind.ALTMAP if region.altmap else kind
    rules = check.rules_that_apply(kind)
    violations = PageViolations(check.expected, kind)
    numbers = picked(region, check.contents)
    check.sampled |= len(numbers) < region.parts
    row = check.per_page
    if region.order:
        check.heads.append(region.start)
        head = region.start + (numbers << region.order)
        end = np.minimum(head + (1 << region.order), region.end)
        rows = -(-(end - head) // row)
        which, nth = numbered(rows)
        if check.contents is not Contents.ALL:
            # The first and the last of each compound page.
            kept = (nth == 0) | (nth == rows[which] - 1)
            check.sampled |= not kept.all()
            which, nth = which[kept], nth[kept]
        first = head[which] + nth * row
        heads, ends = head[which], np.minimum(first + row, end[which])
    else:
        first = (numbers + region.start // row) * row
        ends = np.minimum(first + row, region.end)
        first = heads = np.maximum(first, region.start)
    read = np.zeros(len(first), dtype=np.bool_)
    for at in range(0, len(first), _BATCH):
        some = slice(at, at + _BATCH)
        read[some] = _check(check, rules, violations, kind, heads[some], first[some], ends[some])
        check.step(len(first[some]))
    lost = int((ends - first)[~read].sum())
    check.missed |= lost > 0
    sizes: dict[int, tuple[int, int]] = {}
    for one, begin, stop in zip(heads.tolist(), first.tolist(), ends.tolist(), strict=True):
        tails, pages = sizes.get(one, (0, 0))
        sizes[one] = tails + stop - begin - (begin == one), pages + stop - begin
    if region.altmap:
        check.altmap_unreadable += lost
    elif region.order:
        check.checked += len(np.unique(heads[read]))
        check.unreadable += len(np.unique(heads[~read]))
    else:
        check.base_checked += int((ends - first)[read].sum())
        check.base_unreadable += lost
    check.report(violations, sizes.__getitem__)


def _check(
    check: ContentsCheck,
    rules: tuple[PageRule, ...],
    violations: PageViolations,
    kind: PageKind,
    head: NDArray[np.int64],
    first: NDArray[np.int64],
    end: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """
    Check rows.

    :return: whether each could be read in full (bool), shape ``(n,)``
    """
    expected, vmemmap = check.expected, check.vmemmap
    pfns = first[:, None] + np.arange(check.per_page)
    found = read_struct_pages(vmemmap, pfns.ravel())
    asked = pfns < end[:, None]
    readable: NDArray[np.bool_]
    readable = np.logical_and.reduce(found.readable.reshape(pfns.shape) | ~asked, axis=1)
    words = found.data.view(vmemmap.word).astype(np.uint64, copy=False)
    words = words.reshape(*pfns.shape, -1)[readable]
    if not len(words):
        return readable
    head, first, end = head[readable], first[readable], end[readable]
    if expected.nid is None:
        expected.learn_node(words[:, 0, vmemmap.page.flags // 8])
    rows = Rows(
        head, first, first, first, end, np.zeros(len(head), dtype=np.bool_),
        found.frame.reshape(pfns.shape)[readable, 0], words,
    )  # fmt: skip
    pages = StructPages(rows, expected, kind)
    violations.check(pages, rules)
    check.asked.update(rules)
    begins = words[first == head]
    if kind is PageKind.COMPOUND and len(begins):
        masks = holds_mask(begins[:, 1, vmemmap.page.compound // 8])
        check.masked = bool(check.masked) or bool(masks.any())
    return readable
