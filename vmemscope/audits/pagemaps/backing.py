# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks the frames of all pagemaps together: their owners and their own struct pages."""

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
from ...rules.leaves import WITH_NEIGHBOUR
from ...rules.shared_tails import UncountedFacts, shared_references
from ...vmemmap.frame_table import windows
from ...vmemmap.frames import FrameTotals, expand, in_order, join_frames
from ...vmemmap.layout import first_compound
from .owners import PagemapsByVpage, find_owners
from .shared import SharedFrames
from .sound import sound_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...kernel.page_state import PageStates
    from ...report.documents.pgmap import SharedTails
    from ...rules.findings import Collector
    from ...vmemmap.frame_table import FrameTable
    from ...vmemmap.frames import Frames
    from ...vmemmap.vmemmap import Vmemmap
    from .audited import AuditedPagemap

__all__ = ("BackingChecked", "check_backing")

#: rules about the struct pages of frames
_STRUCT_PAGES = (refcount_low, refcount_high, frame_free, frame_foreign, frame_poisoned)
_ALL = (frame_not_memory, frame_shared, *_STRUCT_PAGES, frame_node)

#: frames with several owners that are looked up one by one
_MAX_SHARED = 64


class BackingChecked:
    """What was checked of frames."""

    def __init__(self, pagemaps: int) -> None:
        self.refcounts_checked = 0
        self.refcounts_unreadable = 0
        #: frames that several devices share
        self.shared: tuple[SharedTails, ...] = ()
        #: frames of each audited, in its order
        self.frames = [FrameTotals() for _ in range(pagemaps)]
        #: of these, those that count with a neighbour, and those of an earlier pagemap, too
        self.elsewhere = [0] * pagemaps
        self.again = [0] * pagemaps


class _Seen:
    """The kinds of frames that back a pagemap's vmemmap."""

    def __init__(self) -> None:
        self.ram = self.device = self.boot = self.neighbour = False
        #: some are System RAM; some should be and are not
        self.memory = self.no_memory = False


def check_backing(
    pagemaps: Sequence[AuditedPagemap], vmemmap: Vmemmap, states: PageStates
) -> BackingChecked:
    """
    Check the frames of all pagemaps, a window of them at a time.

    :param states: how frames say what they are used for
    """
    frames = _Frames(pagemaps, vmemmap, states)
    for first, end in windows([table for one in pagemaps for table in _tables(one)]):
        if not (LIMITS.short_cuts and frames.take_sound(first, end)):
            frames.check(first, end)
    frames.finish()
    return frames.done


def _tables(one: AuditedPagemap) -> tuple[FrameTable, ...]:
    return one.ram, one.device, one.boot, one.zone, one.neighbour


class _Frames:
    """Checks the frames of all pagemaps, a window at a time."""

    def __init__(
        self, pagemaps: Sequence[AuditedPagemap], vmemmap: Vmemmap, states: PageStates
    ) -> None:
        self._pagemaps = pagemaps
        self._vmemmap = vmemmap
        self._states = states
        self._ram = vmemmap.ram.frames
        self._by_vpage = PagemapsByVpage(pagemaps)
        self._shared = SharedFrames(pagemaps, vmemmap)
        self._nodes = _nodes_of(pagemaps, vmemmap, states)
        self._seen = [_Seen() for _ in pagemaps]
        self._several: list[Frames] = []
        #: pagemaps with frames of which some reference count was read, by address
        self._counted: set[int] = set()
        self.done = BackingChecked(len(pagemaps))

    def take_sound(self, first: int, end: int) -> bool:
        """Count the frames of a window at once if all are sound; return whether they are."""
        if any(
            table.touches(first, end)
            for one in self._pagemaps
            for table in _tables(one)
            if table is not one.ram
        ):
            return False
        here = [i for i, one in enumerate(self._pagemaps) if one.ram.touches(first, end)]
        other_nodes = [self._nodes.get(self._pagemaps[i].pagemap.address) for i in here]
        nodes = {None if one is None else one.node for one in other_nodes}
        if len(nodes) != 1:
            return False
        found = sound_frames(
            [self._pagemaps[i].ram for i in here],
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
            self._pagemaps[i].findings.checked(frame_not_memory)
            self._count(self._pagemaps[i])
            for entries, frames in counts:
                self.done.frames[i].add_alike(entries, frames)
                self.done.refcounts_checked += frames
        return True

    def check(self, first: int, end: int) -> None:
        """Check the frames of a window one by one."""
        parts: list[Frames] = []
        owned: list[Frames] = []
        for number, audited in enumerate(self._pagemaps):
            what, totals = self._seen[number], self.done.frames[number]
            ram, device, boot = (
                table.between(first, end) for table in (audited.ram, audited.device, audited.boot)
            )
            if audited.shared is not None and audited.zone.touches(first, end):
                zone = audited.zone.between(first, end)
                is_first = audited.shared.is_first(audited.pagemap.address)
                ram = join_frames([ram, zone._replace(owners=zone.owners + is_first)])
            ram = _check_memory(ram, audited, what, self._vmemmap)
            what.device |= bool(len(device.pfn))
            what.boot |= bool(len(boot.pfn))
            own, counted = audited.layout.frames, join_frames([ram, device, boot])
            owned.append(counted)
            if audited.neighbour.touches(first, end):
                what.neighbour = True
                found = join_frames([counted, audited.neighbour.between(first, end)])
                self.done.elsewhere[number] += found.total - counted.total
                counted = found
            totals.add(counted, own, self._vmemmap.ram.frames)
            parts += [ram, device]
        self._count_again(owned)
        frames = _in_memory(join_frames(parts), self._vmemmap)
        if (shared := frames.owners > 1).any():
            self._several.append(select(frames, shared))
        self._check_struct_pages(frames)

    def _count_again(self, owned: Sequence[Frames]) -> None:
        """
        Count the frames of a window that an earlier pagemap has, too.

        :param owned: those of each pagemap
        """
        totals = [one.total for one in owned]
        if sum(totals) == max(totals, default=0) or sum(totals) == join_frames(owned).total:
            return
        before = join_frames([])
        for number, (frames, total) in enumerate(zip(owned, totals, strict=True)):
            if total:
                joined = join_frames([before, frames])
                self.done.again[number] += total - (joined.total - before.total)
                before = joined

    def finish(self) -> None:
        """Check what takes all frames together."""
        owners = self._by_vpage
        self.done.shared = self._shared.reports(self._pagemaps)
        for audited, what in zip(self._pagemaps, self._seen, strict=True):
            if what.memory:
                audited.findings.checked(frame_shared)
            self._shared.take_outcome(audited)
            if owners.unseen:
                audited.findings.skipped(
                    f"page tables that could not be read may have {owners.unseen} more entries"
                    " for a frame",
                    refcount_high,
                )
            _skip_others(audited.findings, what)
            if what.memory and audited.pagemap.address not in self._counted:
                # What several pagemaps map is counted with the first; so is a large leaf
                # with its start.
                audited.findings.skipped(
                    "no frame of which it has the reference count", *_STRUCT_PAGES, frame_node
                )
            other = self._nodes.get(audited.pagemap.address)
            if other is not None and other.first is not None:
                audited.findings.check(frame_node, other)
        if self._several:
            _report_shared(join(self._several), self._pagemaps, owners, self._shared, self._vmemmap)

    def _count(self, audited: AuditedPagemap) -> None:
        """Record that some frame of a pagemap was compared with its struct page."""
        audited.findings.checked(*_STRUCT_PAGES)
        self._counted.add(audited.pagemap.address)
        if audited.pagemap.address in self._nodes:
            audited.findings.checked(frame_node)

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
            for audited, index in self._by_vpage.split(frames.vpage[~readable]):
                audited.not_read["reference counts of frames"] += len(index)
                audited.findings.skipped(
                    "reference counts that could not be read", *_STRUCT_PAGES, frame_node
                )
            frames, refcounts = select(frames, readable), refcounts[readable]
            flags, mapcount = flags[readable], mapcount[readable]
        unread -= len(frames.pfn)
        self.done.refcounts_checked += len(frames.pfn)
        self.done.refcounts_unreadable += unread
        for audited in self._by_vpage.among(frames.vpage):
            self._count(audited)
        references = self._shared.references(frames)
        wrong_at = np.flatnonzero(refcounts != references)
        for audited, index in self._by_vpage.split(frames.vpage[wrong_at]):
            which = wrong_at[index]
            these = select(frames, which)
            wrong = RefcountFacts(
                these,
                refcounts[which],
                references[which],
                self._shared.open(these),
                self._by_vpage.unseen,
                self._vmemmap.geometry,
            )
            audited.findings.check(refcount_low, wrong)
            audited.findings.check(refcount_high, wrong)
        if not self._shared.counted:
            of_zones = np.flatnonzero(np.isin(frames.pfn, self._shared.pfns))
            for audited, index in self._by_vpage.split(frames.vpage[of_zones]):
                which = of_zones[index]
                uncounted = UncountedFacts(
                    select(frames, which), refcounts[which], self._vmemmap.geometry
                )
                audited.findings.check(shared_references, uncounted)
        wrong_at = np.flatnonzero(marked(flags, mapcount, self._states))
        for audited, index in self._by_vpage.split(frames.vpage[wrong_at]):
            which = wrong_at[index]
            marks = MarkFacts(
                select(frames, which),
                flags[which],
                mapcount[which],
                self._states,
                self._vmemmap.geometry,
            )
            for rule in (frame_free, frame_foreign, frame_poisoned):
                audited.findings.check(rule, marks)
        if self._nodes:
            self._check_nodes(frames, flags)

    def _check_nodes(self, frames: Frames, flags: NDArray[np.uint64]) -> None:
        found = self._states.node_of(flags)
        expected = {one.node for one in self._nodes.values()}
        if len(expected) == 1 and (found == np.uint64(next(iter(expected)))).all():
            return
        for audited, index in self._by_vpage.split(frames.vpage):
            other = self._nodes.get(audited.pagemap.address)
            if other is None:
                continue
            if len(wrong_at := index[found[index] != np.uint64(other.node)]):
                other.add(select(frames, wrong_at), found[wrong_at])


def _check_memory(ram: Frames, audited: AuditedPagemap, what: _Seen, vmemmap: Vmemmap) -> Frames:
    """Check that frames are System RAM; split large leaves of which some are not."""
    if not len(ram.pfn):
        return ram
    what.ram = True
    in_ram = vmemmap.ram.contains_runs(ram.pfn, ram.span)
    if not in_ram.all():
        if (large := ~in_ram & (ram.span > 1)).any():
            ram = in_order(expand(ram, large))
            in_ram = vmemmap.ram.contains_runs(ram.pfn, ram.span)
        what.no_memory |= not in_ram.all()
    audited.findings.check(frame_not_memory, MemoryFacts(ram, in_ram, vmemmap.geometry))
    what.memory |= bool(in_ram.any())
    return ram


def _in_memory(frames: Frames, vmemmap: Vmemmap) -> Frames:
    """Leave out frames that are no System RAM."""
    in_ram = vmemmap.ram.contains_runs(frames.pfn, frames.span)
    return frames if in_ram.all() else select(frames, in_ram)


def _report_shared(
    shared: Frames,
    pagemaps: Sequence[AuditedPagemap],
    owners: PagemapsByVpage,
    zones: SharedFrames,
    vmemmap: Vmemmap,
) -> None:
    """Report frames with several owners, the first of them by who that is."""
    found = find_owners(pagemaps, vmemmap, shared.pfn[:_MAX_SHARED], _MAX_SHARED)
    for pfn, first in zip(shared.pfn.tolist(), shared.vpage.tolist(), strict=True):
        if pfn in zones.by_pfn and pfn in found:
            found[pfn].append((first, zones.by_pfn[pfn].name))
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
    others = {id(audited): select(rest, index) for audited, index in owners.split(rest.vpage)}
    for audited in pagemaps:
        mine, unknown = sharers.get(id(audited), ()), others.get(id(audited))
        if mine or unknown is not None:
            audited.findings.check(frame_shared, SharedFacts(mine, unknown, vmemmap.geometry))


def _nodes_of(
    pagemaps: Sequence[AuditedPagemap], vmemmap: Vmemmap, states: PageStates
) -> dict[int, OtherNodes]:
    """Find the nodes of the devices that have memory of their own, by pagemap."""
    found = {}
    nodes = _nodes_from_struct_pages(pagemaps, vmemmap, states)
    for audited in pagemaps:
        node = nodes.get(audited.pagemap.address)
        if node is None:
            audited.findings.skipped("the device's node is unknown", frame_node)
        elif states.memory_nodes is None:
            audited.findings.skipped("zones that could not be read", frame_node)
        elif node not in states.memory_nodes:
            audited.findings.skipped(f"the device's node {node} has no memory", frame_node)
        else:
            found[audited.pagemap.address] = OtherNodes(node, vmemmap.geometry)
    return found


def _nodes_from_struct_pages(
    pagemaps: Sequence[AuditedPagemap], vmemmap: Vmemmap, states: PageStates
) -> dict[int, int]:
    """Find the nodes of devices, by pagemap: their own struct pages say so."""
    firsts = []
    for audited in pagemaps:
        for start, end in audited.layout.pfns[:1]:
            first = first_compound(audited.pagemap, start)
            if first < end:
                firsts.append((first, audited.pagemap.address))
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
    """Record which frames are not checked, and why."""
    if what.device:
        reason = "altmap: frames on the device, which the page allocator does not count"
        findings.skipped(reason, *_ALL)
    if what.boot:
        reason = "frames that the memory map of RAM owns, or of which nothing is known"
        findings.skipped(reason, *_ALL)
    if what.neighbour:
        findings.skipped(WITH_NEIGHBOUR, *_ALL)
    if what.no_memory:
        findings.skipped("frames that are no memory", frame_shared, *_STRUCT_PAGES, frame_node)
    if not (what.ram or what.device or what.boot or what.neighbour):
        findings.skipped("nothing of its vmemmap is known to be mapped", *_ALL)
