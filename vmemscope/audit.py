# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The audit: reads the pagemaps, walks their vmemmap, holds it against the rules.

One pass over the page tables of each piece of each range (``walk``), then the
frames of all pagemaps together (``frames``: who shares what, reference counts),
then the contents of compound pages (``contents``), then a verdict on each.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .arch import architecture_of
from .compound import Judged, judge, whole_compounds
from .findings import Collector, Finding, Severity
from .frames import Frames, FrameTable, Runs, runs_of, sharing
from .kernel.dev_pagemap import Pagemap, PhysicalRange, read_pagemaps
from .kernel.device import name_pagemaps
from .kernel.mem_section import read_sections
from .kernel.page import read_page_layout
from .kernel.resource import read_resources
from .layout import (
    Dedup,
    Geometry,
    Piece,
    Populated,
    dedup_of,
    expected_frames,
    first_compound,
    pieces_of,
)
from .memory import PhysicalMemory
from .model import (
    FrameCounts,
    FrameSpan,
    PagemapReport,
    Report,
    Summary,
    TargetInfo,
    VmemmapCounts,
)
from .rules import CATALOGUE
from .rules.backing import check_altmap, check_memory, check_refcounts, check_shared
from .rules.contents import CompoundPages, check_contents, holds_mask
from .rules.mapping import check_compounds, check_holes, check_leaves
from .rules.ranges import (
    check_entries,
    check_mask_alignment,
    check_overlaps,
    check_shift,
    valid_ranges,
)
from .vmcoreinfo import number
from .walk import Kind, translate, walk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .target import Target

__all__ = ("audit",)

#: compound pages of a pagemap whose contents are looked into; of more, so many
#: spread evenly, the first and the last among them
_SAMPLE = 1024
#: frames whose reference counts are read at a time
_REFCOUNT_BATCH = 1 << 16
#: spans kept for the drawing of the first compound page
_DRAWN = 64


@dataclass
class _Looked:
    """What is gathered of a pagemap on the way to its report."""

    pagemap: Pagemap
    name: str | None
    ranges: tuple[PhysicalRange, ...]
    dedup: Dedup
    shift_sound: bool
    findings: Collector = field(default_factory=Collector)
    pieces: list[Piece] = field(default_factory=list)
    pages: int = 0
    by_kind: Counter[Kind] = field(default_factory=Counter)
    leaf_sizes: Counter[int] = field(default_factory=Counter)
    #: frames of early pieces, which RAM's memory map owns
    boot: FrameTable = field(default_factory=FrameTable)
    #: frames on the device itself
    device: FrameTable = field(default_factory=FrameTable)
    #: frames from the page allocator
    ram: FrameTable = field(default_factory=FrameTable)
    #: compound pages no two of whose tail pages share a frame, and all with three or more
    apart: list[int] = field(default_factory=list)
    compounds: int = 0
    first: list[FrameSpan] = field(default_factory=list)

    @property
    def order(self) -> int:
        """log2 of the pages in a compound page, 0 where it can't be gone by."""
        return (self.pagemap.vmemmap_shift or 0) if self.shift_sound else 0


class _Audit:
    def __init__(self, target: Target, types: str, timings: dict[str, float]) -> None:
        self.target = target
        self.types = types
        self.timings = timings
        prog = target.prog
        arch = architecture_of(prog.platform)
        self.table = arch.page_table(target.vmcoreinfo)
        page_size = self.table.page_size
        self.sections = read_sections(prog, target.vmcoreinfo, page_size)
        self.layout = read_page_layout(prog)
        self.geometry = Geometry(arch, page_size, self.layout.size, self.sections.vmemmap)
        self.max_physmem_bits = min(number(target.vmcoreinfo, "MAX_PHYSMEM_BITS", 52), 52)
        self.findings = Collector()
        self.not_read: Counter[str] = Counter()
        self.refcounts = Counter[str]()
        self.contents = Counter[str]()

    # Reading

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def read(self) -> list[_Looked]:
        """Read all pagemaps, and find out which memory may be read."""
        prog = self.target.prog
        pagemaps, damage = read_pagemaps(prog)
        resources, resource_damage = read_resources(prog)
        names = name_pagemaps(prog, pagemaps, resources)
        for one in (*damage, *resource_damage, *self.sections.damage):
            if one.unreadable:
                self.not_read[one.message] += 1
            elif one in damage:
                self.findings.add(CATALOGUE["xarray"], one.message, vaddr=one.address)
        looked = [self._look(pagemap, names.get(pagemap.address)) for pagemap in pagemaps]
        looked.sort(key=lambda one: one.ranges[0].start if one.ranges else 1 << 64)
        check_overlaps(
            [(r, one.pagemap) for one in looked for r in one.ranges],
            {one.pagemap.address: one.findings for one in looked},
        )
        ram = [(r.start, r.end) for r in resources if r.is_system_ram]
        device = [(r.start, r.end) for one in looked for r in one.ranges]
        self.ram = PhysicalMemory(prog, self.geometry.page_size, ram)
        self.memory = PhysicalMemory(prog, self.geometry.page_size, ram + device)
        return looked

    def _look(self, pagemap: Pagemap, name: str | None) -> _Looked:
        one = _Looked(pagemap, name, (), Dedup(False, None), True)
        for damage in pagemap.damage:
            if damage.unreadable:
                self.not_read[damage.message] += 1
        one.ranges = tuple(valid_ranges(pagemap, self.max_physmem_bits, one.findings))
        one.shift_sound = check_shift(pagemap, one.ranges, self.geometry, one.findings)
        if one.ranges and len(one.ranges) == pagemap.nr_range:
            check_entries(pagemap, one.ranges, self.geometry, one.findings)
        if one.shift_sound:
            one.dedup = dedup_of(pagemap, self.geometry, self.target.osrelease)
        return one

    # Walking

    def walk(self, one: _Looked) -> None:
        """Walk the page tables over all that describes a pagemap."""
        if one.dedup.expected is None:
            shares = self._shares(one)
            one.dedup = Dedup(shares, None if shares else one.dedup.reason)
        for r in one.ranges:
            first, end = (
                r.start // self.geometry.page_size,
                (r.end + 1) // self.geometry.page_size,
            )
            pieces = pieces_of(
                first, end, one.pagemap, self.geometry, self.sections, bool(one.dedup.expected)
            )
            for piece in pieces:
                one.pieces.append(piece)
                one.pages += piece.end - piece.start
                self._walk_piece(one, piece)
        self._tell_apart(one)

    def _shares(self, one: _Looked) -> bool:
        """Tell from the first compound page whether this kernel deduplicates."""
        first = self.geometry.vpage(one.ranges[0].start // self.geometry.page_size)
        address = [self.geometry.address(first + i) for i in (1, 2)]
        pfn, kind = translate(self.memory, self.table, np.array(address, dtype=np.uint64))
        return bool((kind == Kind.MAPPED).all() and pfn[0] == pfn[1])

    def _walk_piece(self, one: _Looked, piece: Piece) -> None:
        batches = self._batches(one, piece)
        if piece.populated is Populated.COMPOUND:
            size = self.geometry.compound_vpages(one.order)
            for runs in whole_compounds(batches, piece, size):
                self._take_compounds(one, judge(runs, piece.origin, size), piece)
        else:
            for runs in batches:
                self._take_plain(one, runs, piece)

    def _batches(self, one: _Looked, piece: Piece) -> Iterator[Runs]:
        geometry = self.geometry
        start, end = geometry.address(piece.start), geometry.address(piece.end)
        for leaves in walk(self.memory, self.table, start, end):
            mapped = leaves.kind == Kind.MAPPED
            shifts, counts = np.unique(leaves.shift[mapped], return_counts=True)
            for shift, count in zip(shifts.tolist(), counts.tolist(), strict=True):
                one.leaf_sizes[1 << shift] += count
            check_leaves(leaves, piece, self.table, geometry, one.findings)
            runs = runs_of(leaves, geometry, piece.start, piece.end)
            for kind in Kind:
                one.by_kind[kind] += int(runs.length[runs.kind == kind].sum())
            check_holes(runs, geometry, one.findings)
            yield runs

    def _take_plain(self, one: _Looked, runs: Runs, piece: Piece) -> None:
        self._draw(one, runs, np.full(len(runs.vpage), piece.populated.value, dtype=object))
        mapped = runs.where(runs.kind == Kind.MAPPED)
        # Every page of a plain piece should own its frame: as many owners as entries.
        owners = np.where(mapped.stride == 0, mapped.length, 1)
        altmap = one.pagemap.altmap
        if piece.populated is Populated.EARLY:
            one.boot.add(mapped, owners)
        elif altmap is not None and piece.populated is Populated.LEAF:
            check_altmap(mapped, altmap, self.geometry, one.findings)
            one.device.add(mapped, owners)
        else:
            one.ram.add(mapped, owners)

    def _take_compounds(self, one: _Looked, judged: Judged, piece: Piece) -> None:
        roles = np.where(judged.head, "head", "tail").astype(object)
        self._draw(one, judged.runs, roles)
        in_ram = self.ram.contains(judged.runs.pfn)
        apart = check_compounds(judged, in_ram, self.geometry, one.findings)
        one.apart.extend(apart.tolist())
        one.compounds += int(np.count_nonzero(np.diff(judged.compound))) + 1
        mapped = judged.runs.kind == Kind.MAPPED
        owner = judged.owner.copy()
        # Where nothing is shared, each page should at least own what it maps.
        owner[np.isin(judged.compound, apart)] = 1
        one.ram.add(judged.runs.where(mapped), owner[mapped])

    def _draw(self, one: _Looked, runs: Runs, roles: NDArray[np.object_]) -> None:
        """Keep the first spans of a pagemap as they are mapped."""
        size = max(self.geometry.compound_vpages(one.order), 8)
        for i in range(min(len(runs.vpage), _DRAWN - len(one.first))):
            vpage = int(runs.vpage[i])
            if vpage - one.pieces[0].start >= size:
                return
            mapped = runs.kind[i] == Kind.MAPPED
            length = min(int(runs.length[i]), one.pieces[0].start + size - vpage)
            role = str(roles[i]) if mapped else Kind(runs.kind[i]).name.lower()
            one.first.append(
                FrameSpan(
                    self.geometry.address(vpage), length, int(runs.pfn[i]) if mapped else None, role
                )
            )

    def _tell_apart(self, one: _Looked) -> None:
        """Report compound pages without any sharing: all of a pagemap's as one."""
        rule = CATALOGUE["not-deduplicated"]
        size = self.geometry.compound_vpages(one.order)
        pieces = [piece for piece in one.pieces if piece.populated is Populated.COMPOUND]
        if not one.apart or not pieces:
            return
        if len(one.apart) == one.compounds:
            one.findings.add(
                rule,
                f"none of {one.compounds} compound pages has tail pages that share a frame",
                vaddr=self.geometry.address(pieces[0].start),
                expected=f"1 frame for the {size - 1} pages of tail pages",
                observed="a frame for each",
            )
            return
        for compound in one.apart:
            # The numbers count from a range's start, so they tell with one range only.
            head = pieces[0].origin + compound * size
            one.findings.add(
                rule,
                f"the tail pages of compound page {compound} share no frame",
                vaddr=self.geometry.address(head + 1),
                expected=f"1 frame for the {size - 1} pages of tail pages",
                observed="a frame for each",
            )

    # Frames

    def check_frames(self, looked: list[_Looked]) -> dict[int, Frames]:
        """Check the frames of all pagemaps together; return those of each."""
        counted: dict[int, Frames] = {}
        merged = FrameTable()
        starts: list[tuple[int, int, Collector]] = []
        for one in looked:
            ram, device, boot = one.ram.finish(), one.device.finish(), one.boot.finish()
            check_memory(ram, self.ram.contains(ram.pfn), self.geometry, one.findings)
            counted[id(one)] = _merge_frames([ram, device, boot])
            merged.add_frames(ram)
            merged.add_frames(device)
            starts.extend((p.start, p.end, one.findings) for p in one.pieces)
        frames = merged.finish()

        def collector_at(vpage: int) -> Collector:
            for start, end, findings in starts:
                if start <= vpage < end:
                    return findings
            return self.findings

        frames_in_ram = frames.where(self.ram.contains(frames.pfn))
        shared = frames_in_ram.where(frames_in_ram.owners > 1)
        if len(shared.pfn):
            few = shared.where(np.arange(len(shared.pfn)) < _DRAWN)
            check_shared(few, lambda pfns: self._locate(looked, pfns), self.geometry, collector_at)
            self.findings.add_uncounted(CATALOGUE["frame-shared"], len(shared.pfn) - len(few.pfn))
        # A higher-order allocation carries its count on its first frame alone.
        self._check_refcounts(frames_in_ram.where(~frames_in_ram.inner), collector_at)
        return counted

    def _check_refcounts(self, frames: Frames, collector_at: Callable[[int], Collector]) -> None:
        for batch in range(0, len(frames.pfn), _REFCOUNT_BATCH):
            part = Frames(*(array[batch : batch + _REFCOUNT_BATCH] for array in frames))
            refcounts, readable = self._refcounts(part.pfn)
            check_refcounts(part, refcounts, readable, self.geometry, collector_at)
            self.refcounts["checked"] += int(np.count_nonzero(readable))
            self.refcounts["unreadable"] += int(np.count_nonzero(~readable))
        if self.refcounts["unreadable"]:
            self.not_read["reference counts of frames"] = self.refcounts["unreadable"]

    def _refcounts(self, pfns: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Read ``_refcount`` of frames, shape ``(n,)``, and whether it could be read."""
        geometry = self.geometry
        address = (
            np.uint64(geometry.vmemmap)
            + pfns * np.uint64(geometry.struct_page_size)
            + np.uint64(self.layout.refcount)
        )
        size = np.uint64(geometry.page_size)
        pages, which = np.unique(address // size, return_inverse=True)
        data, readable = self._read_virtual(pages * size)
        words = data.view(np.dtype(self.table.dtype).str[0] + "i4")
        refcounts = words[which, ((address % size) // np.uint64(4)).astype(np.int64)]
        return refcounts.astype(np.int64), readable[which]

    def _read_virtual(
        self, addresses: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read whole pages of the vmemmap at page-aligned addresses."""
        pfn, kind = translate(self.memory, self.table, addresses)
        frames, which = np.unique(pfn, return_inverse=True)
        data, readable = self.memory.read_frames(frames)
        return data[which], readable[which] & (kind == Kind.MAPPED)

    def _locate(
        self, looked: list[_Looked], pfns: NDArray[np.uint64]
    ) -> dict[int, list[tuple[int, str]]]:
        """Walk once more to find all owners of some frames."""
        found: dict[int, list[tuple[int, str]]] = {}
        for one in looked:
            size = self.geometry.compound_vpages(one.order) or 1
            who = one.name or f"{one.pagemap.address:#x}"
            silent = replace(one, findings=Collector(), by_kind=Counter(), leaf_sizes=Counter())
            for piece in one.pieces:
                batches = self._batches(silent, piece)
                if piece.populated is not Populated.COMPOUND:
                    for runs in batches:
                        here = runs.where((runs.kind == Kind.MAPPED) & (runs.stride == 0))
                        here = here.where(np.isin(here.pfn, pfns))
                        for vpage, length, pfn in zip(
                            here.vpage.tolist(),
                            here.length.tolist(),
                            here.pfn.tolist(),
                            strict=True,
                        ):
                            found.setdefault(pfn, []).extend(
                                (vpage + i, f"a page of {who}") for i in range(min(length, _DRAWN))
                            )
                    continue
                for runs in whole_compounds(batches, piece, size):
                    judged = judge(runs, piece.origin, size)
                    mask = np.isin(judged.runs.pfn, pfns) & (judged.owner > 0)
                    for i in np.flatnonzero(mask & (judged.runs.kind == Kind.MAPPED)).tolist():
                        role = "the head" if judged.head[i] else "the tail pages"
                        found.setdefault(int(judged.runs.pfn[i]), []).append(
                            (
                                int(judged.runs.vpage[i]),
                                f"{role} of compound page {judged.compound[i]} of {who}",
                            )
                        )
        return found

    # Contents

    def check_contents(self, one: _Looked) -> None:
        """Look into the ``struct page``s of compound pages, all or a sample."""
        geometry, order = self.geometry, one.order
        size = geometry.compound_vpages(order)
        if not order or size < 2 or geometry.page_size % geometry.struct_page_size:
            return
        heads_of_ranges = []
        heads = []
        ends = []
        for r in one.ranges:
            end = (r.end + 1) // geometry.page_size
            first = first_compound(one.pagemap, r.start // geometry.page_size)
            if first < end:
                heads_of_ranges.append(first)
                count = -(-(end - first) // (1 << order))
                self.contents["compounds"] += count
                picked = np.unique(
                    np.linspace(0, count - 1, min(count, _SAMPLE)).round().astype(np.int64)
                )
                heads.append(first + (picked << order))
                ends.append(np.minimum(heads[-1] + (1 << order), end))
        if not heads:
            return
        pages = self._read_compounds(np.concatenate(heads), np.concatenate(ends))
        check_contents(pages, one.pagemap, self.layout, geometry, one.findings)
        words = pages.heads[pages.head_read][:, 1, self.layout.compound // 8]
        check_mask_alignment(
            one.pagemap, heads_of_ranges, bool(holds_mask(words).any()), geometry, one.findings
        )
        unread = ~(pages.head_read & pages.tail_read)
        self.contents["checked"] += len(pages.head) - int(np.count_nonzero(~pages.head_read))
        self.contents["unreadable"] += int(np.count_nonzero(unread))
        if unread.any():
            what = f"struct pages of compound pages of {one.name or hex(one.pagemap.address)}"
            if one.pagemap.altmap is not None:
                what += ", which lie on the device"
            self.not_read[what] += int(np.count_nonzero(unread))

    def _read_compounds(self, head: NDArray[np.int64], end: NDArray[np.int64]) -> CompoundPages:
        """Read the first vpage of compound pages, and the last that is all tails."""
        geometry = self.geometry
        per_page = geometry.page_size // geometry.struct_page_size
        head_vpage = head // per_page
        tail_vpage = np.maximum(end // per_page - 1, head_vpage)
        size = np.uint64(geometry.page_size)

        def read(
            vpage: NDArray[np.int64],
        ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
            address = np.uint64(geometry.vmemmap) + vpage.astype(np.uint64) * size
            pfn, kind = translate(self.memory, self.table, address)
            frames, which = np.unique(pfn, return_inverse=True)
            data, readable = self.memory.read_frames(frames)
            words = data.view(self.table.dtype).reshape(len(frames), per_page, -1)[which]
            return words.astype(np.uint64, copy=False), pfn, readable[which] & (kind == Kind.MAPPED)

        heads, head_frame, head_read = read(head_vpage)
        tails, tail_frame, tail_read = read(tail_vpage)
        # The last compound page of a range may have its head's vpage alone.
        alone = tail_vpage == head_vpage
        tails[alone] = heads[alone]
        return CompoundPages(
            head,
            tail_vpage * per_page,
            heads,
            tails,
            head_frame,
            tail_frame,
            head_read,
            tail_read & ~alone,
        )

    # Verdicts

    def report(self, one: _Looked, frames: Frames) -> PagemapReport:
        """Sum up a pagemap."""
        geometry = self.geometry
        backing = len(frames.pfn)
        mapped = one.by_kind[Kind.MAPPED]
        size = geometry.compound_vpages(one.order)
        on_device = one.pagemap.altmap is not None
        if one.by_kind[Kind.UNREADABLE]:
            self.not_read["page tables of the vmemmap, in pages that they map"] += one.by_kind[
                Kind.UNREADABLE
            ]
        expected = expected_frames(one.pieces, size) if one.ranges and one.shift_sound else None
        saved = 0 if on_device else max(mapped - backing, 0) * geometry.page_size
        savable = 0
        if size > 2 and one.ranges:
            ideal = [replace(p, populated=Populated.COMPOUND) for p in one.pieces]
            savable = max(backing - expected_frames(ideal, size), 0) * geometry.page_size
        state, reason = self._state(one, backing, expected)
        starts = [p.start for p in one.pieces] or [0]
        ends = [p.end for p in one.pieces] or [0]
        return PagemapReport(
            pagemap=one.pagemap,
            name=one.name,
            compound_size=geometry.page_size << one.order if one.shift_sound else None,
            ranges=one.ranges,
            pieces=tuple(one.pieces),
            vmemmap=VmemmapCounts(
                start=geometry.address(min(starts)),
                end=geometry.address(max(ends)),
                pages=one.pages,
                mapped=mapped,
                unmapped=one.by_kind[Kind.HOLE],
                unreadable=one.by_kind[Kind.UNREADABLE],
                leaf_sizes=dict(sorted(one.leaf_sizes.items())),
            ),
            frames=FrameCounts(backing, expected, sharing(frames)),
            saved_bytes=saved,
            savable_bytes=savable,
            state=state,
            reason=reason,
            findings=one.findings.finish(),
            first=tuple(one.first),
        )

    def _state(self, one: _Looked, backing: int, expected: int | None) -> tuple[str, str | None]:
        mapped, unreadable = one.by_kind[Kind.MAPPED], one.by_kind[Kind.UNREADABLE]
        if not one.ranges:
            damage = [d.message for d in one.pagemap.damage] or ["it has no valid range"]
            return "unreadable", damage[0]
        if not mapped and unreadable:
            return "unreadable", "the page tables of its vmemmap could not be read"
        if not one.shift_sound:
            return "unreadable", "its vmemmap_shift makes no sense"
        if not one.dedup.expected:
            return "not-optimized", one.dedup.reason
        early = sum(p.end - p.start for p in one.pieces if p.populated is Populated.EARLY)
        if early == one.pages:
            return "not-optimized", "it lies in sections that were there at boot"
        shared = mapped - backing
        if not mapped:
            return "not-optimized", "nothing of its vmemmap is mapped"
        if not shared:
            return "not-optimized", "no two pages of its vmemmap share a frame"
        if early:
            return "partial", f"{early} pages lie in sections that were there at boot"
        if unreadable:
            return "partial", f"{unreadable} pages of its vmemmap could not be read"
        if one.by_kind[Kind.HOLE]:
            return "partial", f"{one.by_kind[Kind.HOLE]} pages of its vmemmap are not mapped"
        if expected is not None and backing > expected:
            return "partial", f"{backing - expected} frames more than needed"
        return "deduplicated", None


def _merge_frames(parts: list[Frames]) -> Frames:
    table = FrameTable()
    for part in parts:
        table.add_frames(part)
    return table.finish()


def audit(target: Target, types: str, timings: dict[str, float] | None = None) -> Report:
    """
    Audit all pagemaps of a target, once.

    :param target: an opened target with types attached
    :param types: where they come from, ``btf`` or ``dwarf``
    :param timings: seconds per phase, added to
    :raises VmemscopeError: if the target can't be looked at
    """
    timings = {} if timings is None else timings
    start = time.perf_counter()
    state = _Audit(target, types, timings)
    looked = state.read()
    timings["audit"] = time.perf_counter() - start
    for one in looked:
        with state.phase("walk"):
            state.walk(one)
    with state.phase("frames"):
        counted = state.check_frames(looked)
    with state.phase("audit"):
        for one in looked:
            state.check_contents(one)
        reports = tuple(state.report(one, counted[id(one)]) for one in looked)
        findings = state.findings.finish()
    return Report(
        target=TargetInfo(
            kind=target.kind,
            path=target.path,
            osrelease=target.osrelease,
            arch=state.geometry.arch.name,
            page_size=state.geometry.page_size,
            struct_page_size=state.geometry.struct_page_size,
            types=types,
        ),
        geometry=state.geometry,
        pagemaps=reports,
        findings=findings,
        summary=_summary(state, reports, findings),
        timings=timings,
    )


def _summary(
    state: _Audit, reports: tuple[PagemapReport, ...], findings: tuple[Finding, ...]
) -> Summary:
    severities = Counter(
        f.severity for group in (findings, *(r.findings for r in reports)) for f in group
    )
    return Summary(
        pagemaps=len(reports),
        vmemmap_pages=sum(r.vmemmap.pages for r in reports),
        backing_frames=sum(r.frames.backing for r in reports),
        saved_bytes=sum(r.saved_bytes for r in reports),
        savable_bytes=sum(r.savable_bytes for r in reports),
        errors=severities[Severity.ERROR],
        warnings=severities[Severity.WARNING],
        notes=severities[Severity.NOTE],
        refcounts_checked=state.refcounts["checked"],
        refcounts_unreadable=state.refcounts["unreadable"],
        compounds=state.contents["compounds"],
        compounds_checked=state.contents["checked"],
        compounds_unreadable=state.contents["unreadable"],
        not_read=tuple(f"{what}: {count}" for what, count in sorted(state.not_read.items())),
    )
