# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about sections: what they say is valid, and what of the vmemmap is mapped.

All are over whole sets of page frames or vpages (:mod:`~vmemscope.spans`); what
could not be read is in none of the sets that a rule needs, so it breaks none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..spans import subtract
from ..text import binary_size
from . import RULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..kernel.mem_section import Sections
    from ..spans import Spans
    from ..vmemmap.layout import Geometry
    from .findings import Collector

__all__ = (
    "check_leaks",
    "check_mapped",
    "check_section_maps",
    "check_stale",
    "check_subsections",
    "check_usage",
)


def check_section_maps(sections: Sections, geometry: Geometry, findings: Collector) -> None:
    """Check that all sections have their memory map in the one vmemmap."""
    rule = RULES["section-map"]
    findings.checked(rule)
    index = np.flatnonzero(sections.has_map & (sections.bases != np.uint64(sections.vmemmap)))
    told = index[: findings.room(rule)]
    for i in told.tolist():
        findings.add(
            rule,
            f"section {int(sections.number[i])} has its memory map elsewhere than the rest",
            vaddr=geometry.page_address(int(sections.number[i]) * sections.pages),
            expected=f"{sections.vmemmap:#x}",
            observed=f"{int(sections.bases[i]):#x}",
        )
    findings.add_uncounted(rule, len(index) - len(told))


def check_usage(sections: Sections, geometry: Geometry, findings: Collector) -> None:
    """Check that each section with a memory map says which subsections are valid."""
    rule = RULES["section-usage"]
    findings.checked(rule)
    index = np.flatnonzero(sections.has_map & (sections.usage == 0))
    told = index[: findings.room(rule)]
    for i in told.tolist():
        findings.add(
            rule,
            f"section {int(sections.number[i])} has a memory map, but no usage",
            vaddr=geometry.page_address(int(sections.number[i]) * sections.pages),
            expected="a struct mem_section_usage",
            observed="null",
        )
    findings.add_uncounted(rule, len(index) - len(told))


def check_subsections(
    ranges: Spans, valid: Spans, unknown: Spans, geometry: Geometry, findings: Collector
) -> None:
    """
    Check that the page frames of a pagemap are valid.

    :param ranges: page frames of the pagemap
    :param valid: page frames of valid subsections
    :param unknown: page frames of sections that can't be told anything of
    """
    rule = RULES["subsection-map"]
    known = subtract(ranges, unknown)
    if known.total or not ranges.total:
        findings.checked(rule)
    if known.total < ranges.total:
        findings.skipped("sections whose usage could not be read, or is not there", rule)
    for start, end in subtract(known, valid).pairs():
        findings.add(
            rule,
            f"{_memory(end - start, geometry)} of the pagemap, from pfn {start:#x}, is not valid:"
            " pfn_valid() denies its struct pages",
            vaddr=geometry.page_address(start),
            expected="valid subsections",
            observed="not in subsection_map",
        )


def check_stale(late: Spans, owned: Spans, geometry: Geometry, findings: Collector) -> None:
    """
    Check that what became valid after boot is somebody's.

    :param late: page frames of valid subsections in sections that were not there at boot
    :param owned: page frames of pagemaps and of System RAM
    """
    rule = RULES["section-stale"]
    findings.checked(rule)
    for start, end in subtract(late, owned).pairs():
        findings.add(
            rule,
            f"{_memory(end - start, geometry)} from pfn {start:#x} is valid, but neither System"
            " RAM nor in a pagemap",
            vaddr=geometry.page_address(start),
            expected="not valid",
            observed="in subsection_map",
        )


def check_leaks(
    mapped: Spans,
    described: Spans,
    frame_at: Callable[[int], int | None],
    geometry: Geometry,
    findings: Collector,
) -> Spans:
    """
    Check that no part of the vmemmap is mapped that describes nothing.

    :param mapped: vpages that are mapped, those of large leaves left out that
        describe something somewhere
    :param described: vpages that present sections need
    :param frame_at: gives the frame behind a vpage
    :return: vpages that are mapped in vain
    """
    rule = RULES["vmemmap-leak"]
    findings.checked(rule)
    leaked = subtract(mapped, described)
    for start, end in leaked.pairs():
        if not findings.room(rule):
            findings.add_uncounted(rule, 1)
            continue
        findings.add(
            rule,
            f"{_pages(end - start)} of the vmemmap mapped where no section is valid: memory that"
            " is never given back",
            vaddr=geometry.address(start),
            pfn=frame_at(start),
            expected="not mapped",
            observed="mapped",
        )
    return leaked


def check_mapped(
    described: Spans, mapped: Spans, unread: Spans, geometry: Geometry, findings: Collector
) -> None:
    """
    Check that the memory map of present sections is mapped.

    :param described: vpages that present sections need
    :param mapped: vpages that are mapped
    :param unread: vpages whose page tables could not be read
    """
    rule = RULES["section-unmapped"]
    findings.checked(rule)
    if unread.total:
        findings.skipped("page tables that could not be read", rule)
    for start, end in subtract(subtract(described, mapped), unread).pairs():
        findings.add(
            rule,
            f"{_pages(end - start)} of the vmemmap not mapped though the section is valid:"
            " to touch the struct pages there is a crash",
            vaddr=geometry.address(start),
            expected="mapped",
            observed="not mapped",
        )


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


def _memory(frames: int, geometry: Geometry) -> str:
    return binary_size(frames * geometry.page_size)
