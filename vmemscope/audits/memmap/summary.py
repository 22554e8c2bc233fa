# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what was gathered of the memory map to the report: areas, totals, counters, words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ...kernel.pglist_data import DEVICE
from ...kernel.vmstat import read_page_ext_size
from ...report.documents.common import TargetInfo
from ...report.documents.memmap import Area, Leak, MemmapReport, MemmapSummary, WalkedVmemmap
from ...rules import rules_of
from ...rules.rule import Scope
from ...spans import Spans, intersection, union
from ...vmemmap.layout import first_compound
from ...vmemmap.struct_pages import read_struct_pages
from .areas import NOTHING, UNKNOWN
from .counters import check_counter, counted_pages
from .tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...report.documents.memmap import Counter
    from ...vmemmap.pagemaps import PagemapLayout
    from .gather import Gathered

__all__ = ("summarise",)

#: leaks listed at the most
_MAX_LEAKS = 64


def summarise(gathered: Gathered) -> MemmapReport:
    """
    Sum up.

    """
    geometry = gathered.vmemmap.geometry
    added = _added(gathered)
    counters = _counters(gathered, added)
    # Whoever counts as if nothing were shared is told what that makes of each area.
    unshared = counters[0].value is not None and counters[0].value != counters[0].expected
    areas = _areas(gathered, [whole if unshared else part for part, whole in added])
    everything = union(one for t in gathered.survey.tallies.values() for one in t.frames)
    mapped = gathered.survey.mapped.total
    device, elsewhere = _places(gathered, everything)
    totals = MemmapSummary(
        pages=sum(one.pages for one in areas),
        mapped=mapped,
        unmapped=sum(one.unmapped for one in areas),
        unreadable=sum(one.unreadable for one in areas),
        frames=everything.total,
        frames_on_device=device,
        frames_elsewhere=elsewhere,
        frame_bytes=everything.total * geometry.page_size,
        saved_bytes=(mapped - everything.total) * geometry.page_size,
        not_read=tuple(f"{what}: {n}" for what, n in sorted(gathered.unread.items()) if n),
    )
    if counters[0].value is None:
        areas = tuple(replace(one, counted=None, note=None) for one in areas)
    report = MemmapReport(
        target=TargetInfo.about(gathered.kernel),
        vmemmap=WalkedVmemmap(
            start=geometry.vmemmap,
            end=geometry.address(gathered.end),
            sections=len(gathered.vmemmap.sections.number),
        ),
        areas=areas,
        summary=totals,
        leaks=tuple(
            Leak(geometry.address(start), end - start)
            for start, end in gathered.leaked.pairs()[:_MAX_LEAKS]
        ),
        counters=counters,
        explanation=tuple(_explain(areas, totals, counters, _page_ext_frames(gathered))),
        findings=gathered.findings.finish(),
        outcomes=gathered.findings.outcomes(rules_of(Scope.MEMORY_MAP)),
    )
    return report.changed()


def _added(gathered: Gathered) -> list[tuple[int, int]]:
    """
    Count what the kernel counts for each pagemap that was added after boot.

    :return: for each, by kernels that know of sharing, and by those that do not
    """
    geometry, sections = gathered.vmemmap.geometry, gathered.vmemmap.sections
    counts = []
    for layout, frames in zip(gathered.layouts, gathered.ranges, strict=True):
        order = layout.order if layout.dedup.expected else 0
        counts.append(
            (
                sum(counted_pages(*one, order, geometry, sections) for one in frames.pairs()),
                sum(counted_pages(*one, 0, geometry, sections) for one in frames.pairs()),
            )
        )
    return counts


def _page_ext_frames(gathered: Gathered) -> int:
    """Count the frames of the tables of ``page_ext``, one for each section that has any."""
    sections, page_size = gathered.vmemmap.sections, gathered.vmemmap.geometry.page_size
    tables = int(np.count_nonzero(sections.page_ext))
    if not tables:
        return 0
    return tables * -(-read_page_ext_size(gathered.prog) * sections.pages // page_size)


def _counters(gathered: Gathered, added: Sequence[tuple[int, int]]) -> tuple[Counter, Counter]:
    tallies = {owner: t for owner, t in gathered.survey.tallies.items() if owner != NOTHING}
    zones = len(gathered.owners.zones)
    known = (
        gathered.complete
        and not gathered.survey.unread.total
        and not any(tally.unread_frames for tally in tallies.values())
    )
    boot = sum(tally.boot for tally in tallies.values())
    run = (
        sum(tally.replaced for tally in tallies.values())
        + sum(tally.late for owner, tally in tallies.items() if owner < zones)
        + _page_ext_frames(gathered)
    )
    return (
        check_counter(
            "nr_memmap_pages",
            gathered.counters,
            run + sum(part for part, _ in added) if known else None,
            run + sum(whole for _, whole in added) if known else None,
            gathered.findings,
        ),
        check_counter(
            "nr_memmap_boot_pages",
            gathered.counters,
            boot if known else None,
            None,
            gathered.findings,
        ),
    )


def _places(gathered: Gathered, frames: Spans) -> tuple[int, int]:
    """Count the frames that are on devices, and those that are neither there nor in RAM."""
    ram = gathered.vmemmap.ram.frames
    device = intersection(frames, union(gathered.ranges))
    on_device = device.total - intersection(device, ram).total
    return on_device, frames.total - intersection(frames, ram).total - on_device


def _areas(gathered: Gathered, added: Sequence[int]) -> tuple[Area, ...]:
    zones = gathered.owners.zones
    numbers = [*range(len(zones) + len(gathered.layouts)), UNKNOWN, NOTHING]
    found = []
    for owner in numbers:
        mine = gathered.areas.owner == owner
        tally = gathered.survey.tallies.get(owner, Tally())
        if owner < 0 and not (mine.any() if owner == UNKNOWN else tally.mapped):
            continue
        frames = union(tally.frames)
        device, elsewhere = _places(gathered, frames)
        # What describes nothing has no pages that should be there.
        pages = (
            int((gathered.areas.end - gathered.areas.start)[mine].sum())
            if owner != NOTHING
            else tally.mapped
        )
        area = Area(
            kind="nothing" if owner == NOTHING else "unknown",
            name=None,
            pgmap=None,
            node=None,
            zone=None,
            described_bytes=int(gathered.areas.described[mine].sum())
            * gathered.vmemmap.geometry.page_size,
            pages=pages,
            mapped=tally.mapped,
            unmapped=pages - tally.mapped - tally.unreadable if owner != NOTHING else 0,
            unreadable=tally.unreadable if owner != NOTHING else 0,
            leaf_pages={
                gathered.vmemmap.geometry.page_size << order: count
                for order, count in sorted(tally.by_order.items())
            },
            read_only=tally.read_only,
            frames=frames.total,
            frames_on_device=device,
            frames_elsewhere=elsewhere,
            saved_bytes=(tally.mapped - frames.total) * gathered.vmemmap.geometry.page_size,
            deduplicated=frames.total < tally.mapped,
            counted=None,
            note=None,
        )
        at_boot = tally.boot + tally.replaced
        if 0 <= owner < len(zones):
            zone = zones[owner]
            area = replace(area, kind="zone", node=zone.nid, zone=zone.name)
            area = _counted(area, at_boot + tally.late, tally)
        elif owner >= len(zones):
            number = owner - len(zones)
            layout = gathered.layouts[number]
            area = replace(
                area,
                kind="pagemap",
                name=layout.name,
                pgmap=layout.pagemap.address,
                node=_node_of(gathered, layout),
                zone=DEVICE,
            )
            area = _counted(area, at_boot + added[number], tally)
        elif owner == UNKNOWN:
            area = _counted(area, at_boot + tally.late, tally)
        found.append(area)
    return tuple(found)


def _counted(area: Area, counted: int, tally: Tally) -> Area:
    """Put in what the kernel's counters should have for an area, and why that is off."""
    if tally.unread_frames or tally.unreadable:
        return area
    off = counted - area.frames
    if not off:
        note = None
    elif area.kind != "pagemap":
        note = (
            f"not counted are the frames that tail pages of huge pages share ({-off})"
            if off < 0 and area.read_only
            else f"{abs(off)} {'more' if off > 0 else 'fewer'} counted than there are"
        )
    elif counted >= area.mapped:
        note = "counted as if nothing were shared"
    else:
        note = (
            "2 are counted for each compound page that starts at a multiple of its size, none for"
            " the others"
        )
    return replace(area, counted=counted, note=note)


def _node_of(gathered: Gathered, layout: PagemapLayout) -> int | None:
    """Get the node of a pagemap: that in its first struct page, else of the only zone there."""
    if not layout.ranges:
        return None
    vmemmap = gathered.vmemmap
    page_size = vmemmap.geometry.page_size
    first, last = layout.ranges[0].start // page_size, layout.ranges[0].end // page_size
    # The struct pages of the memory map's own frames may never have been written to.
    page = read_struct_pages(
        vmemmap, np.array([min(first_compound(layout.pagemap, first), last)], dtype=np.int64)
    )
    if page.readable[0]:
        word = int(page.word(vmemmap.page.flags, vmemmap.word)[0])
        place = gathered.flags.zone_of(word)
        if place is not None and gathered.flags.zones.get(place[1]) == DEVICE:
            return place[0]
    spanning = {
        zone.nid
        for zone in gathered.zones
        if zone.name == DEVICE and zone.start <= first < zone.end
    }
    return spanning.pop() if len(spanning) == 1 else None


def _explain(
    areas: Sequence[Area], totals: MemmapSummary, counters: Sequence[Counter], page_ext: int
) -> list[str]:
    """Say how the frames that are there and the kernel's counters go together."""
    values = [one.value for one in counters]
    if any(value is None for value in values):
        return []
    total = sum(value or 0 for value in values)
    off = total - totals.frames
    lines = [
        f"{totals.frames} frames are there, the counters have {total} ("
        + " + ".join(f"{one.name} {one.value}" for one in counters)
        + ")"
        + (f": {abs(off)} {'too many' if off > 0 else 'too few'}" if off else "")
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
