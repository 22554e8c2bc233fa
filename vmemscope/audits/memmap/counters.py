# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel's counters should be, by the kernel's own arithmetic.

``nr_memmap_boot_pages`` has all of the memory map that was made at boot, less
what HugeTLB's optimization gave back of it (``mm/sparse.c: sparse_init_nid()``,
``mm/hugetlb_vmemmap.c: free_vmemmap_page()``). ``nr_memmap_pages`` has all that was
added since, wherever it lies, and the tables of ``page_ext``
(``mm/sparse-vmemmap.c: section_nr_vmemmap_pages()``, ``mm/page_ext.c:
alloc_page_ext()``). That is arithmetic on sizes, so it may differ from the frames
that are there; :func:`counted_pages` does the same arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...report.documents.memmap import Counter
from ...rules.sections import CounterFacts, memmap_counter

if TYPE_CHECKING:
    from ...kernel.mem_section import Sections
    from ...kernel.vmstat import Counters
    from ...rules.findings import Collector
    from ...vmemmap.layout import Geometry
    from ...vmemmap.schemes import Scheme

__all__ = ("check_counter", "counted_pages")


def counted_pages(
    first: int,
    end: int,
    order: int,
    geometry: Geometry,
    sections: Sections,
    scheme: Scheme | None,
) -> int:
    """
    Count what ``section_nr_vmemmap_pages()`` adds up to for one range.

    :param first: first page frame
    :param end: first page frame after it
    :param order: log2 of the pages in a compound page
    :param scheme: how tail pages share frames; ``None`` if not at all, and for kernels before
        6.12.101 and 7.2, which count everything as if they did not
    """
    pages = sections.pages
    # __add_pages() cuts at section boundaries.
    bounds = np.arange(first // pages + 1, -(-end // pages), dtype=np.int64) * pages
    start = np.concatenate(([first], bounds))
    count = np.concatenate((bounds, [end])) - start
    # Part of a section that was there at boot has its memory map already.
    at_boot = np.isin(start // pages, sections.number[sections.early])
    added = ~(at_boot & (count < pages))
    start, count = start[added], count[added]
    plain = -(-count * geometry.struct_page_size // geometry.page_size)
    if scheme is None or scheme.counted is None:
        return int(plain.sum())
    compound = 1 << order
    if compound < pages:
        counted = scheme.counted * count // compound
    else:
        counted = np.where(start % compound == 0, scheme.counted, 0)
    if scheme.by_section and sections.orders is not None:
        # VMEMMAP_OPTIMIZATION_PAGES, where the section has the order.
        shared = np.isin(start // pages, sections.number[sections.orders == np.uint64(order)])
        counted = np.where(shared & (count == pages), counted, plain)
    return int(counted.sum())


def check_counter(
    name: str,
    counters: Counters,
    expected: int | None,
    unshared: int | None,
    findings: Collector,
) -> Counter:
    """
    Compare a counter with what it should be.

    :param expected: what it should be, ``None`` if that is not known
    :param unshared: what it is in kernels that count as if nothing were shared
    """
    facts = CounterFacts(
        name,
        counters.boot if name == "nr_memmap_boot_pages" else counters.pages,
        expected,
        unshared,
        counters.addresses.get(name),
        unreadable=any(name in one.message for one in counters.damage),
    )
    findings.check(memmap_counter, facts)
    return Counter(name, facts.value, expected, facts.reason)
