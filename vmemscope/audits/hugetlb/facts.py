# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads HugeTLB's structures and mappings, and checks them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...columns import join, select
from ...kernel.hstate import has_hugetlb, read_hstates
from ...kernel.hugetlb_folio import (
    FolioList,
    decode_folios,
    no_folios,
    read_folio_layout,
    read_folios,
)
from ...kernel.hugetlb_vmemmap import Hvo, read_hvo
from ...kernel.vmemmap_restore import read_restore
from ...kernel.vmemmap_tails import SlotState, read_slots
from ...progress import counter
from ...rules import rules_of
from ...rules.findings import Collector
from ...rules.hugetlb_folios import (
    UNREAD_LISTS,
    FolioFacts,
    HeadFrameFacts,
    hugetlb_flag,
    hugetlb_head_frame,
    hugetlb_mapping,
    hugetlb_tail_frame,
    hugetlb_unprotected,
)
from ...rules.hugetlb_halves import HalfFacts, hugetlb_half
from ...rules.hugetlb_lists import (
    CountFacts,
    ElsewhereFacts,
    ListFacts,
    hugetlb_count,
    hugetlb_elsewhere,
    hugetlb_list,
)
from ...rules.hugetlb_poisoned import PoisonedFacts, hugetlb_poisoned
from ...rules.hugetlb_tails import (
    FolioTailFacts,
    RestoreFacts,
    hugetlb_restore,
    hugetlb_tail_page,
    with_tail_pages,
)
from ...rules.hugetlb_vmemmap import (
    OPTIMIZATION_RULES,
    KeyFacts,
    ReadOnlyFacts,
    SharedPage,
    SharedTailFacts,
    hugetlb_key,
    hugetlb_read_only,
    hugetlb_shared_tail,
)
from ...rules.rule import Scope
from ...spans import Spans, union
from ...vmemmap.folio_maps import entries_of, walk_folios
from ...vmemmap.folio_tails import read_tail_pages_of
from ...vmemmap.schemes import hugetlb_scheme
from ...vmemmap.struct_pages import read_struct_pages
from ...vmemmap.tables import Kind
from .halves import find_halves, without_own_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drgn import Program
    from numpy.typing import NDArray

    from ...kernel import Damage
    from ...kernel.hstate import Hstate
    from ...kernel.hugetlb_folio import Folios
    from ...kernel.vmemmap_restore import Restore
    from ...kernel.vmemmap_tails import Slot
    from ...machine import Kernel
    from ...progress import Progress
    from ...vmemmap.folio_maps import FolioWalk, ReadOnly
    from ...vmemmap.folio_tails import TailPages

__all__ = ("HugetlbFacts",)

#: struct pages that are read at a time
_BATCH = 1 << 14


class HugetlbFacts:
    """What one pass reads, for its report."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.prog: Program = kernel.prog
        self.findings = Collector()
        self.unread: Counter[str] = Counter()
        self.present = has_hugetlb(self.prog)
        self.hvo = Hvo(False, None, None, None, False, 0)
        #: how folios share tail pages
        self.scheme = hugetlb_scheme(1, False, False)
        self.hstates: list[Hstate] = []
        self._orders = self._kept = np.zeros(0, dtype=np.int64)
        self.folios: Folios = no_folios()
        self.tails: list[Slot] = []
        self.shared: list[SharedPage] = []
        self.nid: NDArray[np.int64] | None = None
        self._damage: list[Damage] = []
        #: folios of each hstate that were found on lists, before any was left out
        self.listed = self.listed_free = np.zeros(0, dtype=np.int64)
        self._overlaps: list[tuple[int, int]] = []

    def read(self) -> None:
        """Read the kernel's structures: hstates, lists of folios, what zones share."""
        self.vmemmap, geometry = self.kernel.vmemmap, self.kernel.geometry
        self.unread += self.kernel.unread
        self._per_page = max(geometry.page_size // geometry.struct_page_size, 1)
        if not self.present:
            return
        self.hvo, damage = read_hvo(self.prog)
        self._take(damage)
        self.hstates, damage = read_hstates(self.prog)
        self._take(damage)
        self._orders = np.array([one.order for one in self.hstates], dtype=np.int64)
        self._kept = np.array([one.kept for one in self.hstates], dtype=np.int64)
        self.scheme = hugetlb_scheme(
            int(self._kept.max(initial=1)),
            self.hvo.shared_tails,
            self.kernel.sections.orders is not None,
        )
        #: whether all sizes are known, and all folios that are on lists
        self.sized = self.complete = not damage
        self.layout = read_folio_layout(self.prog, self.kernel.target.vmcoreinfo, self.vmemmap.page)
        self.folios, damage = read_folios(
            self.prog, self.hstates, self.layout, geometry.vmemmap, self.kernel.max_frames
        )
        self._take(damage)
        self.complete &= not damage
        self._read_zones()

    def _take(self, damage: Iterable[Damage]) -> None:
        for one in damage:
            if one.unreadable:
                self.unread[one.message] += 1
            else:
                self._damage.append(one)

    def _read_zones(self) -> None:
        """Read zones, where they are in page flags, and what tail pages they share."""
        self.zones, self.flags = self.kernel.zones, self.kernel.flags
        self._take(self.kernel.zone_damage)
        if not self.hvo.shared_tails:
            return
        # Those of devices are none of HugeTLB's.
        zones, orders = self.kernel.ram_zones, {one.order for one in self.hstates}
        slots, damage = read_slots(self.prog, zones, orders)
        self.tails = [one for one in slots if one.state is SlotState.FILLED]
        self._take(damage)
        self.tails_complete = not (damage or self.kernel.zone_damage)
        self.shared = self._read_shared()

    def _read_shared(self) -> list[SharedPage]:
        """Read the frames of shared tail pages, and their reference counts."""
        geometry, found = self.vmemmap.geometry, []
        for tail in self.tails:
            pfn, into = geometry.pfn_at(tail.page)
            if into or not 0 <= pfn < self.kernel.max_frames or self._is_hole(pfn):
                found.append(SharedPage(tail, None, None, None, None))
                continue
            data, readable = self.vmemmap.memory.read_frames(np.array([pfn], dtype=np.uint64))
            counts, counted = self.vmemmap.refcounts(np.array([pfn], dtype=np.uint64))
            words = place = None
            if readable[0]:
                words = data[0].view(self.vmemmap.word).astype(np.uint64, copy=False)
                words = words.reshape(-1, geometry.struct_page_size // 8)
                flags, several = np.unique(
                    words[:, self.vmemmap.page.flags // 8], return_counts=True
                )
                place = self.flags.zone_of(int(flags[np.argmax(several)]))
            else:
                self.unread["frames of shared tail pages"] += 1
            if not counted[0]:
                self.unread["reference counts of frames of shared tail pages"] += 1
            refcount = int(counts[0]) if counted[0] else None
            found.append(SharedPage(tail, pfn, words, refcount, place, self._is_poisoned(pfn)))
        return found

    def _nodes_of_sections(self) -> NDArray[np.int64]:
        """Count the nodes that have a part of each folio's first section; 0 if not known."""
        pages = self.kernel.sections.pages
        start = self.folios.head.astype(np.int64) // pages * pages
        found = np.zeros(len(start), dtype=np.int64)
        if self.kernel.zone_damage:
            return found
        zones = self.kernel.ram_zones
        for nid in sorted({zone.nid for zone in zones}):
            first = min(zone.start for zone in zones if zone.nid == nid)
            end = max(zone.end for zone in zones if zone.nid == nid)
            found += (first < start + pages) & (end > start)
        return found

    def _is_poisoned(self, pfn: int) -> bool:
        """Return whether a frame is known to have PG_hwpoison."""
        read = read_struct_pages(self.vmemmap, np.array([pfn], dtype=np.int64))
        flags = read.word(self.vmemmap.page.flags, self.vmemmap.word)
        return bool(read.readable[0] and int(flags[0]) & self.vmemmap.page.pg_hwpoison)

    def _is_hole(self, pfn: int) -> bool:
        """Return whether a page frame has no ``struct page``."""
        _, kind = self.vmemmap.frames_of(np.array([self.vmemmap.geometry.vpage(pfn)]))
        return bool(kind[0] == Kind.HOLE)

    def walk(self, progress: Progress | None) -> None:
        """Walk all of the vmemmap, then once more if that led to folios that no list has."""
        self._settle()
        self.found = self._walk_folios(progress)
        elsewhere = self._elsewhere() if self.present else no_folios()
        if len(elsewhere.head):
            self.folios = join([self.folios, elsewhere])
            self._settle()
            self.found = self._walk_folios(None)
        if self.found.unreadable:
            self.unread["pages of vmemmap whose page tables are missing"] += self.found.unreadable

    def _settle(self) -> None:
        """Sort folios; leave out those that are invalid or overlap another."""
        folios = self.folios
        if not len(self.listed):
            count = len(self.hstates)
            self.listed = np.bincount(folios.hstate, minlength=count)
            self.listed_free = np.bincount(
                folios.hstate[folios.place == FolioList.FREE], minlength=count
            )
            #: entries of lists that are no valid folios
            self.unsound = select(folios, ~folios.sound)
        folios = select(folios, folios.sound)
        folios = select(folios, np.argsort(folios.head, kind="stable"))
        end = folios.head + (np.int64(1) << self._orders[folios.hstate])
        kept, reached, by = np.ones(len(folios.head), dtype=np.bool_), -1, 0
        if len(end) > 1 and bool((folios.head[1:] < end[:-1]).any()):
            for i, (start, stop) in enumerate(zip(folios.head.tolist(), end.tolist(), strict=True)):
                if start < reached:
                    kept[i] = False
                    self._overlaps.append((by, start))
                else:
                    reached, by = stop, start
        self.folios = select(folios, kept)

    def _walk_folios(self, progress: Progress | None) -> FolioWalk:
        geometry, head = self.vmemmap.geometry, self.folios.head
        which = self.folios.hstate
        first = head // self._per_page
        end = -(-(head + (np.int64(1) << self._orders[which])) // self._per_page)
        sections = self.vmemmap.sections
        step = counter(progress, geometry.vpage(len(sections.number) * sections.pages))
        kept, limit = self._kept[which], self.kernel.vmemmap_end
        shared, _ = self._zone_frames()
        devices = union(layout.frames for layout in self.kernel.layouts)
        described = Spans.of(devices.start // self._per_page, -(-devices.end // self._per_page))
        return walk_folios(self.vmemmap, first, end, kept, shared, limit, described, step)

    def _elsewhere(self) -> Folios:
        """Find folios that are on no list, by read-only vmemmap that is in none that is."""
        geometry, stray = self.vmemmap.geometry, self.found.stray
        parts = [no_folios()]
        for index, hstate in enumerate(self.hstates):
            pages = geometry.compound_vpages(hstate.order)
            whole = stray.length == pages - hstate.kept
            head = (stray.vpage[whole] - hstate.kept) * self._per_page
            head = head[(head >= 0) & (head % (1 << hstate.order) == 0)]
            for start in range(0, len(head), _BATCH):
                some = head[start : start + _BATCH]
                read = read_struct_pages(self.vmemmap, (some[:, None] + np.arange(2)).ravel())
                both = read.readable.reshape(-1, 2).all(axis=1)
                data = read.data.reshape(len(some), -1)[both]
                which = np.full(len(data), index, dtype=np.int64)
                parts.append(
                    decode_folios(
                        some[both].tolist(),
                        data.tobytes(),
                        self.hstates,
                        which,
                        FolioList.NONE,
                        -1,
                        self.layout,
                    )
                )
        found = join(parts)
        return select(found, found.sound)

    def check(self) -> None:
        """Check everything that was read."""
        if self.present and not self.sized:
            self.findings.skipped("not all sizes of huge pages could be read", hugetlb_read_only)
        elif not self.kernel.arch.read_only:
            self.findings.skipped(
                f"{self.kernel.arch.name} has no read-only protection for the kernel's pages",
                hugetlb_read_only,
            )
        else:
            stray, dropped = self._known_stray(), self.found.dropped
            self.findings.check(
                hugetlb_read_only, ReadOnlyFacts(stray, dropped, self.vmemmap.geometry)
            )
        if self.present:
            self._check_folios()
        else:
            self.findings.skipped(
                "the kernel has no HugeTLB",
                *(
                    rule
                    for rule in rules_of(Scope.HUGETLB, self.kernel.arch.name, self.scheme.id)
                    if rule is not hugetlb_read_only
                ),
            )

    def _known_stray(self) -> ReadOnly:
        """Return the read-only runs, without those after a vpage that could not be read."""
        stray = self.found.stray
        known = np.ones(len(stray.vpage), dtype=np.bool_)
        for start in range(0, len(known), _BATCH):
            before = self.vmemmap.read(stray.vpage[start : start + _BATCH] - 1)
            known[start : start + _BATCH] = before.readable | before.hole
        self.unread["pages of vmemmap in front of read-only ones"] += int(np.count_nonzero(~known))
        # A kernel may protect what all devices of a node share.
        shared = [one.pfn for one in self.kernel.shared_tails.values() if one.protected]
        known &= ~np.isin(stray.pfn, np.array(shared, dtype=np.uint64))
        return select(stray, known)

    def _check_folios(self) -> None:
        findings, shared_tails = self.findings, self.hvo.shared_tails
        facts = self._facts()
        findings.check(
            hugetlb_list, ListFacts(self._of(self.unsound), self._damage, self._overlaps)
        )
        nowhere = np.bincount(self.folios.hstate[self.folios.unlisted], minlength=len(self.hstates))
        if self.complete:
            there = self.listed + nowhere
            findings.check(hugetlb_count, CountFacts(self.hstates, there, self.listed_free))
            missing = np.maximum(np.array([one.nr for one in self.hstates]) - there, 0)
            findings.check(hugetlb_elsewhere, ElsewhereFacts(facts, missing.tolist()))
        else:
            findings.skipped(UNREAD_LISTS, hugetlb_count, hugetlb_elsewhere)
        findings.check(hugetlb_flag, facts)
        if not self.hvo.built_in:
            findings.skipped("the kernel has no such optimization", *OPTIMIZATION_RULES)
            return
        findings.check(hugetlb_mapping, facts)
        findings.check(hugetlb_half, HalfFacts(facts, self._halves_left))
        findings.check(hugetlb_tail_frame, facts)
        findings.check(hugetlb_unprotected, facts)
        in_ram = self.vmemmap.ram.contains(self.found.maps.head_pfn)
        heads = HeadFrameFacts(facts, *self._head_frames(), in_ram, self._nodes_of_sections())
        findings.check(hugetlb_head_frame, heads)
        findings.check(hugetlb_poisoned, PoisonedFacts(heads, self.shared))
        findings.check(
            hugetlb_tail_page,
            FolioTailFacts(
                facts, self._tail_pages(facts), self.layout, self.vmemmap.geometry.arch.poison
            ),
        )
        findings.check(hugetlb_restore, RestoreFacts(facts, self._restore()))
        flagged = int(np.count_nonzero(facts.flagged)) if self.complete else None
        findings.check(
            hugetlb_key, KeyFacts(self.hvo.key, self.hvo.key_address, flagged, shared_tails)
        )
        findings.check(
            hugetlb_shared_tail, SharedTailFacts(self.shared, self.vmemmap.page, shared_tails)
        )

    def _tail_pages(self, facts: FolioFacts) -> Iterator[TailPages]:
        """Read the tail pages that optimized folios keep."""
        folios = with_tail_pages(facts)
        kept = self._kept[facts.folios.hstate[folios]]
        for pages in read_tail_pages_of(self.vmemmap, folios, facts.maps.first[folios], kept):
            self.unread["tail pages of optimized folios"] += int(np.count_nonzero(~pages.readable))
            yield pages

    def _restore(self) -> Restore | None:
        """Read how the kernel restores vmemmap, where it copies tail pages for that."""
        if self.hvo.shared_tails:
            return None
        geometry = self.vmemmap.geometry
        return read_restore(self.prog, geometry.arch, geometry.struct_page_size)

    def _facts(self) -> FolioFacts:
        """Return the facts about all folios."""
        maps = self.found.maps
        tail_pfn, known = maps.kept_pfn, maps.kept_pfn != 0
        place = self._zones_of(self.folios.flags)
        self.nid = None if place is None else place[0]
        if self.hvo.shared_tails:
            tail_pfn, known = self._zone_frames()
        facts = self._of(self.folios)._replace(
            maps=maps,
            flagged=(self.folios.private & np.uint64(self.hvo.flag)) != 0,
            readable=maps.unreadable == 0,
            tail_pfn=tail_pfn,
            tail_known=known,
        )
        half, self._halves_left = find_halves(facts, self.vmemmap, self.kernel.vmemmap_end)
        maps = without_own_pages(facts, half)
        self.found = self.found._replace(maps=maps)
        return facts._replace(maps=maps, half=half)

    def _zone_frames(self) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return the frame of tail pages of each folio's zone, and whether it is known."""
        tail_pfn = np.zeros(len(self.folios.head), dtype=np.uint64)
        known = np.zeros(len(self.folios.head), dtype=np.bool_)
        if not self.hvo.shared_tails or not self.tails_complete:
            return tail_pfn, known
        place = self._zones_of(self.folios.flags)
        if place is None:
            return tail_pfn, known
        known[:] = True
        order = self._orders[self.folios.hstate]
        for one in self.shared:
            here = (place[0] == one.tail.nid) & (place[1] == one.tail.zone)
            tail_pfn[here & (order == one.tail.order)] = 0 if one.pfn is None else one.pfn
        return tail_pfn, known

    def _of(self, folios: Folios) -> FolioFacts:
        """Return facts about folios whose mapping is unknown."""
        none = np.zeros(len(folios.head), dtype=np.bool_)
        kinds = np.full(len(folios.head), Kind.UNREADABLE, dtype=np.uint8)
        nothing = np.zeros(len(folios.head), dtype=np.uint64)
        maps = self.found.maps._replace(head_kind=kinds, head_pfn=nothing)
        return FolioFacts(
            folios, self.hstates, maps, none, none, nothing, none, self.scheme,
            none.astype(np.int64), self.vmemmap.geometry,
            self.complete,
            lambda i: entries_of(
                self.vmemmap, int(self.found.maps.first[i]), int(self.found.maps.end[i])
            ),
        )  # fmt: skip

    def _zones_of(
        self, flags: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return node and zone from page flags; ``None`` if their layout is unknown."""
        if self.flags.node_width is None:
            return None
        unique, which = np.unique(flags, return_inverse=True)
        places = np.array(
            [self.flags.zone_of(int(one)) for one in unique.tolist()], dtype=np.int64
        ).reshape(-1, 2)
        return places[which, 0], places[which, 1]

    def _head_frames(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Read reference count, PG_reserved and PG_hwpoison of the frames behind head pages."""
        maps, page = self.found.maps, self.vmemmap.page
        count = len(maps.first)
        refcounts = np.zeros(count, dtype=np.int64)
        reserved = np.zeros(count, dtype=np.bool_)
        poisoned = np.zeros(count, dtype=np.bool_)
        readable = np.zeros(count, dtype=np.bool_)
        optimized = (maps.read_only > 0) & (maps.head_kind == Kind.MAPPED)
        index = np.flatnonzero(optimized & self.vmemmap.ram.contains(maps.head_pfn))
        for start in range(0, len(index), _BATCH):
            some = index[start : start + _BATCH]
            read = read_struct_pages(self.vmemmap, maps.head_pfn[some].astype(np.int64))
            counter = read.data[:, page.refcount : page.refcount + 4].copy()
            refcounts[some] = counter.view(self.vmemmap.word[0] + "i4")[:, 0]
            flags = read.word(page.flags, self.vmemmap.word)
            reserved[some] = (flags & np.uint64(page.pg_reserved)) != 0
            poisoned[some] = (flags & np.uint64(page.pg_hwpoison)) != 0
            readable[some] = read.readable
        self.unread["reference counts of frames of head pages"] += int(
            len(index) - np.count_nonzero(readable)
        )
        return refcounts, reserved, poisoned, readable
