# SPDX-License-Identifier: LGPL-2.1-or-later
"""The use of memory by the memory map, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from ..text import binary_size
from .width import fitting_grid
from .words import amount, count, ending, header, safe, shared_line, vmemmap_in_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .documents.memmap import Area, Counter, MemmapReport, MemmapSummary

__all__ = ("render_memmap",)

_CELLS: dict[str, Callable[[Area], str]] = {
    "AREA": lambda area: area.label,
    "NODE": lambda area: "-" if area.node is None else str(area.node),
    "ZONE": lambda area: area.zone or "-",
    "DESCRIBES": lambda area: binary_size(area.described_bytes),
    "LEAVES": lambda area: "+".join(binary_size(size) for size in area.leaf_pages) or "-",
    "PAGES": lambda area: str(area.mapped),
    "FRAMES": lambda area: str(area.frames),
    "COUNTED": lambda area: "-" if area.counted is None else str(area.counted),
    "SAVED": lambda area: binary_size(area.saved_bytes),
    "ON": lambda area: _place(area),
}
_RIGHT = frozenset({"NODE", "DESCRIBES", "PAGES", "FRAMES", "COUNTED", "SAVED"})

#: what to show, in order of preference: the first that fits
_COLUMNS = (
    ("AREA", "NODE", "ZONE", "DESCRIBES", "LEAVES", "PAGES", "FRAMES", "SAVED", "COUNTED", "ON"),
    ("AREA", "NODE", "DESCRIBES", "LEAVES", "PAGES", "FRAMES", "SAVED", "COUNTED", "ON"),
    ("AREA", "DESCRIBES", "LEAVES", "PAGES", "FRAMES", "SAVED", "COUNTED"),
    ("AREA", "DESCRIBES", "PAGES", "FRAMES", "COUNTED"),
    ("AREA", "PAGES", "FRAMES"),
)


def _place(area: Area) -> str:
    places = []
    if area.frames > area.frames_on_device + area.frames_elsewhere + area.frames_self_hosted:
        places.append("RAM")
    if area.frames_self_hosted:
        places.append("itself")
    if area.frames_on_device:
        places.append("device")
    if area.frames_elsewhere:
        places.append("no memory")
    return "+".join(places) or "-"


def render_memmap(report: MemmapReport, width: int) -> str:
    """
    Return a report on the whole memory map as text.

    :param width: columns of the table (:mod:`.width`)
    """
    page_size = report.target.page_size
    lines = [
        header(report.target),
        "",
        *fitting_grid(report.areas, _CELLS, _COLUMNS, _RIGHT, width, {"AREA"}),
        "",
    ]
    for what, kind in (
        ("System RAM", "zone"),
        ("devices", "pagemap"),
        ("System RAM that is not online", "offline"),
        ("no known zone", "unknown"),
        ("nothing", "nothing"),
    ):
        areas = [area for area in report.areas if area.kind == kind]
        frames = report.summary.device_frames if kind == "pagemap" else UNSET
        lines += _sum(what, areas, page_size, frames)
    lines += [_total(report.summary, report.vmemmap.sections, page_size), ""]
    shared = [
        line
        for one in report.areas
        for line in shared_line(safe(one.label), one.shared_pages, one.pages)
    ]
    lines += [*shared, ""] if shared else []
    lines += [_counter(one) for one in report.counters]
    lines += [f"  {safe(line)}" for line in report.explanation]
    lines.append("")
    if report.leaks:
        pages = sum(leak.pages for leak in report.leaks)
        places = count(len(report.leaks), "place")
        lines.append(f"mapped but not needed: {count(pages, 'page')} in {places}")
        lines += [f"  {leak.start:#x}  {count(leak.pages, 'page')}" for leak in report.leaks]
        lines.append("")
    lines += ending(report)
    return "\n".join(lines) + "\n"


def _sum(
    what: str, areas: Iterable[Area], page_size: int, frames: int | UnsetType = UNSET
) -> list[str]:
    """
    Return the sum of areas.

    :param frames: how many there are, if several areas may have the same
    """
    areas = list(areas)
    if not areas:
        return []
    mapped = sum(area.mapped for area in areas)
    if isinstance(frames, UnsetType):
        frames = sum(area.frames for area in areas)
    text = (
        f"{what}: {binary_size(sum(area.described_bytes for area in areas))} described by"
        f" {count(mapped, 'page')} in {count(frames, 'frame')} ({binary_size(frames * page_size)})"
    )
    device = sum(area.frames_on_device for area in areas)
    if device:
        text += f", {binary_size(device * page_size)} of it on the devices themselves"
    shared = sum(area.read_only for area in areas)
    if shared:
        by_hugetlb = any(area.read_only and area.kind != "pagemap" for area in areas)
        how = "shared by HugeTLB's optimization" if by_hugetlb else "read-only"
        text += f", {count(shared, 'page')} {how}"
    return [f"{text}, {amount((mapped - frames) * page_size)} saved"]


def _total(totals: MemmapSummary, sections: int, page_size: int) -> str:
    text = (
        f"all: {count(sections, 'section')},"
        f" {vmemmap_in_frames(totals.mapped, totals.frames, page_size)},"
        f" {binary_size(totals.saved_bytes)} saved"
    )
    if totals.unmapped:
        text += f"; {count(totals.unmapped, 'page')} not mapped"
    if totals.unreadable:
        text += f"; {count(totals.unreadable, 'page')} unreadable"
    return text


def _counter(counter: Counter) -> str:
    value = "none" if counter.value is None else str(counter.value)
    expected = (
        ""
        if counter.expected is None or counter.value in (None, counter.expected)
        else f", expected {counter.expected}"
    )
    return f"{counter.name}: {value}{expected}: {safe(counter.reason)}"
