# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report of a pagemap: counts, savings, state and reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ...report.documents.common import SharedPages
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
from ...rules.frames import frame_not_memory
from ...rules.rule import Scope
from ...text import count
from ...vmemmap.layout import Populated, expected_frames
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from ...vmemmap.frames import FrameTotals
    from ...vmemmap.layout import Geometry
    from .audited import AuditedPagemap

__all__ = ("report_on",)


def report_on(
    audited: AuditedPagemap, frames: FrameTotals, geometry: Geometry, elsewhere: int, again: int
) -> PagemapReport:
    """
    Return the report of a pagemap.

    :param frames: all frames that back its vmemmap, summed up
    :param elsewhere: how many of them count with a neighbour
    :param again: how many of the others an earlier pagemap has, too
    """
    backing = frames.backing
    mapped = audited.by_kind[Kind.MAPPED]
    size = geometry.compound_vpages(audited.order)
    unknown = sum(p.end - p.start for p in audited.pieces if p.populated is Populated.UNKNOWN)
    known = bool(audited.ranges) and audited.shift_sound and not unknown
    scheme = audited.dedup.scheme
    zone = int(any(p.populated is Populated.COMPOUND for p in audited.pieces) and scheme.per_zone)
    expected = expected_frames(audited.pieces, size, scheme) + zone if known else None
    # What lies on the device is moved, not saved.
    moved = audited.pagemap.altmap is not None
    savable = 0
    if size > 2 and known and not geometry.straddles:
        ideal = [
            piece
            if piece.populated is Populated.NEIGHBOUR
            else replace(piece, populated=Populated.COMPOUND)
            for piece in audited.pieces
        ]
        savable = max(backing - expected_frames(ideal, size, scheme) - int(scheme.per_zone), 0)
    state, reason = _state(audited, frames, expected)
    pagemap, pieces = audited.pagemap, audited.pieces
    return PagemapReport(
        address=pagemap.address,
        name=audited.name,
        type=pagemap.type,
        vmemmap_shift=pagemap.vmemmap_shift,
        compound_size=geometry.page_size << audited.order if audited.shift_sound else None,
        altmap=None if pagemap.altmap is None else Altmap.of(pagemap.altmap),
        ranges=tuple(Range.of(one) for one in pagemap.ranges),
        vmemmap=VmemmapCounts(
            start=geometry.address(min(p.start for p in pieces)) if pieces else None,
            end=geometry.address(max(p.end for p in pieces)) if pieces else None,
            pages=audited.vpages,
            mapped=mapped,
            unmapped=audited.by_kind[Kind.HOLE],
            unreadable=audited.by_kind[Kind.UNREADABLE],
            leaf_sizes=audited.leaf_sizes,
        ),
        shared_pages=SharedPages.summed(audited.layout, audited.shared_pages.values()),
        frames=FrameCounts(
            backing,
            expected,
            frames.sharing,
            frames.on_device,
            backing - frames.on_device - frames.in_ram,
        ),
        saved_bytes=0 if moved else max(mapped - backing, 0) * geometry.page_size,
        state=state,
        reason=reason,
        findings=audited.findings.finish(),
        outcomes=audited.findings.outcomes(rules_of(Scope.PAGEMAP, geometry.arch.name, scheme.id)),
        detail=PagemapDetail(
            pagemap=pagemap,
            geometry=geometry,
            ranges=audited.ranges,
            pieces=tuple(pieces),
            first=tuple(audited.first),
            cells=audited.cells,
            savable_bytes=savable * geometry.page_size,
            not_read=tuple(f"{what}: {n}" for what, n in sorted(audited.not_read.items()) if n),
            per_zone=audited.shared is not None,
            pages_elsewhere=audited.pages_elsewhere,
            frames_elsewhere=elsewhere,
            saved_elsewhere=0 if moved else audited.mapped_elsewhere - elsewhere,
            frames_again=again,
        ),
    )


def _state(
    audited: AuditedPagemap, frames: FrameTotals, expected: int | None
) -> tuple[State, str | None]:
    backing = frames.backing
    mapped, unreadable = audited.by_kind[Kind.MAPPED], audited.by_kind[Kind.UNREADABLE]
    if not audited.ranges:
        damage = [one.message for one in audited.pagemap.damage]
        return "unreadable", damage[0] if damage else "it has no valid range"
    if not mapped and unreadable:
        return "unreadable", "the page tables of its vmemmap could not be read"
    if not audited.shift_sound:
        return "unreadable", "its vmemmap_shift makes no sense"
    if audited.pagemap.altmap is not None:
        return "not-optimized", _altmap(audited, frames)
    if not audited.dedup.expected:
        return "not-optimized", audited.dedup.reason
    holes = audited.by_kind[Kind.HOLE]
    early = sum(p.end - p.start for p in audited.pieces if p.populated is Populated.EARLY)
    if early == audited.vpages:
        return "not-optimized", "it lies in sections that were there at boot"
    if not mapped:
        return "not-optimized", "nothing of its vmemmap is mapped"
    if mapped == backing:
        return "not-optimized", "no two pages of its vmemmap share a frame"
    if early:
        return "partial", f"{early} pages of its vmemmap lie in sections that were there at boot"
    if unreadable:
        return "partial", f"{unreadable} of {audited.vpages} pages of its vmemmap not readable"
    if holes:
        return "partial", f"{holes} of {audited.vpages} pages of its vmemmap not mapped"
    if expected is None:
        return "partial", "sections that it is in part of could not be read, or have another order"
    if backing != expected:
        return "partial", f"backed by {backing} frames instead of {expected}"
    return "deduplicated", None


def _altmap(audited: AuditedPagemap, frames: FrameTotals) -> str:
    """
    Return where the frames of a pagemap with an altmap are.

    Only whole sections take theirs from it (``arch/x86/mm/init_64.c: vmemmap_populate()``).
    """
    backing, device, ram = frames.backing, frames.on_device, frames.in_ram
    if device and device == backing:
        return "the memory map lies on the device (altmap)"
    if not backing:
        return "it has an altmap, and nothing of its vmemmap is known to be mapped"
    populated = {piece.populated for piece in audited.pieces}
    causes = [
        words
        for piece, words in (
            (Populated.BASE, "parts of sections"),
            (Populated.EARLY, "sections that were there at boot"),
        )
        if piece in populated
    ]
    shared, elsewhere = "leaves that neighbouring sections share", "in no memory"
    if Populated.NEIGHBOUR in populated or any(piece.others for piece in audited.pieces):
        causes.append("pages that describe neighbours, too")
    if audited.shared_leaves:
        causes.append(shared)
        if not audited.findings.has(frame_not_memory):
            # Whichever section was added first gave them.
            elsewhere = f"on another device ({shared})"
    in_ram = "in RAM" + (f" ({', '.join(causes)})" if causes else "")
    if ram == backing:
        return f"it has an altmap, but the memory map lies {in_ram}"
    places = (
        (device, "on the device (altmap)"),
        (ram, in_ram),
        (backing - device - ram, elsewhere),
    )
    return "of the memory map, " + ", ".join(
        f"{count(frames, 'frame')} {'is' if frames == 1 else 'are'} {where}"
        for frames, where in places
        if frames
    )
