# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HugeTLB's vmemmap optimization, as text and as the JSON document ``vmemscope.hugetlb/1``.

The document is described in ``docs/hugetlb.md``; its conventions are those of ``docs/json.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..text import binary_size, hexadecimal
from .document import (
    closing_object,
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
    from collections.abc import Callable, Sequence

    from .documents.hugetlb import FolioReport, HstateReport, HugetlbReport, NodeCounts, TailFrame

__all__ = ("HUGETLB_SCHEMA", "hugetlb_document", "render_hugetlb", "render_hugetlb_json")

#: identifier of this version of the document
HUGETLB_SCHEMA = "vmemscope.hugetlb/1"

_PHASES = ("attach", "types", "read", "walk", "check")

_CELLS: dict[str, Callable[[HstateReport], str]] = {
    "SIZE": lambda one: binary_size(one.size),
    "FOLIOS": lambda one: str(one.folios),
    "FREE": lambda one: str(one.free),
    "IN USE": lambda one: str(one.in_use),
    "ELSEWHERE": lambda one: str(one.elsewhere),
    "OPTIMIZED": lambda one: str(one.optimized),
    "PAGES": lambda one: str(one.pages),
    "FRAMES": lambda one: str(one.frames),
    "SAVED": lambda one: binary_size(one.saved_bytes),
    "NOT SAVED": lambda one: binary_size(one.savable_bytes),
}
#: what to show, in order of preference: the first that fits
_COLUMNS = (
    ("SIZE", "FOLIOS", "FREE", "IN USE", "ELSEWHERE", "OPTIMIZED", "PAGES", "FRAMES", "SAVED",
     "NOT SAVED"),
    ("SIZE", "FOLIOS", "FREE", "IN USE", "OPTIMIZED", "PAGES", "FRAMES", "SAVED", "NOT SAVED"),
    ("SIZE", "FOLIOS", "OPTIMIZED", "PAGES", "FRAMES", "SAVED", "NOT SAVED"),
    ("SIZE", "FOLIOS", "OPTIMIZED", "SAVED"),
)  # fmt: skip

_FOLIO_CELLS: dict[str, Callable[[FolioReport], str]] = {
    "PFN": lambda one: f"{one.pfn:#x}",
    "SIZE": lambda one: binary_size(one.size),
    "NODE": lambda one: "-" if one.nid is None else str(one.nid),
    "STATE": lambda one: one.place,
    "OPTIMIZED": lambda one: _optimized(one),
    "PAGES": lambda one: str(one.pages),
    "READ-ONLY": lambda one: str(one.read_only),
    "HEAD FRAME": lambda one: hexadecimal(one.head_pfn) or "-",
    "TAIL FRAME": lambda one: hexadecimal(one.tail_pfn) or "-",
    "STRUCT PAGE": lambda one: f"{one.page:#x}",
}
_FOLIO_COLUMNS = (
    tuple(_FOLIO_CELLS),
    tuple(column for column in _FOLIO_CELLS if column != "STRUCT PAGE"),
    ("PFN", "SIZE", "STATE", "OPTIMIZED", "HEAD FRAME", "TAIL FRAME"),
    ("PFN", "SIZE", "STATE", "OPTIMIZED"),
)
_FOLIO_RIGHT = frozenset({"SIZE", "NODE", "PAGES", "READ-ONLY"})


def _optimized(one: FolioReport) -> str:
    if one.flagged == bool(one.read_only):
        return "yes" if one.flagged else "no"
    return "only its flag" if one.flagged else "not its flag"


def render_hugetlb(report: HugetlbReport, width: int) -> str:
    """
    Format a report on HugeTLB.

    :param width: columns that tables may take; a line of prose or a finding is
        never broken, so that it can be searched for
    """
    lines = [header(report.target), "", *_state(report), ""]
    if any(one.folios for one in report.hstates):
        lines += _hstates(report.hstates, width)
        lines.append("")
        lines += _nodes(report.hstates)
    elif report.present:
        sizes = ", ".join(binary_size(one.size) for one in report.hstates)
        lines += [f"no folios in any pool ({sizes})" if sizes else "no pools", ""]
    lines += _shared(report)
    if report.folios:
        lines += [
            *fitting_grid(report.folios, _FOLIO_CELLS, _FOLIO_COLUMNS, _FOLIO_RIGHT, width),
            "",
        ]
    lines += [*_totals(report), ""]
    lines += ending(report)
    return "\n".join(lines) + "\n"


def _state(report: HugetlbReport) -> list[str]:
    """Say whether the optimization is on, and how it works in this kernel."""
    hvo = report.hvo
    if not report.present:
        return ["HugeTLB: not in this kernel"]
    if not hvo.built_in:
        return ["HugeTLB vmemmap optimization: not in this kernel"]
    switch = {True: "on", False: "off", None: "not known whether on or off"}[hvo.enabled]
    whose = (
        "tail pages map a frame that their zone shares"
        if hvo.shared_tails
        else "tail pages map the frame of their head page"
    )
    key = "" if hvo.key is None else f"; its key counts {count(hvo.key, 'optimized folio')}"
    return [f"HugeTLB vmemmap optimization: {switch} for new folios; {whose}{key}"]


def _hstates(hstates: Sequence[HstateReport], width: int) -> list[str]:
    shown = [one for one in hstates if one.folios or one.nr_huge_pages]
    columns = [
        tuple(
            column
            for column in columns
            if column != "ELSEWHERE" or any(one.elsewhere for one in shown)
        )
        for columns in _COLUMNS
    ]
    return fitting_grid(shown, _CELLS, columns, _CELLS, width)


def _nodes(hstates: Sequence[HstateReport]) -> list[str]:
    """Say how folios spread over nodes, where there are several."""
    lines = []
    for one in hstates:
        if len(one.by_node) > 1:
            lines += [f"{binary_size(one.size)} on {_node(node)}" for node in one.by_node]
    return [*lines, ""] if lines else []


def _node(node: NodeCounts) -> str:
    where = "an unknown node" if node.nid is None else f"node {node.nid}"
    return f"{where}: {count(node.folios, 'folio')}, {node.free} free, {node.optimized} optimized"


def _shared(report: HugetlbReport) -> list[str]:
    """Tell the frames that zones share."""
    lines = [_tail(one, report.target.page_size) for one in report.tails]
    return [*lines, ""] if lines else []


def _tail(one: TailFrame, page_size: int) -> str:
    where = f"node {one.nid}, zone {safe(one.zone)}, {binary_size(page_size << one.order)}"
    if one.pfn is None:
        return f"shared tail pages of {where}: no struct page"
    refcount = "unreadable" if one.refcount is None else str(one.refcount)
    return (
        f"shared tail pages of {where}: pfn {one.pfn:#x}, reference count {refcount},"
        f" mapped by {count(one.folios, 'folio')}"
    )


def _totals(report: HugetlbReport) -> list[str]:
    totals, page_size = report.totals, report.target.page_size
    lines = []
    if totals.folios:
        lines.append(
            f"{count(totals.folios, 'folio')}, {totals.optimized} optimized:"
            f" {count(totals.pages, 'page')} of vmemmap ({binary_size(totals.pages * page_size)})"
            f" in {count(totals.frames, 'frame')} ({binary_size(totals.frames * page_size)}),"
            f" {binary_size(totals.saved_bytes) if totals.saved_bytes else 'nothing'} saved,"
            f" {binary_size(totals.savable_bytes) if totals.savable_bytes else 'nothing'} more"
            " could be"
        )
    lines.append(
        f"checked: {count(totals.walked, 'page')} of vmemmap,"
        f" {totals.read_only or 'none'} of them read-only"
    )
    return lines


def render_hugetlb_json(report: HugetlbReport) -> str:
    """Turn a report into the text of the JSON document."""
    return json_text(hugetlb_document(report))


def hugetlb_document(report: HugetlbReport) -> dict[str, Any]:
    """Turn a report into the JSON document, as plain dictionaries and lists."""
    hvo, totals = report.hvo, report.totals
    return {
        **head_object(HUGETLB_SCHEMA),
        "target": target_object(report.target),
        "present": report.present,
        "hvo": {
            "built_in": hvo.built_in,
            "enabled": hvo.enabled,
            "key": hvo.key,
            "shared_tails": hvo.shared_tails,
        },
        "hstates": [_hstate(one) for one in report.hstates],
        "shared_tails": [
            {
                "node": one.nid,
                "zone": safe(one.zone),
                "order": one.order,
                "pfn": one.pfn,
                "refcount": one.refcount,
                "folios": one.folios,
            }
            for one in report.tails
        ],
        "folios": [_folio(one) for one in report.folios],
        "findings": [finding_object(finding) for finding in report.findings],
        "rules": [outcome_object(one) for one in report.outcomes],
        "summary": {
            "folios": totals.folios,
            "optimized": totals.optimized,
            "pages": totals.pages,
            "frames": totals.frames,
            "saved_bytes": totals.saved_bytes,
            "savable_bytes": totals.savable_bytes,
            "read_only": totals.read_only,
            "walked": totals.walked,
            **closing_object(report.findings, report.not_read),
        },
        "timings": timings_object(report.timings, _PHASES),
    }


def _hstate(one: HstateReport) -> dict[str, Any]:
    return {
        "address": hexadecimal(one.address),
        "name": safe(one.name),
        "order": one.order,
        "size": one.size,
        "nr_huge_pages": one.nr_huge_pages,
        "free_huge_pages": one.free_huge_pages,
        "resv_huge_pages": one.resv_huge_pages,
        "surplus_huge_pages": one.surplus_huge_pages,
        "folios": one.folios,
        "free": one.free,
        "in_use": one.in_use,
        "elsewhere": one.elsewhere,
        "flagged": one.flagged,
        "optimized": one.optimized,
        "pages": one.pages,
        "mapped": one.mapped,
        "read_only": one.read_only,
        "unreadable": one.unreadable,
        "frames": one.frames,
        "saved_bytes": one.saved_bytes,
        "savable_bytes": one.savable_bytes,
        "nodes": [
            {
                "node": node.nid,
                "folios": node.folios,
                "free": node.free,
                "optimized": node.optimized,
            }
            for node in one.by_node
        ],
    }


def _folio(one: FolioReport) -> dict[str, Any]:
    return {
        "pfn": one.pfn,
        "page": hexadecimal(one.page),
        "hstate": safe(one.hstate),
        "size": one.size,
        "node": one.nid,
        "state": one.place,
        "flagged": one.flagged,
        "pages": one.pages,
        "read_only": one.read_only,
        "head_pfn": one.head_pfn,
        "tail_pfn": one.tail_pfn,
    }
