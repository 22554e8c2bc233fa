# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All about one page, as text in the manner of crash's ``vtop`` and as the JSON document
``vmemscope.page/1``.

The document is described in ``docs/page.md``; its conventions are those of ``docs/json.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..text import binary_size, hexadecimal
from .document import (
    closing_object,
    finding_object,
    head_object,
    json_text,
    target_object,
    timings_object,
)
from .words import count, finding_line, header, not_read, safe

if TYPE_CHECKING:
    from ..vmemmap.tables import Step
    from .documents.page import Frame, PageReport, Place, Sharing, StructPage

__all__ = ("PAGE_SCHEMA", "page_document", "render_page", "render_page_json")

#: identifier of this version of the document
PAGE_SCHEMA = "vmemscope.page/1"

_PHASES = ("attach", "types", "read")


def render_page(report: PageReport) -> str:
    """Format a report on one page; no line is broken, so that all can be searched for."""
    page_size = report.target.page_size
    lines = [
        header(report.target),
        "",
        f"{report.meaning.number:#x}: {safe(report.meaning.words)}",
        "",
        f"pfn {report.pfn:#x}",
        *_fields(_page(report)),
        "",
        "way to its struct page",
        *_walk(report.walk),
        "",
        "struct page",
        *_fields(_struct_page(report.page)),
    ]
    if report.frame is not None:
        lines += ["", f"frame behind it, pfn {report.frame.pfn:#x}"]
        lines += _fields(_frame(report.frame, page_size))
    if report.sharing is not None:
        lines += ["", *_sharing(report.sharing)]
    lines += ["", "state", *(f"  {safe(line)}" for line in report.state)]
    if report.not_read:
        lines += ["", *not_read(report.not_read)]
    if report.findings:
        owner = report.place.name if report.place is not None else None
        lines += ["", *(finding_line(one, owner and safe(owner)) for one in report.findings)]
    return "\n".join(lines) + "\n"


def _fields(fields: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<15}  {value}".rstrip() for name, value in fields]


def _page(report: PageReport) -> list[tuple[str, str]]:
    section = report.section
    valid = {True: "valid", False: "not valid", None: "not known whether valid"}[section.valid]
    present = ", ".join(section.flags) if section.present else "not present"
    fields = [
        ("physical", f"{report.physical:#x}-{report.physical + report.target.page_size - 1:#x}"),
        ("node", "not known" if report.nid is None else str(report.nid)),
        ("zone", report.zone or "not known"),
        ("section", f"{section.number} ({present}), subsection {section.subsection} {valid}"),
    ]
    names = ["resources", *[""] * (len(report.resources) - 1)] if report.resources else []
    fields += [
        (name, f"{'  ' * i}{one.start:#x}-{one.end:#x} {safe(one.name)}")
        for i, (name, one) in enumerate(zip(names, report.resources, strict=True))
    ]
    if report.place is None:
        return [*fields, ("pagemap", "none")]
    return fields + _place(report.place, report.pfn)


def _place(place: Place, pfn: int) -> list[tuple[str, str]]:
    fields = [
        (
            "pagemap",
            f"{safe(place.name) if place.name else '(no name)'}, {place.type}, {place.pgmap:#x},"
            f" range {place.start:#x}-{place.end:#x}",
        ),
        ("populated", place.populated),
    ]
    if place.altmap is not None:
        fields.append(("altmap", {"map": "memory map"}.get(place.altmap, place.altmap)))
    if place.head_pfn is not None:
        role = "head" if pfn == place.head_pfn else f"tail {pfn - place.head_pfn}"
        fields.append(
            (
                "by pagemap",
                f"{role} of compound page {place.compound}, order {place.order},"
                f" head pfn {place.head_pfn:#x}",
            )
        )
    return fields


def _walk(steps: tuple[Step, ...]) -> list[str]:
    lines = []
    for step in steps:
        entry = "unreadable" if step.entry is None else f"{step.entry:016x}"
        leads = {
            "table": f"table at pfn {step.pfn or 0:#x}",
            "leaf": f"pfn {step.pfn or 0:#x}, {binary_size(step.size)}",
            "hole": "not present",
            "unreadable": "",
        }[step.kind]
        flags = f" ({'|'.join(step.flags)})" if step.flags else ""
        where = f"{step.level.upper():<3}  {step.table:#x}[{step.index}]"
        lines.append(f"  {where}  {entry}  {leads}{flags}".rstrip())
    return lines


def _struct_page(page: StructPage) -> list[tuple[str, str]]:
    fields = [("address", f"{page.address:#x}")]
    if not page.readable:
        return [*fields, ("contents", "not read")]
    fields += _use(page)
    fields += [
        (f"+{offset:#04x}", f"{word:016x}  {', '.join(names)}")
        for offset, word, names in page.words
    ]
    return fields


def _use(page: StructPage) -> list[tuple[str, str]]:
    fields = []
    if page.flags is not None:
        text = "|".join(page.flags.names) or "none"
        if page.flags.zone_name is not None:
            text += f"; node {page.flags.nid}, zone {page.flags.zone_name}"
        elif page.flags.zone is not None:
            text += f"; node {page.flags.nid}, zone {page.flags.zone}, which there is not"
        if page.flags.other:
            text += f"; other bits {page.flags.other:#x}"
        fields.append(("flags", text))
    fields.append(("reference count", str(page.refcount)))
    if page.type is not None:
        fields.append(("type", page.type))
    elif page.mapcount is not None:
        fields.append(("map count", str(page.mapcount + 1)))
    compound = page.compound
    if compound is not None and compound.role != "none":
        text = compound.role.replace("-", " ")
        if compound.role != "head":
            head = "no struct page" if compound.head_pfn is None else f"pfn {compound.head_pfn:#x}"
            text += f", head {head} by {compound.encoding}"
        if compound.order is not None:
            text += f", order {compound.order}"
        fields.append(("compound", text))
    return fields


def _frame(frame: Frame, page_size: int) -> list[tuple[str, str]]:
    where = {"RAM": "System RAM", "device": "the device itself"}.get(frame.memory, frame.memory)
    fields = [("physical", f"{frame.pfn * page_size:#x}, {where}")]
    fields.append(("leaf", binary_size(frame.leaf_size)))
    if not frame.page.readable:
        return [*fields, ("its struct page", f"{frame.page.address:#x}, not read")]
    return [*fields, ("its struct page", f"{frame.page.address:#x}"), *_use(frame.page)]


def _sharing(sharing: Sharing) -> list[str]:
    lines = [
        f"mapped by {count(sharing.pages, 'page')} of the {sharing.what}'s memory map"
        f" ({sharing.start:#x}-{(sharing.end - 1) % (1 << 64):#x})"
    ]
    lines += [
        f"  {run.address:#x}  {count(run.pages, 'page')}, from pfn {run.first_pfn:#x}"
        for run in sharing.runs
    ]
    if sharing.runs_left_out:
        lines.append(f"  and {sharing.runs_left_out} more")
    return lines


def render_page_json(report: PageReport) -> str:
    """Turn a report into the text of the JSON document."""
    return json_text(page_document(report))


def page_document(report: PageReport) -> dict[str, Any]:
    """Turn a report into the JSON document, as plain dictionaries and lists."""
    return {
        **head_object(PAGE_SCHEMA),
        "target": target_object(report.target),
        "meaning": {
            "number": hexadecimal(report.meaning.number),
            "kind": report.meaning.kind,
            "words": safe(report.meaning.words),
        },
        "pfn": report.pfn,
        "physical": hexadecimal(report.physical),
        "node": report.nid,
        "zone": report.zone,
        "resources": [
            {
                "start": hexadecimal(one.start),
                "end": hexadecimal(one.end),
                "name": safe(one.name),
            }
            for one in report.resources
        ],
        "section": {
            "number": report.section.number,
            "present": report.section.present,
            "flags": list(report.section.flags),
            "subsection": report.section.subsection,
            "valid": report.section.valid,
        },
        "pgmap": None if report.place is None else _place_object(report.place),
        "page": _page_object(report.page),
        "walk": [_step_object(step) for step in report.walk],
        "frame": None if report.frame is None else _frame_object(report.frame),
        "sharing": None if report.sharing is None else _sharing_object(report.sharing),
        "state": [safe(line) for line in report.state],
        "findings": [finding_object(one) for one in report.findings],
        "summary": {
            **closing_object(report.findings, report.not_read),
        },
        "timings": timings_object(report.timings, _PHASES),
    }


def _place_object(place: Place) -> dict[str, Any]:
    return {
        "address": hexadecimal(place.pgmap),
        "name": None if place.name is None else safe(place.name),
        "type": place.type,
        "start": hexadecimal(place.start),
        "end": hexadecimal(place.end),
        "populated": place.populated,
        "altmap": place.altmap,
        "compound": place.compound,
        "head_pfn": place.head_pfn,
        "order": place.order,
    }


def _page_object(page: StructPage) -> dict[str, Any]:
    flags, compound = page.flags, page.compound
    return {
        "address": hexadecimal(page.address),
        "readable": page.readable,
        "words": [
            {"offset": offset, "value": hexadecimal(word), "members": list(names)}
            for offset, word, names in page.words
        ],
        "flags": None
        if flags is None
        else {
            "names": list(flags.names),
            "node": flags.nid,
            "zone": flags.zone,
            "zone_name": flags.zone_name,
            "other": hexadecimal(flags.other),
        },
        "refcount": page.refcount,
        "mapcount": page.mapcount,
        "type": page.type,
        "compound": None
        if compound is None
        else {
            "role": compound.role,
            "head_pfn": compound.head_pfn,
            "encoding": compound.encoding,
            "order": compound.order,
        },
    }


def _step_object(step: Step) -> dict[str, Any]:
    return {
        "level": step.level,
        "table": hexadecimal(step.table),
        "index": step.index,
        "entry_address": hexadecimal(step.entry_address),
        "entry": hexadecimal(step.entry),
        "flags": list(step.flags),
        "kind": step.kind,
        "pfn": step.pfn,
        "size": step.size,
    }


def _frame_object(frame: Frame) -> dict[str, Any]:
    return {
        "pfn": frame.pfn,
        "leaf_size": frame.leaf_size,
        "memory": frame.memory,
        "page": _page_object(frame.page),
    }


def _sharing_object(sharing: Sharing) -> dict[str, Any]:
    return {
        "start": hexadecimal(sharing.start),
        "end": hexadecimal(sharing.end % (1 << 64)),
        "what": sharing.what,
        "pages": sharing.pages,
        "runs": [
            {"address": hexadecimal(run.address), "pages": run.pages, "first_pfn": run.first_pfn}
            for run in sharing.runs
        ],
        "runs_left_out": sharing.runs_left_out,
    }
