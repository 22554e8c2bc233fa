# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about a pagemap itself: its ranges, its shift, its entries in ``pgmap_array``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..kernel.dev_pagemap import MAX_RANGES
from ..text import binary_size
from . import RULES

if TYPE_CHECKING:
    from ..kernel.dev_pagemap import Pagemap, PhysicalRange
    from ..kernel.mem_section import Sections
    from ..vmemmap.layout import Geometry
    from .findings import Collector

__all__ = (
    "check_entries",
    "check_mask_alignment",
    "check_overlaps",
    "check_section_alignment",
    "check_shift",
    "valid_ranges",
)

# include/linux/mmzone.h: SUBSECTION_SHIFT, the same on every architecture
SUBSECTION_SIZE = 1 << 21


def valid_ranges(
    pagemap: Pagemap, max_physmem_bits: int, findings: Collector
) -> list[PhysicalRange]:
    """Check the ranges of a pagemap; return those that can be looked at."""
    rule = RULES["nr-range"]
    unreadable = _unreadable(pagemap)
    if unreadable:
        findings.skipped(unreadable, rule)
    else:
        findings.checked(rule)
    if not 0 < pagemap.nr_range <= MAX_RANGES and not unreadable:
        findings.add(
            rule,
            f"the pagemap has {pagemap.nr_range} ranges; only the first is looked at",
            vaddr=pagemap.address,
            expected=f"1 to {MAX_RANGES}",
            observed=pagemap.nr_range,
        )
    rule = RULES["range-invalid"]
    if pagemap.ranges:
        findings.checked(rule)
    else:
        findings.skipped(unreadable or "it has no ranges", rule)
    valid = []
    for index, one in enumerate(pagemap.ranges):
        problem = _problem(one, max_physmem_bits)
        if problem is None:
            valid.append(one)
            continue
        findings.add(
            rule,
            f"range {index} {problem}; it is not looked at",
            vaddr=pagemap.address,
            expected="whole subsections of 2 MiB",
            observed=f"{one.start:#x}-{one.end:#x}",
        )
    return valid


def _unreadable(pagemap: Pagemap) -> str | None:
    """Say what of a pagemap could not be read, ``None`` if all could."""
    return next((one.message for one in pagemap.damage if one.unreadable), None)


def _problem(one: PhysicalRange, max_physmem_bits: int) -> str | None:
    if one.end < one.start:
        return "ends before it starts"
    if one.end >> max_physmem_bits:
        return f"lies outside of {max_physmem_bits} bits of physical address space"
    if one.start % SUBSECTION_SIZE or (one.end + 1) % SUBSECTION_SIZE:
        return "does not start and end on a subsection boundary"
    return None


def check_shift(
    pagemap: Pagemap, ranges: Sequence[PhysicalRange], geometry: Geometry, findings: Collector
) -> bool:
    """Check that a compound page fits the pagemap; return whether it can be gone by."""
    rule = RULES["vmemmap-shift"]
    shift = pagemap.vmemmap_shift
    if shift is None:
        older = "pagemaps of this kernel have no vmemmap_shift (before 5.17)"
        findings.skipped(_unreadable(pagemap) or older, rule)
        return True
    if 0 < shift < 64 and not ranges:
        findings.skipped("it has no valid range", rule)
        return True
    findings.checked(rule)
    if not shift or (shift < 64 and geometry.page_size << shift <= max(r.size for r in ranges)):
        return True
    findings.add(
        rule,
        "the pagemap's compound pages are larger than its ranges",
        vaddr=pagemap.address,
        expected="a compound page no larger than the largest range",
        observed=shift,
    )
    return False


def check_overlaps(
    ranges: Sequence[tuple[PhysicalRange, Pagemap]], findings: dict[int, Collector]
) -> None:
    """
    Check that no two ranges overlap.

    :param findings: address of a pagemap to what is found of it
    """
    rule = RULES["range-overlap"]
    looked_at = {pagemap.address for _, pagemap in ranges}
    for address, collector in findings.items():
        if address in looked_at:
            collector.checked(rule)
        else:
            collector.skipped("it has no valid range", rule)
    furthest: tuple[PhysicalRange, Pagemap] | None = None
    for one, pagemap in sorted(ranges, key=lambda r: (r[0].start, r[0].end)):
        if furthest is not None and one.start <= furthest[0].end:
            findings[pagemap.address].add(
                rule,
                f"range {one.start:#x}-{one.end:#x} overlaps {furthest[0].start:#x}-"
                f"{furthest[0].end:#x} of the pagemap at {furthest[1].address:#x}",
                vaddr=pagemap.address,
                expected=f"start after {furthest[0].end:#x}",
                observed=f"{one.start:#x}",
            )
        if furthest is None or one.end > furthest[0].end:
            furthest = (one, pagemap)


def check_entries(
    pagemap: Pagemap, ranges: Sequence[PhysicalRange], geometry: Geometry, findings: Collector
) -> list[PhysicalRange]:
    """
    Check that the entries of ``pgmap_array`` are the frames of the ranges.

    :return: the ranges that are there in full
    """
    rule = RULES["xarray"]
    findings.checked(rule)
    spanned = dict.fromkeys(ranges, 0)
    for entry in pagemap.entries:
        start = entry.first * geometry.page_size
        last = (entry.first + entry.span) * geometry.page_size - 1
        for one in ranges:
            if one.start <= start and last <= one.end:
                spanned[one] += entry.span
                break
        else:
            findings.add(
                rule,
                f"pgmap_array has the pagemap at {start:#x}-{last:#x}, which is in none of its"
                " ranges",
                vaddr=pagemap.address,
                pfn=entry.first,
                expected="frames of the pagemap's ranges",
                observed=f"{start:#x}-{last:#x}",
            )
    for one, frames in spanned.items():
        if frames != one.size // geometry.page_size:
            findings.add(
                rule,
                f"pgmap_array has {frames} frames of range {one.start:#x}-{one.end:#x};"
                " it is not looked at",
                vaddr=pagemap.address,
                expected=one.size // geometry.page_size,
                observed=frames,
            )
    return [one for one, frames in spanned.items() if frames == one.size // geometry.page_size]


def check_section_alignment(
    pagemap: Pagemap,
    ranges: Sequence[PhysicalRange],
    sections: Sections,
    geometry: Geometry,
    findings: Collector,
) -> None:
    """Check that ranges of compound pages larger than a section start where they can be built."""
    rule = RULES["section-alignment"]
    if not pagemap.vmemmap_shift or 1 << pagemap.vmemmap_shift <= sections.pages:
        findings.skipped("no compound pages larger than a section", rule)
        return
    findings.checked(rule)
    for one in ranges:
        first, pages = one.start // geometry.page_size, one.size // geometry.page_size
        into = first % sections.pages
        vpages = geometry.vpage(pages)
        if into and sections.is_early(first // sections.pages):
            early = min(geometry.vpage(sections.pages - into), vpages)
            if early == vpages:
                continue
            where = "inside a section that was there at boot"
            lost, where_to = vpages - early, "a wrong frame (as a rule frame 0)"
        elif into and into + pages > sections.pages:
            where = "off a section boundary"
            lost, where_to = vpages - 1, "one frame (among them all heads but the first)"
        else:
            continue
        size = binary_size(geometry.page_size << pagemap.vmemmap_shift)
        findings.add(
            rule,
            f"range {one.start:#x}-{one.end:#x} of compound pages of {size} starts {where}: this"
            f" kernel maps {lost} of the {vpages} pages of its memory map to {where_to}, so that"
            " mapping the device fails (SIGBUS), or I/O to it hangs; make it anew at a multiple"
            f" of {size}, or with smaller pages",
            vaddr=geometry.page_address(first),
            expected=f"a multiple of {sections.pages * geometry.page_size:#x}",
            observed=f"{one.start:#x}",
        )


def check_mask_alignment(
    pagemap: Pagemap,
    heads: Sequence[int],
    has_mask: bool | None,
    geometry: Geometry,
    findings: Collector,
) -> None:
    """
    Check that compound pages are aligned, which matters where tail pages hold a mask.

    :param heads: page frame of the first compound page of each range
    :param has_mask: whether tail pages hold a mask, ``None`` if none could be read
    """
    rule, other = RULES["mask-alignment"], RULES["compound-alignment"]
    if has_mask is None:
        findings.skipped("no tail page could be read", rule, other)
        return
    if has_mask:
        findings.skipped("tail pages of this kernel hold a mask", other)
        consequence = (
            "with this kernel every tail page resolves to a wrong head, so that mapping the device"
            " fails (SIGBUS)"
        )
    else:
        findings.skipped("tail pages of this kernel point to their head", rule)
        rule = other
        consequence = (
            "of no consequence with this kernel, but from 7.1 on mapping the device fails (SIGBUS)"
        )
    findings.checked(rule)
    size = 1 << (pagemap.vmemmap_shift or 0)
    for head in heads:
        if head % size:
            findings.add(
                rule,
                f"compound pages of {binary_size(geometry.page_size * size)} are laid out from"
                f" {head * geometry.page_size:#x}, which is not aligned to their size:"
                f" {consequence}; make it anew at a multiple of"
                f" {binary_size(geometry.page_size * size)}, or with smaller pages",
                vaddr=geometry.page_address(head),
                expected=f"a multiple of {geometry.page_size * size:#x}",
                observed=f"{head * geometry.page_size:#x}",
            )
