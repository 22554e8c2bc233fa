# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules about contents, evaluated for the compound page of one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...columns import select
from ...rules.findings import Collector
from ...rules.page_rows import Expected, PageKind, Rows, StructPages
from ...rules.page_violations import PageViolations
from ...rules.struct_pages import COMPOUND_RULES
from ...vmemmap.struct_pages import read_struct_pages

if TYPE_CHECKING:
    from ...kernel.page_flags import FlagLayout
    from ...report.documents.page import Place
    from ...rules.findings import Finding
    from ...vmemmap.pagemaps import PagemapLayout
    from ...vmemmap.vmemmap import Vmemmap

__all__ = ("check_compound",)


def check_compound(
    pfn: int, place: Place, layout: PagemapLayout, vmemmap: Vmemmap, flags: FlagLayout
) -> tuple[Finding, ...]:
    """
    Check a page's compound page by the rules about contents, if it has one by its pagemap.

    What is read is the page of the vmemmap with the head, and the page's own.
    """
    geometry = vmemmap.geometry
    if place.head_pfn is None or geometry.compound_vpages(place.order) < 2:
        return ()
    # The head's row, and the page's own if it is another.
    row, last = geometry.row, (place.end + 1) // geometry.page_size
    first = np.array(sorted({place.head_pfn // row * row, pfn // row * row}))
    end = np.minimum(first + row, last)
    pfns = first[:, None] + np.arange(row)
    read = read_struct_pages(vmemmap, pfns.ravel())
    readable = (read.readable.reshape(pfns.shape) | (pfns >= end[:, None])).all(axis=1)
    words = read.data.view(vmemmap.word).astype(np.uint64, copy=False)
    head = np.full(len(first), place.head_pfn)
    shared = np.zeros(len(first), dtype=np.bool_)
    rows = Rows(
        head, first, first, first, end, shared, read.frame.reshape(pfns.shape)[:, 0],
        words.reshape(len(first), row, -1),
    )  # fmt: skip
    expected = Expected(layout.pagemap, vmemmap.page, geometry, flags)
    findings, violations = Collector(), PageViolations(expected, PageKind.COMPOUND)
    violations.check(
        StructPages(select(rows, readable), expected, PageKind.COMPOUND), COMPOUND_RULES
    )
    pages = int(np.count_nonzero(readable)) * row
    violations.report(findings, lambda _: (pages - int(readable[0]), pages))
    return findings.finish()
