# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rule about the orders of sections of RAM.

The coming kernel populates sections for compound pages of an order. In RAM it does that only
at boot, for huge pages that are at least as large as a section.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .rule import Scope, Severity, Violations, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernel.mem_section import Sections
    from ..spans import Spans
    from ..vmemmap.layout import Geometry

__all__ = ("RamOrders", "ram_order")

#: log2 of the pages in the largest compound page: 16 GiB of base pages
_MOST = 22


class RamOrders(NamedTuple):
    """The sections, and what large leaves map of their memory map."""

    sections: Sections
    #: page frames of pagemaps
    devices: Spans
    #: vpages that large leaves map, none where such a leaf may map several sections' memory map
    large: Spans
    geometry: Geometry


@rule(
    "ram-order",
    Severity.ERROR,
    holds="a section of RAM with an order is from boot, no larger than its compound pages, and"
    " mapped by base pages",
    source="mm/sparse-vmemmap.c: section_activate(), vmemmap_populate_hugepages()",
    schemes=("hugetlb-section",),
    scope=Scope.MEMORY_MAP,
    meaning="The order in struct mem_section says that the section's memory map was populated for"
    " compound pages of that order: in RAM, for huge pages that were reserved at boot. It stays"
    " when they are freed. The kernel goes by it when it takes the memory map down and counts what"
    " it gave back, and it refuses to add a part of such a section. Here the order was never set"
    " so, or it was left from what was there before.",
    look_at="The struct mem_section: all of it overwritten, or the order alone. In memory that was"
    " added after boot, an order is that of a device which was there before: section_deactivate()"
    " should have cleared it.",
)
def ram_order(facts: RamOrders) -> Iterator[Violations]:
    sections = facts.sections
    if sections.orders is None:
        return
    first = sections.number * sections.pages
    ram = ~facts.devices.touches(first, first + sections.pages) & (sections.orders != 0)
    late = ram & sections.online & ~sections.early
    yield _wrong(facts, late, "but was added after boot", "0")
    ram &= sections.early
    least = sections.pages.bit_length() - 1
    sound = (sections.orders >= np.uint64(least)) & (sections.orders <= np.uint64(_MOST))
    yield _wrong(
        facts,
        ram & ~sound,
        "but no huge page of that order fills a section",
        (f"0, or {least} to {_MOST}"),
    )
    start, end = (
        pfn * facts.geometry.struct_page_size // facts.geometry.page_size
        for pfn in (first, first + sections.pages)
    )
    large = facts.large.touches(start, end)
    yield _wrong(facts, ram & sound & large, "but its memory map has large leaves", "0")


def _wrong(facts: RamOrders, where: NDArray[np.bool_], why: str, expected: str) -> Violations:
    """Return violations of sections."""
    sections = facts.sections

    def order(row: int) -> int:
        return 0 if sections.orders is None else int(sections.orders[row])

    return Violations(
        where,
        lambda row: (
            f"section {sections.number[row]} is populated for compound pages of order"
            f" {order(row)}, {why}"
        ),
        vaddr=lambda row: facts.geometry.page_address(int(sections.number[row]) * sections.pages),
        expected=expected,
        observed=order,
    )
