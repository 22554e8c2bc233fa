# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frames of all pagemaps together: who shares them, what their own struct pages say."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from ...columns import join, select
from ...kernel.pglist_data import DEVICE
from ...limits import LIMITS
from ...rules.frames import (
    MarkFacts,
    MemoryFacts,
    OtherNodes,
    RefcountFacts,
    SharedFacts,
    Sharer,
    frame_foreign,
    frame_free,
    frame_node,
    frame_not_memory,
    frame_poisoned,
    frame_shared,
    marked,
    refcount_high,
    refcount_low,
)
from ...vmemmap.frame_table import windows
from ...vmemmap.frames import FrameTotals, expand, in_order, join_frames
from ...vmemmap.layout import Populated, first_compound
from ...vmemmap.tables import Kind
from .mapping import judged_compounds, runs_of_piece
from .sole import sound_frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ...kernel.page_state import PageStates
    from ...rules.findings import Collector
    from ...vmemmap.frames import Frames
    from ...vmemmap.vmemmap import Vmemmap
    from .subject import Subject

__all__ = ("BackingChecked", "check_backing")

#: rules that go by the struct pages of frames
_STRUCT_PAGES = (refcount_low, refcount_high, frame_free, frame_foreign, frame_poisoned)

#: frames with several owners that are looked up one by one
_MAX_SHARED = 64


class BackingChecked:
    """What was checked."""

    def __init__(self, subjects: int) -> None:
        self.refcounts_checked = 0
        self.refcounts_unreadable = 0
        #: frames of each subject, in its order
        self.frames = [FrameTotals() for _ in range(subjects)]


class _Seen:
    """What kinds of frames there are of a pagemap."""

    def __init__(self) -> None:
        self.ram = self.device = self.boot = False
        #: some are System RAM; some should be and are not
        self.memory = self.no_memory = False


def check_backing(
    subjects: Sequence[Subject], vmemmap: Vmemmap, states: PageStates
) -> BackingChecked:
    """
    Check the frames of all pagemaps, a window of them at a time.

    :param states: how frames say what they are used for
    """
    frames = _Frames(subjects, vmemmap, states)
    for first, end in windows(
        [table for one in subjects for table in (one.ram, one.device, one.boot)]
    ):
        if not (LIMITS.short_cuts and frames.take_sound(first, end)):
            frames.check(first, end)
    frames.finish()
    return frames.done


class _Frames:
    """The frames of all pagemaps, as they are gone through."""

    def __init__(self, subjects: Sequence[Subject], vmemmap: Vmemmap, states: PageStates) -> None:
        self._subjects = subjects
        self._vmemmap = vmemmap
        self._states = states
        self._ram = vmemmap.ram.frames
        self._owners = _Owners(subjects)
        self._nodes = _nodes_of(subjects, vmemmap, states)
        self._seen = [_Seen() for _ in subjects]
        self._several: list[Frames] = []
        #: pagemaps with frames of which some reference count was read, by address
        self._counted: set[int] = set()
        self.done = BackingChecked(len(subjects))

    def take_sound(self, first: int, end: int) -> bool:
        """Take the frames of a window if all are as they should be; tell whether they are."""
        if any(
            table.touches(first, end) for one in self._subjects for table in (one.device, one.boot)
        ):
            return False
        here = [i for i, one in enumerate(self._subjects) if one.ram.touches(first, end)]
        other_nodes = [self._nodes.get(self._subjects[i].pagemap.address) for i in here]
        nodes = {None if one is None else one.node for one in other_nodes}
        if len(nodes) != 1:
            return False
        found = sound_frames(
            [self._subjects[i].ram for i in here],
            first,
            end,
            self._vmemmap,
            self._ram,
            self._states,
            nodes.pop(),
        )
        if found is None:
            return False
        for i, counts in zip(here, found.counts, strict=True):
            self._seen[i].ram = self._seen[i].memory = True
            self._subjects[i].findings.checked(frame_not_memory)
            self._count(self._subjects[i])
            for entries, frames in counts:
                self.done.frames[i].add_alike(entries, frames)
                self.done.refcounts_checked += frames
        return True

    def check(self, first: int, end: int) -> None:
        """Check the frames of a window one by one."""
        parts: list[Frames] = []
        for subject, what, totals in zip(self._subjects, self._seen, self.done.frames, strict=True):
            ram, device, boot = (
                table.between(first, end) for table in (subject.ram, subject.device, subject.boot)
            )
            ram = _check_memory(ram, subject, what, self._vmemmap)
            what.device |= bool(len(device.pfn))
            what.boot |= bool(len(boot.pfn))
            totals.add(join_frames([ram, device, boot]))
            parts += [ram, device]
        frames = _in_memory(join_frames(parts), self._vmemmap)
        if (shared := frames.owners > 1).any():
            self._several.append(select(frames, shared))
        self._check_struct_pages(frames)

    def finish(self) -> None:
        """Tell what only all frames together can."""
        owners = self._owners
        for subject, what in zip(self._subjects, self._seen, strict=True):
            if what.memory:
                subject.findings.checked(frame_shared)
            if owners.unseen:
                subject.findings.skipped(
                    f"page tables that could not be read may have {owners.unseen} more entries"
                    " for a frame",
                    refcount_high,
                )
            _skip_others(subject.findings, what)
            if what.memory and subject.pagemap.address not in self._counted:
                # What several pagemaps map is counted with the first; so is a large leaf
                # with its start.
                subject.findings.skipped(
                    "no frame of which it has the reference count", *_STRUCT_PAGES, frame_node
                )
            other = self._nodes.get(subject.pagemap.address)
            if other is not None and other.first is not None:
                subject.findings.check(frame_node, other)
        if self._several:
            _tell_shared(join(self._several), self._subjects, owners, self._vmemmap)

    def _count(self, subject: Subject) -> None:
        """Note that some frame of a pagemap has been held against its struct page."""
        subject.findings.checked(*_STRUCT_PAGES)
        self._counted.add(subject.pagemap.address)
        if subject.pagemap.address in self._nodes:
            subject.findings.checked(frame_node)

    def _check_struct_pages(self, frames: Frames) -> None:
        """Check what the frames' own struct pages say: reference count, use and node."""
        # An allocation of higher order carries its count on its first frame alone.
        if frames.inner.any():
            frames = select(frames, ~frames.inner)
        word = self._vmemmap.word
        (refcounts, flags, mapcount), readable = self._vmemmap.page_members(
            frames.pfn,
            self._vmemmap.refcount,
            (self._vmemmap.page.flags, word),
            (self._states.mapcount, word[0] + "u4"),
        )
        unread = len(frames.pfn)
        if not readable.all():
            for subject, index in self._owners.split(frames.vpage[~readable]):
                subject.not_read["reference counts of frames"] += len(index)
                subject.findings.skipped(
                    "reference counts that could not be read", *_STRUCT_PAGES, frame_node
                )
            frames, refcounts = select(frames, readable), refcounts[readable]
            flags, mapcount = flags[readable], mapcount[readable]
        unread -= len(frames.pfn)
        self.done.refcounts_checked += len(frames.pfn)
        self.done.refcounts_unreadable += unread
        for subject in self._owners.among(frames.vpage):
            self._count(subject)
        off = np.flatnonzero(refcounts != frames.entries)
        for subject, index in self._owners.split(frames.vpage[off]):
            which = off[index]
            wrong = RefcountFacts(
                select(frames, which),
                refcounts[which],
                self._owners.unseen,
                self._vmemmap.geometry,
            )
            subject.findings.check(refcount_low, wrong)
            subject.findings.check(refcount_high, wrong)
        off = np.flatnonzero(marked(flags, mapcount, self._states))
        for subject, index in self._owners.split(frames.vpage[off]):
            which = off[index]
            marks = MarkFacts(
                select(frames, which),
                flags[which],
                mapcount[which],
                self._states,
                self._vmemmap.geometry,
            )
            for rule in (frame_free, frame_foreign, frame_poisoned):
                subject.findings.check(rule, marks)
        if self._nodes:
            self._check_nodes(frames, flags)

    def _check_nodes(self, frames: Frames, flags: NDArray[np.uint64]) -> None:
        found = self._states.node_of(flags)
        expected = {one.node for one in self._nodes.values()}
        if len(expected) == 1 and (found == np.uint64(next(iter(expected)))).all():
            return
        for subject, index in self._owners.split(frames.vpage):
            other = self._nodes.get(subject.pagemap.address)
            if other is None:
                continue
            if len(off := index[found[index] != np.uint64(other.node)]):
                other.add(select(frames, off), found[off])


def _check_memory(ram: Frames, subject: Subject, what: _Seen, vmemmap: Vmemmap) -> Frames:
    """Check that frames are System RAM; frame by frame where some of a large leaf are not."""
    if not len(ram.pfn):
        return ram
    what.ram = True
    in_ram = vmemmap.ram.contains_runs(ram.pfn, ram.span)
    if not in_ram.all():
        if (large := ~in_ram & (ram.span > 1)).any():
            ram = in_order(expand(ram, large))
            in_ram = vmemmap.ram.contains_runs(ram.pfn, ram.span)
        what.no_memory |= not in_ram.all()
    subject.findings.check(frame_not_memory, MemoryFacts(ram, in_ram, vmemmap.geometry))
    what.memory |= bool(in_ram.any())
    return ram


def _in_memory(frames: Frames, vmemmap: Vmemmap) -> Frames:
    """Leave out frames that are no System RAM."""
    in_ram = vmemmap.ram.contains_runs(frames.pfn, frames.span)
    return frames if in_ram.all() else select(frames, in_ram)


def _tell_shared(
    shared: Frames, subjects: Sequence[Subject], owners: _Owners, vmemmap: Vmemmap
) -> None:
    """Report frames with several owners, the first of them by who that is."""
    found = _find_owners(subjects, vmemmap, shared.pfn[:_MAX_SHARED])
    entries = dict(zip(shared.pfn[:_MAX_SHARED].tolist(), shared.entries.tolist(), strict=False))
    sharers: dict[int, list[Sharer]] = {}
    for pfn, several in sorted(found.items()):
        # A head page is reported rather than the tail pages whose frame it maps.
        several.sort(key=lambda owner: (owner[1].startswith("the head"), owner[0]))
        first_vpage, first = several[0]
        for vpage, name in several[1:]:
            sharers.setdefault(id(owners.of(vpage)), []).append(
                Sharer(
                    vpage, name, first_vpage, first, pfn, entries[pfn],
                    name.startswith("the tail pages"),
                )
            )  # fmt: skip
            owners.of(vpage).foreign.add(vpage)
        owners.of(first_vpage).foreign.add(first_vpage)
    rest = select(shared, slice(_MAX_SHARED, None))
    others = {id(subject): select(rest, index) for subject, index in owners.split(rest.vpage)}
    for subject in subjects:
        mine, unknown = sharers.get(id(subject), ()), others.get(id(subject))
        if mine or unknown is not None:
            subject.findings.check(frame_shared, SharedFacts(mine, unknown, vmemmap.geometry))


def _nodes_of(
    subjects: Sequence[Subject], vmemmap: Vmemmap, states: PageStates
) -> dict[int, OtherNodes]:
    """Find the nodes of the devices that have memory of their own, by pagemap."""
    found = {}
    told = _told_nodes(subjects, vmemmap, states)
    for subject in subjects:
        node = told.get(subject.pagemap.address)
        if node is None:
            subject.findings.skipped("the device's node could not be told", frame_node)
        elif node not in states.memory_nodes:
            subject.findings.skipped(f"the device's node {node} has no memory", frame_node)
        else:
            found[subject.pagemap.address] = OtherNodes(node, vmemmap.geometry)
    return found


def _told_nodes(
    subjects: Sequence[Subject], vmemmap: Vmemmap, states: PageStates
) -> dict[int, int]:
    """Find the nodes of devices, by pagemap: their own struct pages say so."""
    page_size = vmemmap.geometry.page_size
    firsts = []
    for subject in subjects:
        for one in subject.ranges[:1]:
            first = first_compound(subject.pagemap, one.start // page_size)
            if first <= one.end // page_size:
                firsts.append((first, subject.pagemap.address))
    if states.layout is None or not firsts:
        return {}
    firsts.sort()
    (flags,), readable = vmemmap.page_members(
        np.array([first for first, _ in firsts], dtype=np.uint64),
        (vmemmap.page.flags, vmemmap.word),
    )
    nodes = {}
    for (_, pagemap), word in compress(zip(firsts, flags.tolist(), strict=True), readable):
        place = states.layout.zone_of(word)
        if place is not None and states.layout.zones.get(place[1]) == DEVICE:
            nodes[pagemap] = place[0]
    return nodes


def _skip_others(findings: Collector, what: _Seen) -> None:
    """Record of which frames nothing is asked, and why."""
    if what.device:
        findings.skipped(
            "altmap: frames on the device, which the page allocator does not count",
            frame_not_memory,
            frame_shared,
            *_STRUCT_PAGES,
            frame_node,
        )
    if what.boot:
        findings.skipped(
            "frames that the memory map of RAM owns, or of which nothing is known",
            frame_not_memory,
            frame_shared,
            *_STRUCT_PAGES,
            frame_node,
        )
    if what.no_memory:
        findings.skipped("frames that are no memory", frame_shared, *_STRUCT_PAGES, frame_node)
    if not (what.ram or what.device or what.boot):
        findings.skipped(
            "nothing of its vmemmap is known to be mapped",
            frame_not_memory,
            frame_shared,
            *_STRUCT_PAGES,
            frame_node,
        )


class _Owners:
    """Find the pagemap that a vpage describes."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        pieces = [(piece.start, subject) for subject in subjects for piece in subject.pieces]
        self._pieces = sorted(pieces, key=lambda piece: piece[0])
        #: entries that could not be read: any of them may map any frame
        self.unseen = sum(subject.by_kind[Kind.UNREADABLE] for subject in subjects)
        self._starts = np.array([start for start, _ in self._pieces], dtype=np.int64)

    def among(self, vpages: NDArray[np.int64]) -> Iterator[Subject]:
        """Get the pagemaps that some of the vpages describe; one may come several times."""
        if not len(vpages):
            return
        if len(self._pieces) == 1:
            yield self._pieces[0][1]
            return
        for piece in np.flatnonzero(np.bincount(self._piece(vpages))).tolist():
            yield self._pieces[piece][1]

    def split(self, vpages: NDArray[np.int64]) -> Iterator[tuple[Subject, NDArray[np.int64]]]:
        """Divide vpages by the piece that they are of; get the places of each one's."""
        piece = self._piece(vpages)
        for one in np.flatnonzero(np.bincount(piece)).tolist():
            yield self._pieces[one][1], np.flatnonzero(piece == one)

    def _piece(self, vpages: NDArray[np.int64]) -> NDArray[np.int64]:
        index = np.searchsorted(self._starts, vpages, side="right") - 1
        return np.maximum(index, 0).astype(np.int64, copy=False)

    def of(self, vpage: int) -> Subject:
        """Get the pagemap with the last piece that starts no later; one has been walked there."""
        return self._pieces[int(self._piece(np.array([vpage]))[0])][1]


def _find_owners(
    subjects: Sequence[Subject], vmemmap: Vmemmap, pfns: NDArray[np.uint64]
) -> dict[int, list[tuple[int, str]]]:
    """
    Walk once more to find who should own some frames.

    :return: pfn -> vpages that map it where they should be its only owner,
        each with what it is in words
    """
    found: dict[int, list[tuple[int, str]]] = {}
    for subject in subjects:
        for piece in subject.pieces:
            batches = runs_of_piece(piece, vmemmap)
            if piece.populated in (Populated.EARLY, Populated.UNKNOWN):
                continue
            if piece.populated is not Populated.COMPOUND:
                for runs in batches:
                    here = select(runs, (runs.kind == Kind.MAPPED) & np.isin(runs.pfn, pfns))
                    for vpage, length, pfn in zip(
                        here.vpage.tolist(), here.length.tolist(), here.pfn.tolist(), strict=True
                    ):
                        found.setdefault(pfn, []).extend(
                            (vpage + i, f"a page of {subject.label}")
                            for i in range(min(length, _MAX_SHARED))
                        )
                continue
            for judged in judged_compounds(batches, piece, subject, vmemmap):
                own = np.isin(judged.runs.pfn, pfns) & (judged.owner > 0)
                for i in np.flatnonzero(own).tolist():
                    role = "the head" if judged.head[i] else "the tail pages"
                    found.setdefault(int(judged.runs.pfn[i]), []).append(
                        (
                            int(judged.runs.vpage[i]),
                            f"{role} of compound page {judged.compound[i]} of {subject.label}",
                        )
                    )
    return found
