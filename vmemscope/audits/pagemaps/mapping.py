# SPDX-License-Identifier: LGPL-2.1-or-later
"""One pass over the page tables of a pagemap's vmemmap: leaves, compound pages, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...columns import select
from ...report.documents.pgmap import FrameSpan
from ...rules.frames import AltmapFacts, altmap_frame
from ...rules.leaves import (
    COMPOUND_RULES,
    LEAF_RULES,
    NO_COMPOUNDS,
    NO_FALLBACK,
    NO_TAIL,
    ApartFacts,
    LeafFacts,
    TailFacts,
    executable,
    hole,
    leaf_fallback,
    leaf_size,
    not_deduplicated,
    read_only,
    tail_frame,
)
from ...rules.pagemap import NO_RANGE
from ...vmemmap.compound import judge, sound_compounds, whole_compounds
from ...vmemmap.frames import Runs, runs_of
from ...vmemmap.layout import Dedup, Populated, pieces_of, unknown_piece
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...vmemmap.compound import Judged
    from ...vmemmap.layout import Piece
    from ...vmemmap.tables import Batch, Leaves
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
    if piece.populated is Populated.COMPOUND:
        batches = _unsound_runs(subject, piece, vmemmap, step)
        for judged in judged_compounds(batches, piece, subject, vmemmap):
            _take_compounds(subject, judged, piece, vmemmap)
    else:
        for leaves in vmemmap.leaves(piece.start, piece.end):
            _take_plain(
                subject, _checked_runs(subject, leaves, piece, vmemmap, step), piece, vmemmap
            )


def _checked_runs(
    subject: Subject, leaves: Leaves, piece: Piece, vmemmap: Vmemmap, step: Callable[[int], None]
) -> Runs:
    geometry = vmemmap.geometry
    shifts, counts = np.unique(leaves.shift[leaves.kind == Kind.MAPPED], return_counts=True)
    for shift, count in zip(shifts.tolist(), counts.tolist(), strict=True):
        subject.leaf_sizes[1 << shift] += count
    facts = LeafFacts.of(leaves, piece.populated, vmemmap.table, geometry)
    for rule in LEAF_RULES:
        subject.findings.check(rule, facts)
    runs = runs_of(leaves, geometry, piece.start, piece.end)
    for kind in Kind:
        subject.by_kind[kind] += int(runs.length[runs.kind == kind].sum())
    subject.findings.check(hole, runs, geometry)
    step(int(runs.length.sum()))
    return runs


def _unsound_runs(
    subject: Subject, piece: Piece, vmemmap: Vmemmap, step: Callable[[int], None]
) -> Iterator[Runs]:
    """
    Walk a piece of compound pages, and take those that are as they should be.

    What a batch has of them is looked at in one piece, straight in the tables, and what
    two batches have one part each of as soon as the second is there.

    :return: runs of the rest: of batches in which any one is not, and of compound
        pages of which one has a part
    """
    geometry, table = vmemmap.geometry, vmemmap.table
    size = geometry.compound_vpages(subject.order)

    def checked(batch: Batch, start: int, end: int) -> Runs:
        leaves = batch.part(geometry.address(start), geometry.address(end))
        return _checked_runs(subject, leaves, piece, vmemmap, step)

    #: what the last batch has of a compound page that goes on in the next: from which
    #: vpage to which, and the entries
    held: tuple[Batch, int, int, NDArray[np.uint64]] | None = None
    for batch in vmemmap.batches(piece.start, piece.end):
        found = batch.entries()
        sound = None
        if found is not None:
            address, entries = found
            start = geometry.vpage_at(address)
            stop = start + len(entries)
            # Compound pages that the batch has as a whole.
            first = start + (piece.origin - start) % size
            end = stop - (stop - piece.origin) % size
            if first < end:
                sound = sound_compounds(entries[first - start : end - start], table, size)
        if held is not None:
            before, begin, cut, part = held
            held, one = None, None
            if sound is not None and begin + size == first and cut == start:
                one = sound_compounds(np.concatenate((part, entries[: first - start])), table, size)
            if one is not None:
                _take_sound(subject, one, begin, piece, vmemmap)
                step(size)
                start = first
            else:
                yield checked(before, begin, cut)
        if sound is None:
            yield _checked_runs(subject, batch.leaves(), piece, vmemmap, step)
            continue
        if start < first:
            yield checked(batch, start, first)
        _take_sound(subject, sound, first, piece, vmemmap)
        step(end - first)
        if end < stop:
            held = batch, end, stop, entries[end - stop :]
    if held is not None:
        before, begin, cut, _ = held
        yield checked(before, begin, cut)


def _take_sound(
    subject: Subject, frames: NDArray[np.uint64], vpage: int, piece: Piece, vmemmap: Vmemmap
) -> None:
    """
    Take compound pages that are mapped as they should be.

    :param frames: of their heads and of their tails, shape ``(n, 2)``
    :param vpage: first vpage of the first
    """
    size = vmemmap.geometry.compound_vpages(subject.order)
    subject.findings.checked(hole, leaf_size, read_only, executable, *COMPOUND_RULES)
    subject.findings.skipped(NO_FALLBACK[Populated.COMPOUND], leaf_fallback)
    subject.leaf_sizes[vmemmap.table.page_size] += len(frames) * size
    subject.by_kind[Kind.MAPPED] += len(frames) * size
    subject.compounds += len(frames)
    subject.ram.add_compounds(frames, vpage, size)
    if vpage not in _drawn(subject, vmemmap):
        return
    at = vpage + np.arange(min(len(frames), _DRAWN_PLAIN), dtype=np.int64) * size
    runs = Runs(
        np.stack((at, at + 1), axis=1).ravel(),
        np.tile(np.array([1, size - 1], dtype=np.int64), len(at)),
        frames[: len(at)].ravel(),
        np.zeros(len(at) * 2, dtype=np.uint8),
        np.full(len(at) * 2, Kind.MAPPED, dtype=np.uint8),
    )
    _keep_first(subject, runs, ["head", "tail"] * len(at), vmemmap)


def _take_plain(subject: Subject, runs: Runs, piece: Piece, vmemmap: Vmemmap) -> None:
    _keep_first(subject, runs, [piece.populated.value] * len(runs.vpage), vmemmap)
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
    roles = np.where(judged.head, "head", "tail").tolist()
    _keep_first(subject, judged.runs, roles, vmemmap)
    in_ram = vmemmap.ram.contains(judged.runs.pfn)
    facts = TailFacts.of(judged, in_ram, vmemmap.geometry)
    subject.findings.check(tail_frame, facts)
    if facts.any_tail:
        subject.findings.checked(not_deduplicated)
    else:
        subject.findings.skipped(NO_TAIL, not_deduplicated)
    subject.apart.extend((piece.origin, number) for number in facts.apart.tolist())
    subject.compounds += int(np.count_nonzero(np.diff(judged.compound))) + 1
    mapped = judged.runs.kind == Kind.MAPPED
    owner = judged.owner.copy()
    # Where nothing is shared, each page should at least own what it maps.
    owner[np.isin(judged.compound, facts.apart)] = 1
    subject.ram.add(select(judged.runs, mapped), owner[mapped])


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
