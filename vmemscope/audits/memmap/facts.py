# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads and checks the memory map: first its structures, then its mappings."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...kernel.mem_section_usage import read_subsections
from ...kernel.vmstat import read_counters
from ...progress import counter
from ...rules.findings import Collector
from ...rules.ram_orders import RamOrders, ram_order
from ...rules.sections import (
    UNREAD_SECTIONS,
    LateFacts,
    LeakFacts,
    RequiredFacts,
    ValidFacts,
    section_map,
    section_stale,
    section_unmapped,
    section_usage,
    subsection_map,
    vmemmap_leak,
)
from ...spans import Spans, subtract, union
from ...vmemmap.tables import Kind
from .areas import Owners, cut
from .walk import walk_areas

if TYPE_CHECKING:
    from drgn import Program

    from ...machine import Kernel
    from ...progress import Progress

__all__ = ("MemmapFacts",)


class MemmapFacts:
    """What one pass reads, for its report."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.prog: Program = kernel.prog
        self.findings = Collector()
        self.unread: Counter[str] = Counter()

    def read(self) -> None:
        """Read the kernel's structures, and check the sections."""
        kernel, geometry, sections = self.kernel, self.kernel.geometry, self.kernel.sections
        self.vmemmap, self.layouts = kernel.vmemmap, kernel.layouts
        self.unread += kernel.unread
        for layout in self.layouts:
            for one in layout.pagemap.damage:
                self.unread[f"{one.message}, of {layout.label}"] += one.unreadable
        subsections = read_subsections(self.prog, sections, geometry.page_size)
        self.zones = kernel.zones
        self.counters = read_counters(self.prog)
        damage = (*subsections.damage, *kernel.zone_damage, *self.counters.damage)
        self.unread += Counter(one.message for one in damage)
        self.ranges = [one.frames for one in self.layouts]
        first = sections.number * sections.pages
        self.early, self.offline = (
            Spans.of(first[which], first[which] + sections.pages)
            for which in (sections.early, ~sections.online)
        )
        self.valid, self.unknown = subsections.valid, subsections.unknown
        self.present = union((self.valid, self.early, self.unknown))
        #: whether all pagemaps are known with all their ranges and their compound pages
        self.complete = (
            not kernel.unread
            and not kernel.pagemap_damage
            and not kernel.resource_damage
            and all(layout.complete for layout in self.layouts)
        )
        self.findings.check(section_map, sections, geometry)
        self.findings.check(section_usage, sections, geometry)
        self._check_validity()
        self.flags = kernel.flags

    def _check_validity(self) -> None:
        geometry, devices = self.vmemmap.geometry, union(self.ranges)
        if self.vmemmap.sections.damage:
            self.findings.skipped(UNREAD_SECTIONS, subsection_map, vmemmap_leak)
        else:
            facts = ValidFacts(devices, self.valid, self.unknown, geometry)
            self.findings.check(subsection_map, facts)
        if self.complete:
            owned = union((devices, self.vmemmap.ram.frames))
            late = subtract(self.valid, self.early)
            self.findings.check(section_stale, LateFacts(late, owned, geometry))
        else:
            self.findings.skipped(
                "not all pagemaps, or not all of their ranges, are known",
                section_stale,
            )

    def walk(self, progress: Progress | None) -> None:
        """Walk the vmemmap, and compare what is mapped with what is described."""
        geometry = self.vmemmap.geometry
        #: first vpage after the vmemmap
        self.end = self.kernel.vmemmap_end
        self.owners = Owners(self.kernel.ram_zones, self.ranges)
        self.areas = cut(
            self.end,
            self.present,
            self.early,
            self.offline,
            self.owners,
            self.vmemmap,
            self.flags,
            self.unread,
        )
        described = self._vpages(self.present)
        step = counter(progress, described.total)
        reserved = self.kernel.page.pg_reserved
        devices = len(self.owners.zones)
        self.walked = walk_areas(
            self.vmemmap,
            self.areas,
            described,
            self.end,
            reserved,
            devices,
            self.kernel.ram_tails,
            step,
        )
        if self.walked.unread.total:
            self.unread["pages of vmemmap whose page tables are missing"] += (
                self.walked.unread.total
            )
        unread = sum(counts.unread_frames for counts in self.walked.by_owner.values())
        self.unread["struct pages of the memory map's own frames"] += unread
        self.leaked = Spans.of([], [])
        if not self.vmemmap.sections.damage:
            self.leaked = subtract(subtract(self.walked.mapped, self.walked.needed), described)
            self.findings.check(vmemmap_leak, LeakFacts(self.leaked, self._frame_at, geometry))
        if self.vmemmap.sections.orders is not None:
            orders = RamOrders(self.vmemmap.sections, union(self.ranges), self._large(), geometry)
            self.findings.check(ram_order, orders)
        required = self._vpages(union((self.valid, self.early)))
        facts = RequiredFacts(required, self.walked.mapped, self.walked.unread, geometry)
        self.findings.check(section_unmapped, facts)

    def _large(self) -> Spans:
        """Return the vpages that large leaves map; none where one may map several sections'."""
        size = self.vmemmap.sections.pages * self.vmemmap.geometry.struct_page_size
        several = size < 1 << self.vmemmap.table.levels[-2].shift
        return Spans.of([], []) if several else self.walked.needed

    def _vpages(self, frames: Spans) -> Spans:
        """Return the vpages that describe page frames."""
        size, page_size = self.vmemmap.geometry.struct_page_size, self.vmemmap.geometry.page_size
        return Spans.of(frames.start * size // page_size, -(-frames.end * size // page_size))

    def _frame_at(self, vpage: int) -> int | None:
        pfn, kind = self.vmemmap.frames_of(np.array([vpage], dtype=np.int64))
        return int(pfn[0]) if kind[0] == Kind.MAPPED else None
