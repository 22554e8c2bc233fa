# SPDX-License-Identifier: LGPL-2.1-or-later
"""One pass over the page tables of a pagemap's vmemmap: leaves, compound pages, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ...columns import select
from ...limits import LIMITS
from ...report.documents.pgmap import FrameSpan
from ...rules.frames import AltmapFacts, AltmapUse, altmap_alloc, altmap_frame
from ...rules.leaves import (
    COMPOUND_RULES,
    LEAF_RULES,
    NO_COMPOUNDS,
    NO_TAIL,
    WITH_NEIGHBOUR,
    ApartFacts,
    LeafFacts,
    TailFacts,
    hole,
    not_deduplicated,
    tail_frame,
)
from ...rules.pagemap import NO_RANGE
from ...vmemmap.cells import Cells
from ...vmemmap.layout import Populated
from ...vmemmap.runs import are_regular, judge, runs_of, whole_compounds
from ...vmemmap.shared_pages import in_altmaps
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...vmemmap.layout import Piece
    from ...vmemmap.runs import Judged, Runs
    from ...vmemmap.tables import Leaves
    from ...vmemmap.vmemmap import Vmemmap
    from .audited import AuditedPagemap

__all__ = ("judged_compounds", "map_pagemap", "runs_of_piece")

#: vpages drawn where there are no compound pages
_DRAWN_PLAIN = 8
#: spans kept for drawing at the most
_DRAWN_SPANS = 64


def map_pagemap(audited: AuditedPagemap, vmemmap: Vmemmap, step: Callable[[int], None]) -> None:
    """
    Walk all that describes a pagemap, gather its frames, check its entries.

    :param step: called with the vpages of each batch that was walked
    """
    geometry = vmemmap.geometry
    if not audited.ranges:
        rules = (hole, *LEAF_RULES, *COMPOUND_RULES, altmap_frame, altmap_alloc)
        audited.findings.skipped(NO_RANGE, *rules)
        return
    if audited.dedup.expected is None:
        shares = _shares(audited, vmemmap)
        reason = None if shares else audited.dedup.reason
        audited.dedup = replace(audited.dedup, expected=shares, reason=reason)
    pieces = audited.layout.pieces(geometry, vmemmap.sections, audited.scheme)
    audited.pieces += (part for piece in pieces for part in _apart(piece, audited))
    size = geometry.compound_vpages(audited.order)
    audited.cells = Cells(audited.pieces, size, vmemmap.table.levels, geometry)
    for piece in audited.pieces:
        _map_piece(audited, audited.cells, piece, vmemmap, step)
    unread = audited.by_kind[Kind.UNREADABLE] > 0 or not audited.shift_sound
    reason = "not all of its vmemmap is known" if unread else None
    if audited.shared_leaves:
        reason = "large leaves that it shares with neighbouring sections"
    audited.findings.check(altmap_alloc, AltmapUse(audited.pagemap, audited.in_altmap, reason))
    if audited.apart:
        audited.findings.check(
            not_deduplicated,
            ApartFacts(audited.apart, audited.compounds, size, geometry, audited.shared),
        )


def _apart(piece: Piece, audited: AuditedPagemap) -> Iterator[Piece]:
    """Cut off the pages at the ends of a piece that describe other memory, too."""
    start, end = piece.start, piece.end
    for vpage in sorted({start, end - 1} & audited.shared_pages.keys()):
        shared = audited.shared_pages[vpage]
        kept = shared.kept_by(audited.layout)
        if kept and piece.populated is Populated.COMPOUND:
            # Part of a compound page, which is judged as a whole.
            continue
        if start < vpage:
            yield replace(piece, start=start, end=vpage)
        populated = piece.populated if kept else Populated.NEIGHBOUR
        others = shared.others(audited.layout)
        yield replace(piece, start=vpage, end=vpage + 1, populated=populated, others=others)
        start = vpage + 1
    if start < end:
        yield replace(piece, start=start, end=end)


def runs_of_piece(piece: Piece, vmemmap: Vmemmap) -> Iterator[Runs]:
    """Walk a piece once more, for its runs alone."""
    for leaves in vmemmap.leaves(piece.start, piece.end):
        yield runs_of(leaves, vmemmap.geometry, piece.start, piece.end)


def judged_compounds(
    batches: Iterator[Runs], piece: Piece, audited: AuditedPagemap, vmemmap: Vmemmap
) -> Iterator[Judged]:
    """Judge the compound pages of a piece, whole ones at a time."""
    size = vmemmap.geometry.compound_vpages(audited.order)
    for runs in whole_compounds(batches, piece, size):
        yield judge(runs, piece.origin, size, audited.shared_pfn)


def _shares(audited: AuditedPagemap, vmemmap: Vmemmap) -> bool:
    """Return whether the first compound page is deduplicated."""
    first = vmemmap.geometry.vpage(audited.layout.pfns[0][0])
    pfn, kind = vmemmap.frames_of(np.array([first + 1, first + 2]))
    return bool((kind == Kind.MAPPED).all() and pfn[0] == pfn[1])


def _map_piece(
    audited: AuditedPagemap,
    cells: Cells,
    piece: Piece,
    vmemmap: Vmemmap,
    step: Callable[[int], None],
) -> None:
    if piece.populated is not Populated.COMPOUND:
        reason = NO_COMPOUNDS.get(piece.populated, audited.dedup.reason)
        if reason is None and audited.dedup.scheme.by_section:
            reason = "parts of sections, whose tail pages share nothing"
        audited.findings.skipped(reason or "it is not deduplicated", *COMPOUND_RULES)
    if audited.pagemap.altmap is None:
        audited.findings.skipped("no altmap", altmap_frame)
    elif piece.populated is Populated.NEIGHBOUR:
        audited.findings.skipped(WITH_NEIGHBOUR, altmap_frame)
    elif not _in_altmap(audited, piece, vmemmap):
        audited.findings.skipped("parts that have base pages of RAM, altmap or not", altmap_frame)
    walk = vmemmap.leaves(piece.start, piece.end)
    if piece.populated is Populated.COMPOUND:
        walk = _irregular(walk, audited, cells, piece, vmemmap, step)
    batches = _checked_runs(walk, audited, piece, vmemmap, step)
    if piece.populated is Populated.COMPOUND:
        for judged in judged_compounds(batches, piece, audited, vmemmap):
            cells.add(judged.runs, piece, audited.shared_pfn)
            _take_compounds(audited, judged, piece, vmemmap)
    else:
        for runs in batches:
            cells.add(runs, piece, audited.shared_pfn)
            _take_plain(audited, runs, piece, vmemmap)


def _in_altmap(audited: AuditedPagemap, piece: Piece, vmemmap: Vmemmap) -> bool:
    """Return whether the frames of a piece should be the altmap's."""
    if audited.pagemap.altmap is None:
        return False
    base = piece.populated is Populated.BASE and vmemmap.geometry.arch.altmap_base_pages
    return piece.populated is Populated.LEAF or base


def _irregular(
    walk: Iterator[Leaves],
    audited: AuditedPagemap,
    cells: Cells,
    piece: Piece,
    vmemmap: Vmemmap,
    step: Callable[[int], None],
) -> Iterator[Leaves]:
    """
    Take batches of regular compound pages, but for the first page, which stands for all.

    A short cut: no rule can find anything in one that it does not find in all. It takes
    a third off the whole process for 4 TiB (python -m bench.layout --simulated 4T:2M).

    :return: the batches that are left, and the first regular compound page
    """
    geometry = vmemmap.geometry
    size, shift = geometry.compound_vpages(audited.order), geometry.page_size.bit_length() - 1
    first, zone = True, audited.shared_pfn
    for leaves in walk:
        start = geometry.vpage_at(int(leaves.address[0]))
        end = geometry.vpage_at(int(leaves.address[-1])) + int(leaves.pieces[-1])
        # Compound pages that the batch has as a whole, by their first and last leaves.
        start += (piece.origin - start) % size
        end -= (end - piece.origin) % size
        bounds = geometry.addresses(np.array([start, end]))
        begin, stop = np.searchsorted(leaves.address, bounds).tolist()
        whole = select(leaves, slice(begin, stop))
        regular = LIMITS.short_cuts and start < end and are_regular(whole, size, shift)
        if regular and zone is not None:
            regular = bool((whole.pfn[1::2] == zone).all() and (whole.pfn[::2] != zone).all())
        if not regular:
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
            audited.leaf_sizes[geometry.page_size] += pages
            audited.by_kind[Kind.MAPPED] += pages
            audited.compounds += len(frames)
            cells.add_compounds(start, len(frames), size, piece, zone is not None)
            if zone is None:
                audited.ram.add_compounds(frames, start, size)
            else:
                audited.ram.add_compounds(frames[:, :1], start, size)
                audited.map_zone(start + 1, len(frames) * (size - 1))
            step(pages)
        if stop < len(leaves.address):
            yield select(leaves, slice(stop, None))


def _checked_runs(
    walk: Iterator[Leaves],
    audited: AuditedPagemap,
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
                audited.leaf_sizes[level.size] += int(leaves.pieces.sum(where=here))
        facts = LeafFacts.of(
            leaves, piece, vmemmap.table, geometry, vmemmap.sections.pages, audited.shared
        )
        for rule in LEAF_RULES:
            audited.findings.check(rule, facts)
        runs = runs_of(leaves, geometry, piece.start, piece.end)
        pages = 0
        for kind in Kind:
            if (of_kind := runs.kind == kind).any():
                pages += (count := int(runs.length.sum(where=of_kind)))
                audited.by_kind[kind] += count
        audited.findings.check(hole, runs, geometry)
        step(pages)
        yield runs


def _take_plain(audited: AuditedPagemap, runs: Runs, piece: Piece, vmemmap: Vmemmap) -> None:
    _keep_first(audited, runs, [piece.populated.value] * _DRAWN_SPANS, vmemmap)
    mapped = select(runs, runs.kind == Kind.MAPPED)
    if piece.populated is Populated.NEIGHBOUR:
        audited.shared_leaves |= bool(mapped.order.any())
        audited.in_altmap += int(np.count_nonzero(in_altmaps(mapped.pfn, [audited.layout])))
        audited.mapped_elsewhere += int(mapped.length.sum())
        audited.neighbour.add(*_owned(mapped))
        return
    # Base pages are its own, but for those that describe other memory, too.
    elsewhere = np.full(len(mapped.vpage), bool(piece.others), dtype=np.bool_)
    if piece.populated in (Populated.LEAF, Populated.BASE):
        geometry, section = vmemmap.geometry, vmemmap.sections.pages
        in_leaf = geometry.in_shared_leaf(mapped.vpage, piece, section)
        elsewhere |= in_leaf | geometry.arch.leaves_in_parts
        elsewhere &= mapped.order == 0
        shared = in_leaf & (mapped.order > 0)
        if shared.any():
            # The frames can be those of a neighbour: RAM or any device.
            audited.shared_leaves = True
            own = vmemmap.ram.contains(mapped.pfn)
            leaf = mapped.vpage // (geometry.leaf // geometry.page_size)
            own &= ~np.isin(leaf, audited.ram_leaves)
            audited.boot.add(*_owned(select(mapped, shared & ~own)))
            audited.ram.add(*_owned(select(mapped, shared & own)))
            mapped, elsewhere = select(mapped, ~shared), elsewhere[~shared]
    if piece.populated is Populated.UNKNOWN and audited.shared_pfn is not None:
        # Its references are counted, whatever these pages are.
        zone = (mapped.order == 0) & (mapped.pfn == np.uint64(audited.shared_pfn))
        if zone.any():
            audited.map_zone(int(mapped.vpage[zone][0]), int(mapped.length.sum(where=zone)))
            mapped = select(mapped, ~zone)
    if piece.populated in (Populated.EARLY, Populated.UNKNOWN):
        audited.boot.add(*_owned(mapped))
        return
    if piece.others:
        _take_shared(audited, mapped, piece, vmemmap)
        return
    altmap = audited.pagemap.altmap
    if altmap is not None and _in_altmap(audited, piece, vmemmap):
        # The altmap may have had no room, or may not describe what lies outside of the device.
        elsewhere &= vmemmap.ram.contains(mapped.pfn)
        audited.ram.add(*_owned(select(mapped, elsewhere)))
        mapped = select(mapped, ~elsewhere)
        audited.findings.check(altmap_frame, AltmapFacts(mapped, altmap, vmemmap.geometry))
        audited.device.add(*_owned(mapped))
        audited.in_altmap += int(mapped.length.sum())
    else:
        audited.ram.add(*_owned(mapped))


def _take_shared(audited: AuditedPagemap, mapped: Runs, piece: Piece, vmemmap: Vmemmap) -> None:
    """Take a page that describes other memory, too: whoever was added first gave the frame."""
    sharers = audited.shared_pages[piece.start].pagemaps
    own = in_altmaps(mapped.pfn, [audited.layout])
    others = in_altmaps(mapped.pfn, sharers) & ~own
    audited.device.add(*_owned(select(mapped, own)))
    audited.in_altmap += int(np.count_nonzero(own))
    audited.boot.add(*_owned(select(mapped, others)))
    audited.ram.add(*_owned(select(mapped, ~(own | others))))


def _owned(runs: Runs) -> tuple[Runs, NDArray[np.int64]]:
    """Return runs with how many owners a frame of each should have: as many as entries."""
    return runs, np.where(runs.order == 0, runs.length, 1)


def _take_compounds(
    audited: AuditedPagemap, judged: Judged, piece: Piece, vmemmap: Vmemmap
) -> None:
    roles = np.where(judged.head[:_DRAWN_SPANS], "head", "tail").tolist()
    _keep_first(audited, judged.runs, roles, vmemmap)
    in_ram = vmemmap.ram.contains(judged.runs.pfn) if judged.wrong.any() else judged.wrong
    facts = TailFacts.of(judged, in_ram, vmemmap.geometry, audited.shared)
    audited.findings.check(tail_frame, facts)
    if facts.any_tail:
        audited.findings.checked(not_deduplicated)
    else:
        audited.findings.skipped(NO_TAIL, not_deduplicated)
    audited.apart.extend((piece.origin, number) for number in facts.apart.tolist())
    audited.compounds += int(np.count_nonzero(np.diff(judged.compound))) + 1
    runs, owner = judged.runs, judged.owner
    if len(facts.apart):
        # Where nothing is shared, each page should at least own what it maps.
        owner = np.where(np.isin(judged.compound, facts.apart), 1, owner)
    zone = ~judged.head & ~judged.wrong
    if not (mapped := runs.kind == Kind.MAPPED).all():
        runs, owner, zone = select(runs, mapped), owner[mapped], zone[mapped]
    if audited.shared_pfn is not None and zone.any():
        audited.map_zone(int(runs.vpage[zone][0]), int(runs.length.sum(where=zone)))
        runs, owner = select(runs, ~zone), owner[~zone]
    audited.ram.add(runs, owner)


def _drawn(audited: AuditedPagemap, vmemmap: Vmemmap) -> range:
    """Return the vpages that are drawn: one compound page, or a few more if it is small."""
    start = audited.pieces[0].start
    return range(start, start + max(vmemmap.geometry.compound_vpages(audited.order), _DRAWN_PLAIN))


def _keep_first(audited: AuditedPagemap, runs: Runs, roles: list[str], vmemmap: Vmemmap) -> None:
    """Keep the spans of the first compound page as they are mapped."""
    drawn = _drawn(audited, vmemmap)
    for i in range(min(len(runs.vpage), _DRAWN_SPANS - len(audited.first))):
        vpage = int(runs.vpage[i])
        if vpage not in drawn:
            return
        mapped = bool(runs.kind[i] == Kind.MAPPED)
        audited.first.append(
            FrameSpan(
                address=vmemmap.geometry.address(vpage),
                vpages=min(int(runs.length[i]), drawn.stop - vpage),
                pfn=int(runs.pfn[i]) if mapped else None,
                role=roles[i] if mapped else Kind(runs.kind[i]).name.lower(),
                large=bool(runs.order[i]),
            )
        )
