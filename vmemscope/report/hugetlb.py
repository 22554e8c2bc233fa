# SPDX-License-Identifier: LGPL-2.1-or-later
"""HugeTLB's vmemmap optimization, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import binary_size, hexadecimal
from .width import fitting_grid
from .words import amount, count, ending, header, safe, vmemmap_in_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .documents.hugetlb import FolioReport, HstateReport, HugetlbReport, NodeCounts, TailFrame

__all__ = ("render_hugetlb",)

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
    "NODE": lambda one: "-" if one.node is None else str(one.node),
    "STATE": lambda one: one.state,
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
_FOLIO_RIGHT = frozenset({"SIZE", "NODE", "PAGES", "READ-ONLY", "SHARED"})


def _optimized(one: FolioReport) -> str:
    if one.flagged == bool(one.read_only):
        return "yes" if one.flagged else "no"
    return "flag only" if one.flagged else "flag missing"


def render_hugetlb(report: HugetlbReport, width: int) -> str:
    """
    Return a report on HugeTLB as text.

    :param width: columns of the tables (:mod:`.width`)
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
        # Where nothing is read-only, these are the pages that share a frame.
        names = {} if report.hvo.protected else {"READ-ONLY": "SHARED"}
        cells = {names.get(name, name): cell for name, cell in _FOLIO_CELLS.items()}
        columns = [tuple(names.get(name, name) for name in one) for one in _FOLIO_COLUMNS]
        lines += [*fitting_grid(report.folios, cells, columns, _FOLIO_RIGHT, width), ""]
    lines += [*_totals(report), ""]
    lines += ending(report)
    return "\n".join(lines) + "\n"


def _state(report: HugetlbReport) -> list[str]:
    """Return whether the optimization is on, and how it works in this kernel."""
    hvo = report.hvo
    if not report.present:
        return ["HugeTLB: not in this kernel"]
    if not hvo.built_in:
        return ["HugeTLB vmemmap optimization: not in this kernel"]
    if hvo.never:
        return [f"HugeTLB vmemmap optimization: never in this kernel: {safe(hvo.never)}"]
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
    """Return the folios of each node, where there are several nodes."""
    lines = []
    for one in hstates:
        if len(one.nodes) > 1:
            lines += [f"{binary_size(one.size)} on {_node(node)}" for node in one.nodes]
    return [*lines, ""] if lines else []


def _node(node: NodeCounts) -> str:
    where = "an unknown node" if node.node is None else f"node {node.node}"
    return f"{where}: {count(node.folios, 'folio')}, {node.free} free, {node.optimized} optimized"


def _shared(report: HugetlbReport) -> list[str]:
    """Return a line for each frame of shared tail pages."""
    lines = [_tail(one, report.target.page_size) for one in report.shared_tails]
    return [*lines, ""] if lines else []


def _tail(one: TailFrame, page_size: int) -> str:
    where = f"node {one.node}, zone {safe(one.zone)}, {binary_size(page_size << one.order)}"
    if one.pfn is None:
        return f"shared tail pages of {where}: no struct page"
    refcount = "unreadable" if one.refcount is None else str(one.refcount)
    return (
        f"shared tail pages of {where}: pfn {one.pfn:#x}, reference count {refcount},"
        f" mapped by {count(one.folios, 'folio')}"
    )


def _totals(report: HugetlbReport) -> list[str]:
    totals, page_size = report.summary, report.target.page_size
    lines = []
    if totals.folios:
        lines.append(
            f"{count(totals.folios, 'folio')}, {totals.optimized} optimized:"
            f" {vmemmap_in_frames(totals.pages, totals.frames, page_size)},"
            f" {amount(totals.saved_bytes)} saved,"
            f" {amount(totals.savable_bytes)} more could be saved"
        )
    if hosted := sum(one.self_hosted for one in report.hstates):
        lines.append(
            f"{count(hosted, 'folio')} can't be optimized: the memory map lies in the memory block"
            " itself (memmap_on_memory)"
        )
    shared = "read-only" if report.hvo.protected else "shared"
    lines.append(
        f"checked: {count(totals.walked, 'page')} of vmemmap,"
        f" {totals.read_only or 'none'} of them {shared}"
    )
    return lines
