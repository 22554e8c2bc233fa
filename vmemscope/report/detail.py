# SPDX-License-Identifier: LGPL-2.1-or-later
"""One pagemap in detail: its fields, the expected layout, the layout found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UnsetType

from ..rules.findings import Outcome
from ..text import binary_size
from .drawing import caption, draw
from .table import shared_lines
from .words import (
    bug_lines,
    count,
    finding_line,
    header,
    label,
    left_out,
    not_read,
    outcome_counts,
    safe,
    tally,
    verdict,
    verdict_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..vmemmap.layout import Geometry, Piece
    from .documents.pgmap import PagemapReport, Report

__all__ = ("render_one",)

#: columns of the longest bar of a histogram
_BAR = 40
#: lines of ranges, of pieces and of a histogram before the rest is only counted
_MOST = 32


def render_one(report: Report, one: PagemapReport, width: int) -> str:
    """
    Return one pagemap of a report as text.

    :param width: columns of the drawing and the histogram (:mod:`.width`)
    """
    who, geometry = label(one), one.detail.geometry
    lines = [header(report.target), "", who]
    lines += [f"  {name:<14}  {value}".rstrip() for name, value in _fields(one, geometry)]
    lines += ["", "expected layout"]
    lines += _most([_piece(piece, one, geometry) for piece in one.detail.pieces])
    lines += ["", "entries that map a frame: frames"]
    lines += _histogram(one.frames.sharing, width)
    if shared := shared_lines(report, one):
        lines += ["", *shared[:-1]]
    lines += ["", caption(one, geometry), ""]
    lines += draw(one, geometry, width)
    lines.append("")
    lines += _outcomes(one)
    if bugs := bug_lines(bug for bug in report.bugs if bug.pgmap == one.address):
        lines += [*bugs, ""]
    if one.findings:
        lines += [finding_line(finding, who) for finding in one.findings]
        lines += ["", *_rules({finding.rule for finding in one.findings}), ""]
    unread = [*not_read(report.summary.not_read), *left_out(report)]
    if unread:
        lines += ["in all of the target:", *(f"  {line}" for line in unread), ""]
    # A report does not say whose contents could not be read: then no pagemap is called sound.
    partial = bool(one.detail.not_read)
    lines.append(f"{who}: {verdict(tally(one.findings), partial)}")
    lines.append(f"all pagemaps: {verdict_of(report)}")
    return "\n".join(lines) + "\n"


def _fields(one: PagemapReport, geometry: Geometry) -> list[tuple[str, str]]:
    vmemmap, frames = one.vmemmap, one.frames
    fields = [
        ("dev_pagemap", f"{one.address:#x}"),
        ("type", one.type),
        ("vmemmap_shift", _shift(one, geometry)),
        ("altmap", _altmap(one)),
    ]
    valid = {(r.start, r.end) for r in one.detail.ranges}
    ranges = [
        f"{r.start:#x}-{r.end:#x} ({binary_size(r.end - r.start + 1)})"
        + ("" if (r.start, r.end) in valid else ", not valid: not audited")
        for r in one.ranges
    ]
    fields += _listed("range", "ranges", _most(ranges, ""))
    if vmemmap.start is not None and vmemmap.end is not None:
        fields.append(("vmemmap", f"{vmemmap.start:#x}-{vmemmap.end - 1:#x}"))
    fields += [
        (
            "pages",
            f"{vmemmap.pages}: {vmemmap.mapped} mapped, {vmemmap.unmapped} not mapped,"
            f" {vmemmap.unreadable} unreadable",
        ),
        (
            "leaves",
            ", ".join(
                f"{vmemmap.leaf_sizes[size]} of {binary_size(size)}"
                for size in sorted(vmemmap.leaf_sizes)
            )
            or "none",
        ),
        (
            "frames",
            f"{frames.backing}, expected "
            + ("not known" if frames.expected is None else str(frames.expected)),
        ),
        ("saved", binary_size(one.saved_bytes)),
    ]
    if not isinstance(one.shared_pages, UnsetType):
        fields.append(("neighbours", safe(one.shared_pages.sentence)))
    if one.detail.savable_bytes:
        fields.append(("could save", f"{binary_size(one.detail.savable_bytes)} more"))
    reason = f", {safe(one.reason)}" if one.reason else ""
    fields.append(("state", one.state + reason))
    return fields


def _listed(singular: str, plural: str, values: list[str]) -> list[tuple[str, str]]:
    """Return fields with the name before the first value only."""
    names = [singular if len(values) == 1 else plural, *[""] * (len(values) - 1)]
    return list(zip(names, values, strict=True))


def _shift(one: PagemapReport, geometry: Geometry) -> str:
    shift = one.vmemmap_shift
    if shift is None:
        return "none in this kernel" if one.detail.ranges else "not read"
    if one.compound_size is None:
        return f"{shift}, which makes no sense"
    if not shift:
        return "0, no compound pages"
    pages = count(geometry.compound_vpages(shift), "page")
    return f"{shift}, compound pages of {binary_size(one.compound_size)}, {pages} of vmemmap each"


def _altmap(one: PagemapReport) -> str:
    altmap = one.altmap
    if altmap is None:
        return "none"
    return (
        f"base_pfn {altmap.base_pfn:#x}, end_pfn {altmap.end_pfn:#x}, reserve {altmap.reserve},"
        f" free {altmap.free}, align {altmap.align}, alloc {altmap.alloc}"
    )


def _piece(piece: Piece, one: PagemapReport, geometry: Geometry) -> str:
    """Return how the kernel should have populated a piece of the vmemmap, and why."""
    start, last = geometry.address(piece.start), (geometry.address(piece.end) - 1) % (1 << 64)
    text = {
        "compound": "deduplicated: a frame for the head of each compound page,"
        + (" the node's for all tail pages" if one.detail.per_zone else " one for its tail pages"),
        "early": "as at boot: it is in a section that has had a memory map since then",
        "leaf": f"leaves of {binary_size(geometry.leaf)}"
        + (" on the device (altmap)" if one.altmap else " of RAM")
        + ": whole sections, not deduplicated",
        "base": "base pages of RAM"
        + (", altmap or not" if one.altmap else "")
        + ": part of a section, not deduplicated",
        "neighbour": "as its neighbour's, which it counts with",
        "unknown": "not known: its vmemmap_shift makes no sense",
    }[piece.populated.value]
    if piece.others:
        text += f"; it describes {safe(', '.join(piece.others))}, too"
    return f"{start:#x}-{last:#x}  {count(piece.end - piece.start, 'page')}  {text}"


def _most(lines: list[str], indent: str = "  ") -> list[str]:
    """Return indented lines, at most 32, and how many more there are."""
    shown = [indent + line for line in lines[:_MOST]]
    if len(lines) > _MOST:
        shown.append(f"{indent}and {len(lines) - _MOST} more")
    return shown or [f"{indent}none"]


def _histogram(sharing: Mapping[int, int], width: int) -> list[str]:
    """Return bars of the number of frames by the number of entries that map them."""
    if not sharing:
        return ["  none"]
    entries = max(len(str(key)) for key in sharing)
    frames = max(len(str(value)) for value in sharing.values())
    room = min(max(width - entries - frames - 6, 1), _BAR)
    most = max(sharing.values())
    return _most(
        [
            f"{key:>{entries}}: {sharing[key]:>{frames}}"
            f"  {'#' * max(room * sharing[key] // max(most, 1), 1)}"
            for key in sorted(sharing)
        ]
    )


def _outcomes(one: PagemapReport) -> list[str]:
    """Return which rules were not evaluated, and why; rules of one reason on one line."""
    if not one.outcomes:
        return []
    lines = [f"rules: {outcome_counts(one.outcomes, one.findings)}"]
    reasons: dict[tuple[bool, str], list[str]] = {}
    for outcome in one.outcomes:
        if outcome.reason is not None:
            skipped = outcome.outcome is Outcome.SKIPPED
            reasons.setdefault((skipped, outcome.reason), []).append(outcome.rule)
    for (skipped, reason), rules in reasons.items():
        why = f"{'skipped' if skipped else 'not for all'}: {safe(reason)}"
        lines.append(f"  {', '.join(rules)}: {why}")
    return [*lines, ""]


def _rules(rules: Iterable[str]) -> list[str]:
    """Return what must hold by rules, and its kernel source."""
    lines = []
    from ..rules import RULES

    for name in sorted(rules):
        if name in RULES:
            rule = RULES[name]
            lines.append(f"{name}: {rule.holds} [{rule.source}, {rule.versions}]")
    return lines
