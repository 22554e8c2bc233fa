# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report on one page, as text in the manner of crash's ``vtop``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import binary_size
from .words import count, finding_line, header, left_out, not_read, safe

if TYPE_CHECKING:
    from .documents.page import Backing, Frame, PageReport, Place, Sharing, StepReport, StructPage

__all__ = ("render_page",)

#: bytes of physical memory that an architecture can address, at most
_MEMORY = 1 << 56


def render_page(report: PageReport) -> str:
    """Return a report on one page as text."""
    page_size = report.target.page_size
    lines = [
        header(report.target),
        "",
        f"{report.meaning.number:#x}: {safe(report.meaning.words)}",
        "",
        f"pfn {report.pfn:#x}",
        *_fields(_page(report)),
        "",
        "page-table walk to its struct page",
        *_walk(report.walk),
        "",
        "struct page",
        *_fields(_struct_page(report.page)),
    ]
    if report.frame is not None:
        lines += ["", f"backing frame, pfn {report.frame.pfn:#x}"]
        lines += _fields(_frame(report.frame, page_size))
    if report.sharing is not None:
        lines += ["", *_sharing(report.sharing)]
    if report.backs is not None:
        lines += ["", *_backing(report.backs)]
    lines += ["", "state", *(f"  {safe(line)}" for line in report.state)]
    if report.not_read:
        lines += ["", *not_read(report.not_read)]
    if hidden := left_out(report):
        lines += ["", *hidden]
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
    offline = section.present and not section.online and report.place is None
    fields = [
        ("physical", f"{report.physical:#x}-{report.physical + report.target.page_size - 1:#x}"),
        ("node", "not known" if report.node is None else str(report.node)),
        ("zone", report.zone or ("none" if offline else "not known")),
        ("section", f"{section.number} ({present}), subsection {section.subsection} {valid}"),
    ]
    if section.order is not None:
        fields.append(("section order", _order(section.order, report.target.page_size)))
    names = ["resources", *[""] * (len(report.resources) - 1)] if report.resources else []
    fields += [
        (name, f"{'  ' * i}{one.start:#x}-{one.end:#x} {safe(one.name)}")
        for i, (name, one) in enumerate(zip(names, report.resources, strict=True))
    ]
    if report.place is None:
        return [*fields, ("pagemap", "none")]
    return fields + _place(report.place, report.pfn)


def _order(order: int, page_size: int) -> str:
    if not order:
        return "0, populated for no compound pages"
    if page_size << min(order, 64) > _MEMORY:
        return f"{order}, which makes no sense"
    return f"{order}, populated for compound pages of {binary_size(page_size << order)}"


def _place(place: Place, pfn: int) -> list[tuple[str, str]]:
    fields = [
        (
            "pagemap",
            f"{safe(place.name) if place.name else '(no name)'}, {place.type}, {place.address:#x},"
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


def _walk(steps: tuple[StepReport, ...]) -> list[str]:
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
        (f"+{one.offset:#04x}", f"{one.value:016x}  {', '.join(one.members)}") for one in page.words
    ]
    return fields


def _use(page: StructPage) -> list[tuple[str, str]]:
    if not page.initialised:
        return [("contents", "not initialised")]
    fields = []
    if page.flags is not None:
        text = "|".join(page.flags.names) or "none"
        if page.flags.zone_name is not None:
            text += f"; node {page.flags.node}, zone {page.flags.zone_name}"
        elif page.flags.zone is not None:
            text += f"; node {page.flags.node}, zone {page.flags.zone}, which does not exist"
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


def _backing(backs: Backing) -> list[str]:
    lines = [f"the page itself backs {count(backs.pages, 'page')} of the memory map"]
    for run in backs.runs:
        whose = ""
        if run.pgmap is not None:
            whose = f", {safe(run.name) if run.name else f'the pagemap at {run.pgmap:#x}'}"
        if run.head_pfn is not None:
            whose += f", compound page with head pfn {run.head_pfn:#x}"
        lines.append(
            f"  {run.address:#x}  {count(run.pages, 'page')}, struct pages of pfn"
            f" {run.first_pfn:#x}-{run.last_pfn:#x}{whose}"
        )
    if backs.runs_left_out:
        lines.append(f"  and {backs.runs_left_out} more")
    return lines


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
