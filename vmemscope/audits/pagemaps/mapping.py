# SPDX-License-Identifier: LGPL-2.1-or-later
"""One pass over the page tables of a pagemap's vmemmap: leaves, compound pages, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...columns import select
from ...limits import LIMITS
from ...report.documents.pgmap import FrameSpan
from ...rules.frames import AltmapFacts, altmap_frame
from ...rules.leaves import (
    COMPOUND_RULES,
    LEAF_RULES,
    NO_COMPOUNDS,
    NO_TAIL,
    ApartFacts,
    LeafFacts,
    TailFacts,
    hole,
    not_deduplicated,
    tail_frame,
)
from ...rules.pagemap import NO_RANGE
from ...vmemmap.layout import Dedup, Populated, pieces_of, unknown_piece
from ...vmemmap.runs import are_regular, judge, runs_of, whole_compounds
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from ...vmemmap.layout import Piece
    from ...vmemmap.runs import Judged, Runs
    from ...vmemmap.tables import Leaves
    from ...vmemmap.vmemmap import Vmemmap
    from .subject import Subject

__all__ = ("judged_compounds", "map_subject", "runs_of_piece")

#: vpages drawn where there are no compound pages
_DRAWN_PLAIN = 8
#: spans kept for drawing at the most
_DRAWN_SPANS = 64


def map_subject(subject: Subject, vmemmap: Vmemmap, step: Callable[[int], None]) -> None:
    """
    Walk all that describes a pagemap, gather its frames, check its entries.

    :param step: called with the vpages of each batch that was walked
    """
    geometry = vmemmap.geometry
    if not subject.ranges:
        subject.findings.skipped(NO_RANGE, hole, *LEAF_RULES, *COMPOUND_RULES, altmap_frame)
        return
    if subject.dedup.expected is None:
        shares = _shares(subject, vmemmap)
        subject.dedup = Dedup(shares, None if shares else subject.dedup.reason)
    for one in subject.ranges:
        first, end = one.start // geometry.page_size, (one.end + 1) // geometry.page_size
        dedup = bool(subject.dedup.expected)
        for piece in (
            pieces_of(first, end, subject.pagemap, geometry, vmemmap.sections, dedup)
            if subject.shift_sound
            else [unknown_piece(first, end, geometry)]
        ):
            subject.pieces.append(piece)
            _map_piece(subject, piece, vmemmap, step)
    if subject.apart:
        size = geometry.compound_vpages(subject.order)
        subject.findings.check(
            not_deduplicated, ApartFacts(subject.apart, subject.compounds, size, geometry)
        )


def runs_of_piece(piece: Piece, vmemmap: Vmemmap) -> Iterator[Runs]:
    """Walk a piece once more, for its runs alone."""
    for leaves in vmemmap.leaves(piece.start, piece.end):
        yield runs_of(leaves, vmemmap.geometry, piece.start, piece.end)


def judged_compounds(
    batches: Iterator[Runs], piece: Piece, subject: Subject, vmemmap: Vmemmap
) -> Iterator[Judged]:
    """Judge the compound pages of a piece, whole ones at a time."""
    size = vmemmap.geometry.compound_vpages(subject.order)
    for runs in whole_compounds(batches, piece, size):
        yield judge(runs, piece.origin, size)


def _shares(subject: Subject, vmemmap: Vmemmap) -> bool:
    """Tell from the first compound page whether this kernel deduplicates."""
    first = vmemmap.geometry.vpage(subject.ranges[0].start // vmemmap.geometry.page_size)
    pfn, kind = vmemmap.frames_of(np.array([first + 1, first + 2]))
    return bool((kind == Kind.MAPPED).all() and pfn[0] == pfn[1])


def _map_piece(
    subject: Subject, piece: Piece, vmemmap: Vmemmap, step: Callable[[int], None]
) -> None:
    if piece.populated is not Populated.COMPOUND:
        reason = NO_COMPOUNDS.get(piece.populated, subject.dedup.reason)
        subject.findings.skipped(reason or "it is not deduplicated", *COMPOUND_RULES)
    if subject.pagemap.altmap is None:
        subject.findings.skipped("no altmap", altmap_frame)
    elif piece.populated is not Populated.LEAF:
        subject.findings.skipped("parts that have base pages of RAM, altmap or not", altmap_frame)
    walk = vmemmap.leaves(piece.start, piece.end)
    if piece.populated is Populated.COMPOUND:
        walk = _irregular(walk, subject, piece, vmemmap, step)
    batches = _checked_runs(walk, subject, piece, vmemmap, step)
    if piece.populated is Populated.COMPOUND:
        for judged in judged_compounds(batches, piece, subject, vmemmap):
            _take_compounds(subject, judged, piece, vmemmap)
    else:
        for runs in batches:
            _take_plain(subject, runs, piece, vmemmap)


def _irregular(
    walk: Iterator[Leaves],
    subject: Subject,
    piece: Piece,
    vmemmap: Vmemmap,
    step: Callable[[int], None],
) -> Iterator[Leaves]:
    """
    Take batches of regular compound pages, but for the first page, which stands for all.

    A short cut: no rule can find anything in one that it does not find in all. It takes
    two thirds off the walk of terabytes (python -m bench.layout --simulated 16T:2M).

    :return: the batches that are left, and the first regular compound page
    """
    geometry = vmemmap.geometry
    size, shift = geometry.compound_vpages(subject.order), geometry.page_size.bit_length() - 1
    first = True
    for leaves in walk:
        start = geometry.vpage_at(int(leaves.address[0]))
        end = geometry.vpage_at(int(leaves.address[-1])) + int(leaves.pieces[-1])
        # Compound pages that the batch has as a whole, by their first and last leaves.
        start += (piece.origin - start) % size
        end -= (end - piece.origin) % size
        bounds = geometry.addresses(np.array([start, end]))
        begin, stop = np.searchsorted(leaves.address, bounds).tolist()
        whole = select(leaves, slice(begin, stop))
        if not (LIMITS.short_cuts and start < end and are_regular(whole, size, shift)):
            yield leaves
            continue
        if begin:
            yield select(leaves, slice(begin))
        frames = whole.pfn.reshape(-1, 2)
        if first:
            yield select(whole, slice(2))
            frames, start, first = frames[1:], start + size, False
        if len(frames):
            pages = len(frames) * size
            subject.leaf_sizes[geometry.page_size] += pages
            subject.by_kind[Kind.MAPPED] += pages
            subject.compounds += len(frames)
            subject.ram.add_compounds(frames, start, size)
            step(pages)
        if stop < len(leaves.address):
            yield select(leaves, slice(stop, None))


def _checked_runs(
    walk: Iterator[Leaves],
    subject: Subject,
    piece: Piece,
    vmemmap: Vmemmap,
    step: Callable[[int], None],
) -> Iterator[Runs]:
    """Check the leaves of a piece, and get its runs."""
    geometry = vmemmap.geometry
    for leaves in walk:
        mapped = leaves.kind == Kind.MAPPED
        for level in vmemmap.table.levels:
            if (here := mapped & (leaves.shift == level.shift)).any():
                subject.leaf_sizes[level.size] += int(leaves.pieces.sum(where=here))
        facts = LeafFacts.of(leaves, piece.populated, vmemmap.table, geometry)
        for rule in LEAF_RULES:
            subject.findings.check(rule, facts)
        runs = runs_of(leaves, geometry, piece.start, piece.end)
        pages = 0
        for kind in Kind:
            if (of_kind := runs.kind == kind).any():
                pages += (count := int(runs.length.sum(where=of_kind)))
                subject.by_kind[kind] += count
        subject.findings.check(hole, runs, geometry)
        step(pages)
        yield runs


def _take_plain(subject: Subject, runs: Runs, piece: Piece, vmemmap: Vmemmap) -> None:
    _keep_first(subject, runs, [piece.populated.value] * _DRAWN_SPANS, vmemmap)
    mapped = select(runs, runs.kind == Kind.MAPPED)
    # Every page should own its frame: as many owners as entries.
    owners = np.where(mapped.order == 0, mapped.length, 1)
    altmap = subject.pagemap.altmap
    if piece.populated in (Populated.EARLY, Populated.UNKNOWN):
        subject.boot.add(mapped, owners)
    elif altmap is not None and piece.populated is Populated.LEAF:
        subject.findings.check(altmap_frame, AltmapFacts(mapped, altmap, vmemmap.geometry))
        subject.device.add(mapped, owners)
    else:
        subject.ram.add(mapped, owners)


def _take_compounds(subject: Subject, judged: Judged, piece: Piece, vmemmap: Vmemmap) -> None:
    roles = np.where(judged.head[:_DRAWN_SPANS], "head", "tail").tolist()
    _keep_first(subject, judged.runs, roles, vmemmap)
    in_ram = vmemmap.ram.contains(judged.runs.pfn) if judged.wrong.any() else judged.wrong
    facts = TailFacts.of(judged, in_ram, vmemmap.geometry)
    subject.findings.check(tail_frame, facts)
    if facts.any_tail:
        subject.findings.checked(not_deduplicated)
    else:
        subject.findings.skipped(NO_TAIL, not_deduplicated)
    subject.apart.extend((piece.origin, number) for number in facts.apart.tolist())
    subject.compounds += int(np.count_nonzero(np.diff(judged.compound))) + 1
    runs, owner = judged.runs, judged.owner
    if len(facts.apart):
        # Where nothing is shared, each page should at least own what it maps.
        owner = np.where(np.isin(judged.compound, facts.apart), 1, owner)
    if not (mapped := runs.kind == Kind.MAPPED).all():
        runs, owner = select(runs, mapped), owner[mapped]
    subject.ram.add(runs, owner)


def _drawn(subject: Subject, vmemmap: Vmemmap) -> range:
    """Get the vpages that are drawn: of one compound page, or some more where it is small."""
    start = subject.pieces[0].start
    return range(start, start + max(vmemmap.geometry.compound_vpages(subject.order), _DRAWN_PLAIN))


def _keep_first(subject: Subject, runs: Runs, roles: list[str], vmemmap: Vmemmap) -> None:
    """Keep the spans of the first compound page as they are mapped."""
    drawn = _drawn(subject, vmemmap)
    for i in range(min(len(runs.vpage), _DRAWN_SPANS - len(subject.first))):
        vpage = int(runs.vpage[i])
        if vpage not in drawn:
            return
        mapped = bool(runs.kind[i] == Kind.MAPPED)
        subject.first.append(
            FrameSpan(
                address=vmemmap.geometry.address(vpage),
                vpages=min(int(runs.length[i]), drawn.stop - vpage),
                pfn=int(runs.pfn[i]) if mapped else None,
                role=roles[i] if mapped else Kind(runs.kind[i]).name.lower(),
                large=bool(runs.order[i]),
            )
        )
