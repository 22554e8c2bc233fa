# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about the reference count of a pagemap, which says when it can go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..kernel.dev_pagemap import Pagemap, PhysicalRange
    from ..kernel.percpu_ref import References
    from ..vmemmap.layout import Geometry
    from .findings import Collector

__all__ = ("check_references", "idle_references")

# Types whose pages are free until their driver hands them out, each with a reference
# of its own: 27674ef6c73f ("mm: remove the extra ZONE_DEVICE struct page refcount")
# (in v5.18). Before, all pages had one from the start, and so they are not told apart.
_HANDED_OUT = ("private", "coherent")
# drivers/pci/p2pdma.c: pci_alloc_p2pmem() takes one for each allocation on top.
_WITH_USERS = ("p2pdma",)


def idle_references(
    pagemap: Pagemap, ranges: Sequence[PhysicalRange], order: int, geometry: Geometry
) -> int:
    """
    Count the references that ``mm/memremap.c: pagemap_range()`` takes: ``pfn_len()`` of each range.

    :param order: log2 of the base pages in a compound page
    """
    altmap = pagemap.altmap
    count = 0
    for number, one in enumerate(ranges):
        pages = one.size // geometry.page_size
        # Only a pagemap of one range can have an altmap.
        if altmap is not None and not number:
            pages -= altmap.reserve + altmap.free
        count += max(pages, 0) >> order
    return count


def check_references(
    pagemap: Pagemap,
    ranges: Sequence[PhysicalRange],
    order: int | None,
    references: References,
    geometry: Geometry,
    findings: Collector,
) -> None:
    """
    Check that a pagemap has as many references as it has pages.

    :param ranges: those of its ranges that can be gone by
    :param order: log2 of the base pages in a compound page, ``None`` where it can't be gone by
    """
    low, high = RULES["pagemap-ref-low"], RULES["pagemap-ref-high"]
    reason = references.reason
    if pagemap.changing:
        reason = "it is being set up or torn down"
    elif pagemap.type == "unknown":
        reason = "what its pages are references to depends on its type, which is unknown"
    elif pagemap.type in _HANDED_OUT:
        reason = f"pages of type {pagemap.type} have references while they are in use only"
    elif order is None:
        reason = "its vmemmap_shift makes no sense"
    elif len(ranges) != pagemap.nr_range:
        reason = "not all of its ranges are valid"
    if reason is not None or references.count is None or order is None:
        findings.skipped(reason or "its reference count could not be read", low, high)
        return
    expected = idle_references(pagemap, ranges, order, geometry)
    findings.checked(low)
    if references.count < expected:
        findings.add(
            low,
            f"the pagemap has {references.count} references, fewer than the {expected} of its"
            " pages: it is freed while they are in use",
            vaddr=pagemap.address,
            expected=expected,
            observed=references.count,
        )
    if pagemap.type in _WITH_USERS:
        findings.skipped("whoever uses its pages has references as well", high)
        return
    findings.checked(high)
    if references.count > expected:
        findings.add(
            high,
            f"the pagemap has {references.count} references, {references.count - expected} more"
            " than its pages account for: removing the device waits for them",
            vaddr=pagemap.address,
            expected=expected,
            observed=references.count,
        )
