# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what was gathered of a pagemap to its report: counts, savings, state and reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...report.documents.pgmap import (
    Altmap,
    FrameCounts,
    PagemapDetail,
    PagemapReport,
    Range,
    State,
    VmemmapCounts,
)
from ...rules import rules_of
from ...rules.rule import Scope
from ...vmemmap.layout import Populated, expected_frames
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from ...vmemmap.frames import FrameTotals
    from ...vmemmap.layout import Geometry
    from .subject import Subject

__all__ = ("report_on",)


def report_on(subject: Subject, frames: FrameTotals, geometry: Geometry) -> PagemapReport:
    """
    Sum a pagemap up.

    :param frames: all frames that back its vmemmap, summed up
    """
    backing = frames.backing
    mapped = subject.by_kind[Kind.MAPPED]
    size = geometry.compound_vpages(subject.order)
    known = bool(subject.ranges) and subject.shift_sound
    expected = expected_frames(subject.pieces, size) if known else None
    # What lies on the device is moved, not saved.
    moved = subject.pagemap.altmap is not None
    savable = 0
    if size > 2 and known:
        ideal = [replace(piece, populated=Populated.COMPOUND) for piece in subject.pieces]
        savable = max(backing - expected_frames(ideal, size), 0)
    state, reason = _state(subject, backing, expected)
    pagemap, pieces = subject.pagemap, subject.pieces
    return PagemapReport(
        address=pagemap.address,
        name=subject.name,
        type=pagemap.type,
        vmemmap_shift=pagemap.vmemmap_shift,
        compound_size=geometry.page_size << subject.order if subject.shift_sound else None,
        altmap=None if pagemap.altmap is None else Altmap.of(pagemap.altmap),
        ranges=tuple(Range.of(one) for one in pagemap.ranges),
        vmemmap=VmemmapCounts(
            start=geometry.address(min(p.start for p in pieces)) if pieces else None,
            end=geometry.address(max(p.end for p in pieces)) if pieces else None,
            pages=subject.vpages,
            mapped=mapped,
            unmapped=subject.by_kind[Kind.HOLE],
            unreadable=subject.by_kind[Kind.UNREADABLE],
            leaf_sizes=subject.leaf_sizes,
        ),
        frames=FrameCounts(backing, expected, frames.sharing),
        saved_bytes=0 if moved else max(mapped - backing, 0) * geometry.page_size,
        state=state,
        reason=reason,
        findings=subject.findings.finish(),
        outcomes=subject.findings.outcomes(rules_of(Scope.PAGEMAP)),
        detail=PagemapDetail(
            pagemap=pagemap,
            geometry=geometry,
            ranges=subject.ranges,
            pieces=tuple(pieces),
            first=tuple(subject.first),
            savable_bytes=savable * geometry.page_size,
            not_read=tuple(f"{what}: {n}" for what, n in sorted(subject.not_read.items()) if n),
        ),
    )


def _state(subject: Subject, backing: int, expected: int | None) -> tuple[State, str | None]:
    mapped, unreadable = subject.by_kind[Kind.MAPPED], subject.by_kind[Kind.UNREADABLE]
    if not subject.ranges:
        damage = [one.message for one in subject.pagemap.damage]
        return "unreadable", damage[0] if damage else "it has no valid range"
    if not mapped and unreadable:
        return "unreadable", "the page tables of its vmemmap could not be read"
    if not subject.shift_sound:
        return "unreadable", "its vmemmap_shift makes no sense"
    if not subject.dedup.expected:
        return "not-optimized", subject.dedup.reason
    holes = subject.by_kind[Kind.HOLE]
    early = sum(p.end - p.start for p in subject.pieces if p.populated is Populated.EARLY)
    if early == subject.vpages:
        return "not-optimized", "it lies in sections that were there at boot"
    if not mapped:
        return "not-optimized", "nothing of its vmemmap is mapped"
    if mapped == backing:
        return "not-optimized", "no two pages of its vmemmap share a frame"
    if early:
        return "partial", f"{early} pages of its vmemmap lie in sections that were there at boot"
    if unreadable:
        return "partial", f"{unreadable} of {subject.vpages} pages of its vmemmap not readable"
    if holes:
        return "partial", f"{holes} of {subject.vpages} pages of its vmemmap not mapped"
    if backing != expected:
        return "partial", f"backed by {backing} frames, and not by {expected}"
    return "deduplicated", None
