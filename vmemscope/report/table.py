# SPDX-License-Identifier: LGPL-2.1-or-later
"""All pagemaps in a table, with totals and findings under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UnsetType

from ..text import binary_size
from .width import fitting_grid
from .words import (
    amount,
    bug_lines,
    count,
    finding_line,
    header,
    label,
    left_out,
    not_read,
    outcome_counts,
    safe,
    shared_line,
    verdict_of,
    vmemmap_in_frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .documents.pgmap import PagemapReport, Report

__all__ = ("COLUMNS", "RIGHT", "cell", "render_all", "shared_pages", "totals")

#: findings of a known bug that are listed all the same
_FEW = 2


def _first_range(one: PagemapReport) -> tuple[str, str, str]:
    """Return start and end of the first range, and how many more there are."""
    ranges = one.ranges
    if not ranges:
        return "-", "", ""
    more = f" +{len(ranges) - 1}" if len(ranges) > 1 else ""
    return f"{ranges[0].start:#x}", f"-{ranges[0].end:#x}", more


def _start(one: PagemapReport) -> str:
    start, _, more = _first_range(one)
    return start + more


def _range(one: PagemapReport) -> str:
    return "".join(_first_range(one))


def _size(one: PagemapReport) -> str:
    return binary_size(sum(r.size for r in one.detail.ranges)) if one.detail.ranges else "-"


def _compound(one: PagemapReport) -> str:
    return "-" if one.compound_size is None else binary_size(one.compound_size)


_CELLS: dict[str, Callable[[PagemapReport], str]] = {
    "NAME": label,
    "TYPE": lambda one: one.type,
    "RANGE": _range,
    "START": _start,
    "SIZE": _size,
    "COMPOUND": _compound,
    "PAGES": lambda one: str(one.vmemmap.pages),
    "FRAMES": lambda one: str(one.frames.backing),
    "SAVED": lambda one: binary_size(one.saved_bytes),
    "STATE": lambda one: one.state,
}
RIGHT = frozenset({"SIZE", "COMPOUND", "PAGES", "FRAMES", "SAVED"})

#: what to show, in order of preference: the first that fits
_COLUMNS = tuple(
    columns.split()
    for columns in (
        "NAME TYPE RANGE SIZE COMPOUND PAGES FRAMES SAVED STATE",
        "NAME TYPE START SIZE COMPOUND PAGES FRAMES SAVED STATE",
        "NAME TYPE START COMPOUND PAGES FRAMES SAVED STATE",
        "NAME TYPE START PAGES FRAMES SAVED STATE",
        "NAME START PAGES FRAMES SAVED STATE",
        "NAME START SAVED STATE",
        "NAME STATE",
    )
)


#: all there is to show, but for what is part of something else
COLUMNS = tuple(_COLUMNS[0])


def cell(column: str, one: PagemapReport) -> str:
    """Return the text of a pagemap in a column of the table, escaped."""
    return safe(_CELLS[column](one))


def render_all(report: Report, width: int) -> str:
    """
    Return a report on all pagemaps as text.

    :param width: columns of the table (:mod:`.width`)
    """
    lines = [header(report.target), ""]
    if report.pagemaps:
        table = fitting_grid(report.pagemaps, _CELLS, _COLUMNS, RIGHT, width, {"NAME"})
        lines += [*table, ""]
        lines += _reasons(report.pagemaps)
        shared = [line for one in report.pagemaps for line in shared_pages(one)]
        lines += [*shared, ""] if shared else []
        lines += shared_lines(report)
    else:
        lines += [
            "no pagemaps in what could be read"
            if report.summary.partial and not report.no_pagemaps
            else f"no pagemaps: {safe(report.no_pagemaps)}"
            if report.no_pagemaps
            else "no pagemaps: this kernel has no device memory that struct pages describe",
            "",
        ]
    lines += totals(report)
    lines += [*not_read(report.summary.not_read), *left_out(report)]
    if lines[-1]:
        lines.append("")
    findings = report.all_findings()
    if report.bugs:
        # Many lines of one cause hide the others.
        explained = {(bug.pgmap, s.rule) for bug in report.bugs for s in bug.symptoms}
        hidden = [(one, f) for one, f in findings if one and (one.address, f.rule) in explained]
        if len(hidden) > _FEW:
            findings = [pair for pair in findings if pair not in hidden]
        lines += [*bug_lines(report.bugs), ""]
        if len(hidden) > _FEW:
            lines += [
                f"{len(hidden)} findings that this explains are not listed: pgmap NAME and"
                " --format json have them",
                "",
            ]
    if findings:
        lines += [finding_line(f, None if one is None else label(one)) for one, f in findings]
        lines.append("")
    lines.append(verdict_of(report))
    return "\n".join(lines) + "\n"


def _reasons(pagemaps: tuple[PagemapReport, ...]) -> list[str]:
    """Return why pagemaps are not deduplicated, a line for each."""
    lines = []
    for one in pagemaps:
        if one.state == "deduplicated":
            continue
        line = f"{label(one)}: {one.state}"
        if one.reason:
            line += f", {safe(one.reason)}"
        if one.detail.savable_bytes:
            line += f"; deduplication would save {binary_size(one.detail.savable_bytes)}"
        lines.append(line)
    return [*lines, ""] if lines else []


def shared_pages(one: PagemapReport) -> list[str]:
    """Return that a pagemap shares pages of its vmemmap: one line, none if it does not."""
    return shared_line(label(one), one.shared_pages, one.vmemmap.pages - one.detail.pages_elsewhere)


def shared_lines(report: Report, only: PagemapReport | None = None) -> list[str]:
    """
    Return the frames of tail pages that devices share, a line for each, with a blank line.

    :param only: a pagemap: those that it maps
    """
    if isinstance(report.device_tails, UnsetType):
        return []
    size = binary_size(report.target.page_size)
    lines = []
    for one in report.device_tails:
        if only is not None and only.label not in one.pagemaps:
            continue
        lines.append(
            f"{one.place}, mapped {one.entries} times by {safe(', '.join(one.pagemaps))};"
            f" {size} for all of them, kept until the next boot"
        )
    return [*lines, ""] if lines else []


def totals(report: Report) -> list[str]:
    """Return the sums over all pagemaps, and what was checked; nothing without pagemaps."""
    summary, page_size = report.summary, report.target.page_size
    if not report.pagemaps:
        return []
    backed = vmemmap_in_frames(summary.vmemmap_pages, summary.backing_frames, page_size)
    lines = [
        f"{count(summary.pagemaps, 'pagemap')}: {backed}, {binary_size(summary.saved_bytes)} saved,"
        f" {amount(summary.savable_bytes)} more could be saved"
    ]
    lines.append(f"checked: {_refcounts(report)}; {_contents(report)}")
    outcomes = report.all_outcomes()
    if outcomes:
        counts = outcome_counts(outcomes, report.every_finding())
        lines.append(f"rules, once for each pagemap: {counts}")
    return lines


def _refcounts(report: Report) -> str:
    page_size = report.target.page_size
    checked, unreadable = report.summary.refcounts_checked, report.summary.refcounts_unreadable
    text = f"reference counts of {count(checked, 'frame')}"
    if any(max(one.vmemmap.leaf_sizes, default=0) > page_size for one in report.pagemaps):
        text += ", one for each large leaf"
    return f"{text} ({unreadable} more could not be read)" if unreadable else text


def _contents(report: Report) -> str:
    summary = report.summary
    if summary.contents == "none":
        return "no struct pages (--contents none)"
    parts = []
    for checked, total, unreadable, what in (
        (
            summary.compounds_checked,
            summary.compounds,
            summary.compounds_unreadable,
            "compound page",
        ),
        (
            summary.base_pages_checked,
            summary.base_pages,
            summary.base_pages_unreadable,
            "base page",
        ),
    ):
        if total:
            parts.append(f"{checked} of {count(total, what)}")
        if unreadable:
            parts[-1] += f" ({unreadable} could not be read, or only in part)"
    return f"struct pages of {', '.join(parts)}" if parts else "no struct pages (none to check)"
