# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel's own structures say of pagemaps, compared with each other.

``pgmap_array``, the resource tree, each ``struct dev_pagemap`` and its ``percpu_ref``, the
subsections of its frames, and the top-level page-table entries that processes have copies of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...kernel.dev_pagemap import MAX_RANGES
from ...kernel.mem_section_usage import read_subsections
from ...kernel.percpu_ref import read_references
from ...kernel.task import read_address_spaces
from ...rules.alignment import section_alignment
from ...rules.pagemap import (
    ReferenceFacts,
    nr_range,
    overlaps_of,
    pagemap_ref_high,
    pagemap_ref_low,
    range_invalid,
    range_overlap,
    vmemmap_shift,
)
from ...rules.sections import UNREAD_SECTIONS, ValidFacts, subsection_map
from ...rules.target import CopyFacts, kernel_entries, resource_tree, xarray
from ...spans import union
from ...target.reads import READ_ERRORS
from .audited import AuditedPagemap

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence

    from drgn import Program
    from numpy.typing import NDArray

    from ...kernel.task import AddressSpace
    from ...machine import Kernel
    from ...rules.findings import Collector
    from ...vmemmap.vmemmap import Vmemmap

    _Entries = NDArray[np.uint64]

#: why there are no pagemaps
NO_ZONE_DEVICE = "this kernel can't have any (CONFIG_ZONE_DEVICE is off)"

__all__ = ("NO_ZONE_DEVICE", "check_entries_of_processes", "read_pagemaps")


def read_pagemaps(
    kernel: Kernel, findings: Collector, unread: Counter[str]
) -> list[AuditedPagemap]:
    """Check the kernel's structures, in order of the pagemaps' first page frames."""
    geometry, layouts = kernel.geometry, kernel.layouts
    if kernel.zone_device:
        findings.check(xarray, kernel.pagemap_damage)
    else:
        findings.skipped(NO_ZONE_DEVICE, xarray)
    findings.check(resource_tree, kernel.resource_damage)
    unread += kernel.unread
    overlaps = overlaps_of((one, layout.pagemap) for layout in layouts for one in layout.valid)
    pagemaps = [AuditedPagemap(layout) for layout in layouts]
    for audited in pagemaps:
        layout, pagemap, findings = audited.layout, audited.pagemap, audited.findings
        audited.not_read.update(b.message for b in pagemap.damage if b.unreadable)
        findings.check(nr_range, pagemap, MAX_RANGES)
        findings.check(range_invalid, pagemap, kernel.physmem_bits)
        findings.check(range_overlap, pagemap, layout.valid, overlaps.get(pagemap.address, ()))
        findings.check(xarray, layout.entries)
        findings.check(vmemmap_shift, pagemap, layout.ranges, geometry.page_size)
        if layout.dedup.expected and geometry.arch.aligns_compounds:
            reason = f"{geometry.arch.name} lays compound pages out by their address"
            findings.skipped(reason, section_alignment)
        elif layout.dedup.expected:
            findings.check(
                section_alignment,
                pagemap,
                layout.ranges,
                kernel.sections,
                geometry,
                layout.dedup.scheme,
            )
        else:
            reason = audited.no_compounds or layout.dedup.reason or "it is not deduplicated"
            findings.skipped(reason, section_alignment)
        references = read_references(kernel.prog, pagemap.address)
        audited.not_read["reference counts of the pagemap itself"] += references.unreadable
        facts = ReferenceFacts(
            pagemap,
            layout.ranges,
            audited.order if audited.shift_sound else None,
            references,
            geometry.page_size,
        )
        findings.check(pagemap_ref_low, facts)
        findings.check(pagemap_ref_high, facts)
    _check_validity(kernel, pagemaps, unread)
    return pagemaps


def _check_validity(
    kernel: Kernel, pagemaps: Sequence[AuditedPagemap], unread: Counter[str]
) -> None:
    """Check the subsections of all pagemaps."""
    sections, geometry = kernel.sections, kernel.geometry
    if sections.damage:
        for audited in pagemaps:
            audited.findings.skipped(UNREAD_SECTIONS, subsection_map)
        return
    ranges = [audited.layout.frames for audited in pagemaps]
    first = sections.number * sections.pages
    described = union(ranges).touches(first, first + sections.pages)
    found = read_subsections(kernel.prog, sections, geometry.page_size, described)
    for one in found.damage:
        unread[one.message] += 1
    for audited, frames in zip(pagemaps, ranges, strict=True):
        facts = ValidFacts(frames, found.valid, found.unknown, geometry)
        audited.findings.check(subsection_map, facts)


def check_entries_of_processes(
    prog: Program, vmemmap: Vmemmap, frames: int, changing: bool, findings: Collector
) -> None:
    """
    Check that processes have the kernel's top-level entries for the vmemmap.

    :param frames: page frames that there can be
    :param changing: whether a device is being set up or torn down: entries are
        copied after they were made
    """
    geometry, table = vmemmap.geometry, vmemmap.table
    if not geometry.arch.copies_kernel_entries:
        findings.skipped("processes have no copies of the kernel's entries", kernel_entries)
        return
    if changing:
        findings.skipped("a device is being set up or torn down", kernel_entries)
        return
    top = table.levels[0]
    first = geometry.address(geometry.start) >> top.shift
    count = min(max((geometry.end(frames) - 1 >> top.shift) - first + 1, 1), top.entries)
    offset = first % top.entries * np.dtype(table.dtype).itemsize
    own = _entries(prog, table.root + offset, count, table.dtype, physical=True)
    if own is None:
        findings.skipped("the kernel's own page table could not be read", kernel_entries)
        return

    def copies(spaces: Iterable[AddressSpace]) -> Iterator[tuple[AddressSpace, _Entries | None]]:
        for space in spaces:
            yield space, _entries(prog, space.pgd + offset, count, table.dtype)

    spaces = read_address_spaces(prog)
    facts = CopyFacts(table, geometry.vmemmap, own, copies(spaces.found), spaces.missed)
    findings.check(kernel_entries, facts)


def _entries(
    prog: Program, address: int, count: int, dtype: str, physical: bool = False
) -> NDArray[np.uint64] | None:
    """Read entries of a table; ``None`` if that can't be done."""
    try:
        raw = prog.read(address, count * np.dtype(dtype).itemsize, physical)
    except READ_ERRORS:
        return None
    return np.frombuffer(raw, dtype).astype(np.uint64)
