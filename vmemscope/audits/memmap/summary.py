# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report of a memory map audit: areas, totals, counters, explanations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from ...kernel.pglist_data import DEVICE
from ...kernel.vmstat import read_page_ext_size
from ...report.documents.common import DeviceTails, SharedPages, TargetInfo
from ...report.documents.memmap import Area, Leak, MemmapReport, MemmapSummary, WalkedVmemmap
from ...rules import rules_of
from ...rules.rule import Scope
from ...spans import Spans, intersection, union
from ...vmemmap.layout import first_compound
from ...vmemmap.schemes import HUGETLB_SECTION
from ...vmemmap.shared_pages import by_pagemap
from ...vmemmap.struct_pages import read_struct_pages
from .areas import NOTHING, OFFLINE, UNKNOWN
from .counters import check_counter, counted_pages
from .walk import OwnerCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msgspec import UnsetType

    from ...report.documents.memmap import Counter
    from ...vmemmap.pagemaps import PagemapLayout
    from ...vmemmap.schemes import Scheme
    from .facts import MemmapFacts

__all__ = ("summarise",)

#: leaks listed at the most
_MAX_LEAKS = 64


def summarise(facts: MemmapFacts) -> MemmapReport:
    """Return the report of one pass."""
    geometry = facts.vmemmap.geometry
    added = _added(facts)
    counters = _counters(facts, added)
    # A kernel that counts as if nothing were shared: compare each area with that count.
    unshared = counters[0].value is not None and counters[0].value != counters[0].expected
    areas = _areas(facts, [whole if unshared else part for part, whole in added])
    everything = union(one for t in facts.walked.by_owner.values() for one in t.frames)
    mapped = facts.walked.mapped.total
    device, elsewhere = _places(facts, everything)
    totals = MemmapSummary(
        pages=sum(one.pages for one in areas),
        mapped=mapped,
        unmapped=sum(one.unmapped for one in areas),
        unreadable=sum(one.unreadable for one in areas),
        frames=everything.total,
        device_frames=_device_frames(facts, areas),
        frames_on_device=device,
        frames_elsewhere=elsewhere,
        frame_bytes=everything.total * geometry.page_size,
        saved_bytes=(mapped - everything.total) * geometry.page_size,
        not_read=tuple(f"{what}: {n}" for what, n in sorted(facts.unread.items()) if n),
    )
    if counters[0].value is None:
        areas = tuple(replace(one, counted=None, note=None) for one in areas)
    report = MemmapReport(
        target=TargetInfo.about(facts.kernel),
        vmemmap=WalkedVmemmap(
            start=geometry.vmemmap,
            end=geometry.address(facts.end),
            sections=len(facts.vmemmap.sections.number),
        ),
        areas=areas,
        device_tails=_device_tails(facts) or UNSET,
        summary=totals,
        leaks=tuple(
            Leak(geometry.address(start), end - start)
            for start, end in facts.leaked.pairs()[:_MAX_LEAKS]
        ),
        counters=counters,
        explanation=tuple(_explain(areas, totals, counters, _page_ext_frames(facts))),
        findings=facts.findings.finish(),
        outcomes=facts.findings.outcomes(
            rules_of(Scope.MEMORY_MAP, facts.kernel.arch.name, _scheme(facts))
        ),
    )
    return report.changed()


def _device_frames(facts: MemmapFacts, areas: Sequence[Area]) -> int | UnsetType:
    """Count the frames behind the memory map of devices; unset if no two have the same."""
    total = union(
        one
        for owner, counts in facts.walked.by_owner.items()
        if owner >= len(facts.owners.zones)
        for one in counts.frames
    ).total
    several = sum(area.frames for area in areas if area.kind == "pagemap")
    return UNSET if total == several else total


def _device_tails(facts: MemmapFacts) -> tuple[DeviceTails, ...]:
    """Return the frames of tail pages that devices share."""
    distinct = {id(one): one for one in facts.kernel.shared_tails.values()}
    return tuple(
        DeviceTails(
            node=one.nid, order=one.order, pfn=one.pfn, pagemaps=tuple(one.pagemaps.values())
        )
        for one in distinct.values()
    )


def _added(facts: MemmapFacts) -> list[tuple[int, int]]:
    """
    Count what the kernel counts for each pagemap that was added after boot.

    :return: for each, by kernels that know of sharing, and by those that do not
    """
    geometry, sections = facts.vmemmap.geometry, facts.vmemmap.sections
    counts = []
    for i, (layout, frames) in enumerate(zip(facts.layouts, facts.ranges, strict=True)):
        part, whole = (
            sum(
                counted_pages(*one, layout.order, geometry, sections, how) for one in frames.pairs()
            )
            for how in (_scheme_of(facts, i), None)
        )
        counts.append((part, whole))
    return counts


def _scheme_of(facts: MemmapFacts, number: int) -> Scheme | None:
    """Return how a pagemap's tail pages share frames; what is found decides where it must."""
    dedup = facts.layouts[number].dedup
    if dedup.expected is not None:
        return dedup.applied
    counts = facts.walked.by_owner.get(len(facts.owners.zones) + number, OwnerCounts())
    return dedup.scheme if union(counts.frames).total < counts.mapped else None


def _rounded_up(facts: MemmapFacts, owner: int, *, early: bool) -> int:
    """
    Count what the kernel counts too much of an owner's sections.

    It counts whole pages of ``struct page``s for each section, which can be smaller than that
    (ppc64 with pages of 64 KiB; ``mm/sparse.c: sparse_init_nid()``,
    ``mm/sparse-vmemmap.c: __populate_section_memmap()``).

    :param early: whether to count sections from boot, or those added later
    """
    geometry, areas = facts.vmemmap.geometry, facts.areas
    pages = facts.vmemmap.sections.pages
    size = pages * geometry.struct_page_size
    if not size % geometry.page_size:
        return 0
    mine = (areas.owner == owner) & (areas.early == early)
    # A section from boot is described as a whole: it counts with what it starts with.
    first, after = areas.frame[mine], areas.frame[mine] + areas.described[mine]
    sections = -(-after // pages) - -(-first // pages)
    counted = int(sections.sum()) * -(-size // geometry.page_size)
    return counted - int((areas.end - areas.start)[mine].sum())


def _page_ext_frames(facts: MemmapFacts) -> int:
    """Count the frames of the tables of ``page_ext``, one for each section that has any."""
    sections, page_size = facts.vmemmap.sections, facts.vmemmap.geometry.page_size
    tables = int(np.count_nonzero(sections.page_ext))
    if not tables:
        return 0
    return tables * -(-read_page_ext_size(facts.prog) * sections.pages // page_size)


def _counters(facts: MemmapFacts, added: Sequence[tuple[int, int]]) -> tuple[Counter, Counter]:
    # An owner all of whose struct pages are in a page of another has no pages of its own.
    owners = {*facts.walked.by_owner, *facts.areas.owner.tolist()} - {NOTHING}
    by_owner = {owner: facts.walked.by_owner.get(owner, OwnerCounts()) for owner in owners}
    zones = len(facts.owners.zones)
    known = (
        facts.complete
        and not facts.walked.unread.total
        and not any(counts.unread_frames for counts in by_owner.values())
    )
    boot = sum(
        counts.boot + _rounded_up(facts, owner, early=True) for owner, counts in by_owner.items()
    )
    run = (
        sum(counts.replaced for counts in by_owner.values())
        + sum(
            counts.late + _rounded_up(facts, owner, early=False)
            for owner, counts in by_owner.items()
            if owner < zones
        )
        + _page_ext_frames(facts)
    )
    part, whole = (run + sum(count) for count in zip((0, 0), *added, strict=True))

    def check(name: str, expected: int, unshared: int | None) -> Counter:
        if not known:
            return check_counter(name, facts.counters, None, None, facts.findings)
        return check_counter(name, facts.counters, expected, unshared, facts.findings)

    return check("nr_memmap_pages", part, whole), check("nr_memmap_boot_pages", boot, None)


def _scheme(facts: MemmapFacts) -> str | None:
    """Return the way in which huge pages share that only some rules are about."""
    return HUGETLB_SECTION.id if facts.vmemmap.sections.orders is not None else None


def _places(facts: MemmapFacts, frames: Spans) -> tuple[int, int]:
    """Count the frames that are on devices, and those that are neither there nor in RAM."""
    ram = facts.vmemmap.ram.frames
    device = intersection(frames, union(facts.ranges))
    on_device = device.total - intersection(device, ram).total
    return on_device, frames.total - intersection(frames, ram).total - on_device


def _areas(facts: MemmapFacts, added: Sequence[int]) -> tuple[Area, ...]:
    zones, page_size = facts.owners.zones, facts.vmemmap.geometry.page_size
    numbers = [*range(len(zones) + len(facts.layouts)), OFFLINE, UNKNOWN, NOTHING]
    shared = by_pagemap(facts.kernel.shared_pages)
    found = []
    for owner in numbers:
        mine = facts.areas.owner == owner
        counts = facts.walked.by_owner.get(owner, OwnerCounts())
        if owner < 0 and not (counts.mapped if owner == NOTHING else mine.any()):
            continue
        frames = union(counts.frames)
        device, elsewhere = _places(facts, frames)
        pages = int((facts.areas.end - facts.areas.start)[mine].sum())
        unreadable = counts.unreadable
        if owner == NOTHING:
            # What describes nothing has no pages that should be there.
            pages, unreadable = counts.mapped, 0
        area = Area(
            kind="unknown",
            name=None,
            pgmap=None,
            node=None,
            zone=None,
            described_bytes=int(facts.areas.described[mine].sum()) * page_size,
            pages=pages,
            mapped=counts.mapped,
            unmapped=pages - counts.mapped - unreadable,
            unreadable=unreadable,
            leaf_pages={
                page_size << order: count for order, count in sorted(counts.by_order.items())
            },
            read_only=counts.read_only,
            frames=frames.total,
            frames_on_device=device,
            frames_elsewhere=elsewhere,
            frames_self_hosted=union(counts.itself).total,
            saved_bytes=(counts.mapped - frames.total) * page_size,
            deduplicated=frames.total < counts.mapped,
            counted=None,
            note=None,
        )
        counted = counts.boot + counts.replaced + _rounded_up(facts, owner, early=True)
        if owner == NOTHING:
            found.append(replace(area, kind="nothing"))
            continue
        if owner == OFFLINE:
            area = replace(area, kind="offline")
        if 0 <= owner < len(zones):
            zone = zones[owner]
            area = replace(area, kind="zone", node=zone.nid, zone=zone.name)
        elif owner >= len(zones):
            layout = facts.layouts[owner - len(zones)]
            name, address, node = layout.name, layout.pagemap.address, _node_of(facts, layout)
            area = replace(area, kind="pagemap", name=name, pgmap=address, node=node, zone=DEVICE)
            several = shared.get(address, {}).values()
            area = replace(area, shared_pages=SharedPages.summed(layout, several))
            counted += added[owner - len(zones)]
        if owner < len(zones):
            counted += counts.late + _rounded_up(facts, owner, early=False)
        size = facts.vmemmap.sections.pages * facts.vmemmap.geometry.struct_page_size
        whole, scheme = size % page_size == 0, None
        if owner >= len(zones):
            whole = facts.vmemmap.geometry.whole_subsections
            scheme = facts.layouts[owner - len(zones)].dedup.scheme
        found.append(_counted(area, counted, counts, scheme, whole=whole))
    return tuple(found)


def _counted(
    area: Area, counted: int, counts: OwnerCounts, scheme: Scheme | None, *, whole: bool
) -> Area:
    """
    Add what the kernel's counters have for an area, and why that differs from its frames.

    :param scheme: how a pagemap's tail pages share frames
    :param whole: whether the memory map of a section fills pages; of a subsection, for a pagemap
    """
    if counts.unread_frames or counts.unreadable:
        return area
    excess = counted - area.frames
    if not excess:
        note = None
    elif not whole and excess > 0:
        note = "counted in whole pages for each section, which has no whole number of them"
    elif area.kind != "pagemap":
        note = (
            f"not counted are the frames that tail pages of huge pages share ({-excess})"
            if excess < 0 and area.read_only
            else f"{abs(excess)} {'more' if excess > 0 else 'fewer'} counted than there are"
        )
    elif not whole and not area.deduplicated:
        note = "counted with what else is in its sections, which were there at boot"
    elif counted >= area.mapped:
        note = "counted as if nothing were shared"
    elif scheme is not None and scheme.per_zone and excess == -1:
        note = (
            "not counted is the frame of tail pages that it shares with other devices of its node"
        )
    elif scheme is not None and scheme.per_zone:
        note = (
            "1 is counted for each compound page that starts at a multiple of its size, none for"
            " the others, nor for the frame that devices share"
        )
    else:
        note = (
            "2 are counted for each compound page that starts at a multiple of its size, none for"
            " the others"
        )
    return replace(area, counted=counted, note=note)


def _node_of(facts: MemmapFacts, layout: PagemapLayout) -> int | None:
    """Return the node of a pagemap: that in its first struct page, else of the only zone there."""
    if not layout.ranges:
        return None
    vmemmap = facts.vmemmap
    first, end = layout.pfns[0]
    # The struct pages of the memory map's own frames may never have been written to.
    page = read_struct_pages(
        vmemmap, np.array([min(first_compound(layout.pagemap, first), end - 1)], dtype=np.int64)
    )
    if page.readable[0]:
        word = int(page.word(vmemmap.page.flags, vmemmap.word)[0])
        place = facts.flags.zone_of(word)
        if place is not None and facts.flags.zones.get(place[1]) == DEVICE:
            return place[0]
    spanning = {
        zone.nid for zone in facts.zones if zone.name == DEVICE and zone.start <= first < zone.end
    }
    return spanning.pop() if len(spanning) == 1 else None


def _explain(
    areas: Sequence[Area], totals: MemmapSummary, counters: Sequence[Counter], page_ext: int
) -> list[str]:
    """Return sentences that compare the frames with the kernel's counters."""
    values = [one.value for one in counters]
    if any(value is None for value in values):
        return []
    total = sum(value or 0 for value in values)
    excess = total - totals.frames
    lines = [
        f"{totals.frames} frames are there, the counters have {total} ("
        + " + ".join(f"{one.name} {one.value}" for one in counters)
        + ")"
        + (f": {abs(excess)} {'too many' if excess > 0 else 'too few'}" if excess else "")
    ]
    for area in areas:
        if area.note:
            lines.append(
                f"{area.label}: {area.frames} frames, counted as {area.counted}: {area.note}"
            )
        if area.frames_on_device and area.counted:
            lines.append(
                f"{area.label}: {area.frames_on_device} of its frames lie on the device, and are"
                " counted all the same"
            )
    if page_ext:
        lines.append(f"{page_ext} of what is counted are tables of page_ext")
    return lines
