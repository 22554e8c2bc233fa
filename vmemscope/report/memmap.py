# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where the memory map's memory goes, as text and as the JSON document ``vmemscope.memmap/1``.

The document is described in ``docs/memmap.md``; its conventions are those of ``docs/json.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..text import binary_size, hexadecimal
from .document import (
    closing_object,
    counts_object,
    finding_object,
    head_object,
    json_text,
    outcome_object,
    target_object,
    timings_object,
)
from .grid import fitting_grid
from .words import count, ending, header, safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .documents.memmap import Area, Counter, MemmapReport, Totals

__all__ = ("MEMMAP_SCHEMA", "memmap_document", "render_memmap", "render_memmap_json")

#: identifier of this version of the document
MEMMAP_SCHEMA = "vmemscope.memmap/1"

_PHASES = ("attach", "types", "read", "walk", "sum")

_CELLS: dict[str, Callable[[Area], str]] = {
    "AREA": lambda area: area.label,
    "NODE": lambda area: "-" if area.nid is None else str(area.nid),
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
    if area.frames > area.frames_on_device + area.frames_elsewhere:
        places.append("RAM")
    if area.frames_on_device:
        places.append("device")
    if area.frames_elsewhere:
        places.append("no memory")
    return "+".join(places) or "-"


def render_memmap(report: MemmapReport, width: int) -> str:
    """
    Format a report on the whole memory map.

    :param width: columns that the table may take; a line of prose or a finding
        is never broken, so that it can be searched for
    """
    page_size = report.target.page_size
    lines = [
        header(report.target),
        "",
        *fitting_grid(report.areas, _CELLS, _COLUMNS, _RIGHT, width),
        "",
    ]
    for what, kinds in (
        ("System RAM", {"zone", "unknown"}),
        ("devices", {"pagemap"}),
        ("nothing", {"nothing"}),
    ):
        lines += _sum(what, [area for area in report.areas if area.kind in kinds], page_size)
    lines += [_total(report.totals, report.sections, page_size), ""]
    lines += [_counter(one) for one in report.counters]
    lines += [f"  {safe(line)}" for line in report.explanation]
    lines.append("")
    if report.leaks:
        pages = sum(leak.pages for leak in report.leaks)
        lines += [f"mapped in vain: {count(pages, 'page')} in {count(len(report.leaks), 'place')}"]
        lines += [f"  {leak.start:#x}  {count(leak.pages, 'page')}" for leak in report.leaks]
        lines.append("")
    lines += ending(report)
    return "\n".join(lines) + "\n"


def _sum(what: str, areas: Iterable[Area], page_size: int) -> list[str]:
    areas = list(areas)
    if not areas:
        return []
    mapped, frames = sum(area.mapped for area in areas), sum(area.frames for area in areas)
    text = (
        f"{what}: {binary_size(sum(area.described_bytes for area in areas))} described by"
        f" {count(mapped, 'page')} in {count(frames, 'frame')} ({binary_size(frames * page_size)})"
    )
    device = sum(area.frames_on_device for area in areas)
    if device:
        text += f", {binary_size(device * page_size)} of it on the devices themselves"
    shared = sum(area.read_only for area in areas)
    if shared:
        text += f", {count(shared, 'page')} read-only (HugeTLB's optimization)"
    saved = mapped - frames
    return [f"{text}, {binary_size(saved * page_size) if saved else 'nothing'} saved"]


def _total(totals: Totals, sections: int, page_size: int) -> str:
    text = (
        f"all: {count(sections, 'section')}, {count(totals.mapped, 'page')} of vmemmap"
        f" ({binary_size(totals.mapped * page_size)}) in {count(totals.frames, 'frame')}"
        f" ({binary_size(totals.frame_bytes)}), {binary_size(totals.saved_bytes)} saved"
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


def render_memmap_json(report: MemmapReport) -> str:
    """Turn a report into the text of the JSON document."""
    return json_text(memmap_document(report))


def memmap_document(report: MemmapReport) -> dict[str, Any]:
    """Turn a report into the JSON document, as plain dictionaries and lists."""
    return {
        **head_object(MEMMAP_SCHEMA),
        "target": target_object(report.target),
        "vmemmap": {
            "start": hexadecimal(report.start),
            "end": hexadecimal(report.end % (1 << 64)),
            "sections": report.sections,
        },
        "areas": [_area(area) for area in report.areas],
        "leaks": [{"start": hexadecimal(leak.start), "pages": leak.pages} for leak in report.leaks],
        "counters": [
            {
                "name": one.name,
                "value": one.value,
                "expected": one.expected,
                "reason": safe(one.reason),
            }
            for one in report.counters
        ],
        "explanation": [safe(line) for line in report.explanation],
        "findings": [finding_object(finding) for finding in report.findings],
        "rules": [outcome_object(one) for one in report.outcomes],
        "summary": {
            **_totals(report.totals),
            **closing_object(report.findings, report.not_read),
        },
        "timings": timings_object(report.timings, _PHASES),
    }


def _area(area: Area) -> dict[str, Any]:
    return {
        "kind": area.kind,
        "name": None if area.name is None else safe(area.name),
        "pgmap": hexadecimal(area.pgmap),
        "node": area.nid,
        "zone": area.zone,
        "described_bytes": area.described_bytes,
        "pages": area.pages,
        "mapped": area.mapped,
        "unmapped": area.unmapped,
        "unreadable": area.unreadable,
        "leaf_pages": counts_object(area.leaf_pages),
        "read_only": area.read_only,
        "frames": area.frames,
        "frames_on_device": area.frames_on_device,
        "frames_elsewhere": area.frames_elsewhere,
        "saved_bytes": area.saved_bytes,
        "deduplicated": area.deduplicated,
        "counted": area.counted,
        "note": None if area.note is None else safe(area.note),
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "pages": totals.pages,
        "mapped": totals.mapped,
        "unmapped": totals.unmapped,
        "unreadable": totals.unreadable,
        "frames": totals.frames,
        "frames_on_device": totals.frames_on_device,
        "frames_elsewhere": totals.frames_elsewhere,
        "frame_bytes": totals.frame_bytes,
        "saved_bytes": totals.saved_bytes,
    }
