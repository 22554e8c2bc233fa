# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read everything about one page: sections, zones, pagemaps, page tables, frame."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ...columns import select
from ...kernel import SUBSECTION_SIZE
from ...kernel.mem_section import section_flags
from ...kernel.mem_section_usage import read_subsections
from ...kernel.page_words import mapcount_offset, page_type, tails_may_look_like_heads, word_names
from ...kernel.pglist_data import DEVICE
from ...report.documents.common import TargetInfo
from ...report.documents.page import (
    Backed,
    Backing,
    Compound,
    Frame,
    PageFlagsReport,
    PageReport,
    PageSummary,
    Place,
    ResourceReport,
    Section,
    Sharing,
    SharingRun,
    StepReport,
    StructPage,
    Word,
)
from ...rules.findings import Collector
from ...rules.page_rows import Expected, PageKind, Rows, StructPages, holds_mask, resolve_heads
from ...rules.page_violations import PageViolations
from ...rules.struct_pages import COMPOUND_RULES
from ...spans import Spans, union
from ...vmemmap.layout import first_compound
from ...vmemmap.runs import runs_of
from ...vmemmap.struct_pages import read_struct_pages
from ...vmemmap.tables import Kind, trace
from .mappers import Mappers, find_mappers
from .meaning import understand
from .state import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...kernel.resource import Resource
    from ...machine import Kernel
    from ...rules.findings import Finding
    from ...vmemmap.pagemaps import PagemapLayout
    from ...vmemmap.tables import Trace

__all__ = ("Examination", "examine")

#: log2 of the pages in the largest compound page that is believed: 16 GiB of base pages
_MAX_ORDER = 22
#: runs of pages that share a frame that are listed
_MAX_RUNS = 32
#: PAGE_POISON_PATTERN
_POISON = (1 << 64) - 1


def examine(
    kernel: Kernel, number: int, meaning: str | None, reader: Examination | None = None
) -> PageReport:
    """
    Read everything about one page, once.

    :param number: page frame number, physical or virtual address
    :param meaning: which of these: pfn, phys, address, or ``None`` to find out
    :param reader: of the same kernel, which has read other pages
    :raises VmemscopeError: if there is no such page
    """
    reader = Examination(kernel) if reader is None else reader.again()
    pfn, understood = understand(number, meaning, reader.vmemmap, kernel.physmem_bits, kernel.prog)
    geometry = reader.vmemmap.geometry
    resources = reader.resources_of(pfn)
    section = reader.section_of(pfn)
    place, layout = reader.place_of(pfn)
    page = reader.struct_page(pfn)
    way = trace(reader.vmemmap.page_tables, reader.vmemmap.table, geometry.page_address(pfn))
    if way.kind is Kind.UNREADABLE:
        reader.unread["page tables on the way to the struct page"] += 1
    elif way.kind is Kind.MAPPED and not page.readable:
        reader.unread[
            "the struct page, which lies in " + _where(reader.memory_of(way.pfn or 0))
        ] += 1
    frame = reader.frame_of(way)
    nid, zone = reader.zone_of(pfn, page, place, section)
    sharing = reader.sharing(pfn, page, place, way)
    backs = reader.backing(pfn)
    findings = reader.check(pfn, place, layout)
    state = describe(
        pfn,
        section,
        place,
        zone,
        nid,
        resources,
        page,
        way,
        frame,
        sharing,
        backs,
        geometry,
        reader.shared,
    )
    report = PageReport(
        target=TargetInfo.about(kernel),
        meaning=understood,
        pfn=pfn,
        physical=pfn * geometry.page_size,
        resources=tuple(ResourceReport.of(one) for one in resources),
        section=section,
        node=nid,
        zone=zone,
        place=place,
        page=page,
        walk=tuple(StepReport.of(one) for one in way.steps),
        frame=frame,
        sharing=sharing,
        backs=backs,
        state=tuple(state),
        findings=findings,
        summary=PageSummary(
            not_read=tuple(f"{what}: {n}" for what, n in sorted(reader.unread.items()) if n)
        ),
    )
    return report.changed()


def _where(memory: str) -> str:
    return {"RAM": "RAM", "device": "the device itself"}.get(memory, "no memory that is known")


class Examination:
    """
    Reads everything about pages of one kernel.

    :param pfns: pages that will be read; one walk over the vmemmap serves all of them
    """

    def __init__(self, kernel: Kernel, pfns: Sequence[int] = ()) -> None:
        self.kernel = kernel
        self.pfns = tuple(pfns)
        self._mappers: Mappers | None = None
        self.prog, self.vmcoreinfo = kernel.prog, kernel.target.vmcoreinfo
        self.layouts, self.vmemmap = kernel.layouts, kernel.vmemmap
        self.zones, self.resources, self.flags = kernel.zones, kernel.resources, kernel.flags
        self.again()
        self.names = word_names(self.prog)
        #: the frames of tail pages that devices share, by pfn
        self.shared = {one.pfn: one for one in kernel.shared_tails.values() if one.pfn is not None}
        self.pagemaps_lost = bool(kernel.pagemap_damage) or not all(
            layout.complete for layout in self.layouts
        )

    def again(self) -> Examination:
        """Return the same for another page, with nothing unread but what all pages need."""
        kernel = self.kernel
        self.unread = kernel.unread + Counter(one.message for one in kernel.zone_damage)
        return self

    def resources_of(self, pfn: int) -> tuple[Resource, ...]:
        """Return the resources that contain a page, outermost first."""
        physical = pfn * self.vmemmap.geometry.page_size
        holding = [r for r in self.resources if r.depth and r.start <= physical <= r.end]
        self.unread["names of resources"] += sum(not one.named for one in holding)
        return tuple(sorted(holding, key=lambda r: r.depth))

    def section_of(self, pfn: int) -> Section:
        """Read the section of a page."""
        sections, page_size = self.vmemmap.sections, self.vmemmap.geometry.page_size
        valid: bool | None
        number, within = divmod(pfn, sections.pages)
        subsection = within * page_size // SUBSECTION_SIZE
        index = sections.index(number)
        if index is None:
            if sections.damage:
                self.unread["part of the section table"] += 1
            valid = None if sections.damage else False
            return Section(number, False, False, (), subsection, valid)
        found = read_subsections(self.prog, sections, page_size, np.array([index]))
        valid = bool(found.valid.contains(np.array([pfn]))[0])
        if found.unknown.total:
            self.unread["which subsections are valid"] += 1
            valid = None
        flags = tuple(section_flags(self.prog, int(sections.raw[index])))
        online = bool(sections.online[index])
        return Section(number, True, online, flags, subsection, valid)

    def place_of(self, pfn: int) -> tuple[Place | None, PagemapLayout | None]:
        """Find the pagemap of a page, and where in it the page is."""
        for layout in self.layouts:
            for first, end in layout.pfns:
                if first <= pfn < end:
                    return self._place(pfn, layout, first, end), layout
        return None, None

    def _place(self, pfn: int, layout: PagemapLayout, first: int, end: int) -> Place:
        geometry, pagemap = self.vmemmap.geometry, layout.pagemap
        pieces = layout.pieces(first, end, geometry, self.vmemmap.sections, layout.dedup.applied)
        vpage = geometry.vpage(pfn)
        populated = next((p.populated.value for p in pieces if p.start <= vpage < p.end), "unknown")
        data = first_compound(pagemap, first)
        altmap = None
        if pagemap.altmap is not None:
            reserved = first + pagemap.altmap.reserve
            altmap = "reserve" if pfn < reserved else "map" if pfn < data else "data"
        compound = head = None
        if layout.order and pfn >= data:
            compound = pfn - data >> layout.order
            head = data + (compound << layout.order)
        return Place(
            address=pagemap.address,
            name=layout.name,
            type=pagemap.type,
            start=first * geometry.page_size,
            end=end * geometry.page_size - 1,
            populated=populated,
            altmap=altmap,
            compound=compound,
            head_pfn=head,
            order=layout.order,
        )

    def struct_page(self, pfn: int) -> StructPage:
        """Read a ``struct page`` and take it apart."""
        vmemmap = self.vmemmap
        address = vmemmap.geometry.page_address(pfn)
        read = read_struct_pages(vmemmap, np.array([pfn], dtype=np.int64))
        if not read.readable[0]:
            return StructPage(address)
        words = read.data[0][: len(read.data[0]) // 8 * 8].view(vmemmap.word).tolist()
        found = StructPage(
            address=address,
            readable=True,
            words=tuple(
                Word(8 * i, word, self.names.get(8 * i, ())) for i, word in enumerate(words)
            ),
        )
        if not self._initialised(pfn, words[vmemmap.page.flags // 8]):
            return found
        data = read.data[0].tobytes()
        order = "little" if vmemmap.word[0] == "<" else "big"

        def counter(offset: int) -> int:
            return int.from_bytes(data[offset : offset + 4], order, signed=True)  # type: ignore[arg-type]

        flags = words[vmemmap.page.flags // 8]
        if vmemmap.page.order_in_flags and self._follows_head(pfn):
            # folio->_flags_1: the order of the compound page, not flags of its own.
            flags &= ~0xFF
        decoded = self.flags.decode(flags)
        mapcount = counter(mapcount_offset(self.prog))
        kind = page_type(self.prog, self.vmcoreinfo, mapcount & 0xFFFF_FFFF)
        compound = self._compound(pfn, address, words)
        return replace(
            found,
            initialised=True,
            flags=PageFlagsReport.of(decoded, node=decoded.nid),
            refcount=counter(vmemmap.page.refcount),
            mapcount=None if kind else mapcount,
            type=kind,
            compound=compound,
            poisoned=self._poisoned(pfn, decoded.names, compound),
        )

    def _initialised(self, pfn: int, flags: int) -> bool:
        """
        Return whether the kernel writes to a ``struct page`` before it uses it.

        Not where memory is not online (``mm/memory_hotplug.c: pfn_to_online_page()``), nor
        in the part of an altmap that is kept free; and with CONFIG_DEBUG_VM all bits of
        what is not initialised are set (``include/linux/page-flags.h: PagePoisoned()``).
        """
        if flags == _POISON:
            return False
        place, _ = self.place_of(pfn)
        if place is not None:
            return place.altmap != "reserve"
        sections = self.vmemmap.sections
        index = sections.index(pfn // sections.pages)
        if index is None:
            return bool(sections.damage)
        # A pagemap that was lost may have it, if it is no RAM.
        return bool(sections.online[index]) or (self.pagemaps_lost and self.memory_of(pfn) != "RAM")

    def _poisoned(self, pfn: int, flags: tuple[str, ...], compound: Compound) -> str | None:
        """
        Find out whether memory of a page, or of its compound page, failed.

        Source: ``mm/memory-failure.c``: PG_hwpoison is set in the page, in the head of a
        HugeTLB or device-dax page; PG_has_hwpoisoned in the first tail of others.
        """
        if "PG_hwpoison" in flags:
            return "page"
        head = compound.head_pfn
        if head is None or compound.role == "none" or not compound.order:
            return None
        for place, name in ((head, "PG_hwpoison"), (head + 1, "PG_has_hwpoisoned")):
            read = read_struct_pages(self.vmemmap, np.array([place], dtype=np.int64))
            word = int(read.word(self.vmemmap.page.flags, self.vmemmap.word)[0])
            if (
                read.readable[0]
                and self._initialised(place, word)
                and any(
                    word >> bit & 1 and name in names for bit, names in self.flags.names.items()
                )
            ):
                return "head" if place == head else "compound"
        return None

    def _follows_head(self, pfn: int) -> bool:
        """Return whether the page before is the head of a compound page."""
        layout, dtype = self.vmemmap.page, self.vmemmap.word
        if not pfn:
            return False
        read = read_struct_pages(self.vmemmap, np.array([pfn - 1], dtype=np.int64))
        is_head = read.word(layout.flags, dtype) & np.uint64(layout.pg_head) != 0
        is_tail = read.word(layout.compound, dtype) & np.uint64(1) != 0
        return bool(read.readable[0] and is_head[0] and not is_tail[0])

    def _compound(self, pfn: int, address: int, words: list[int]) -> Compound:
        """Resolve a page to its head, as ``compound_head()`` does."""
        layout, geometry = self.vmemmap.page, self.vmemmap.geometry
        word = np.array([words[layout.compound // 8]], dtype=np.uint64)
        at = np.array([address], dtype=np.uint64)
        if word[0] & np.uint64(1):
            head = self._pfn_of(int(resolve_heads(word, at)[0]))
            encoding = "mask" if holds_mask(word)[0] else "pointer"
            return Compound("tail", head, encoding, self._order(head))
        if not words[layout.flags // 8] & layout.pg_head:
            return Compound("none", None, None, None)
        if tails_may_look_like_heads(self.prog) and address % geometry.page_size == 0:
            # page_fixed_fake_head(): what follows a real head is a tail of it.
            read = read_struct_pages(self.vmemmap, np.array([pfn + 1], dtype=np.int64))
            follows = read.word(layout.compound, self.vmemmap.word)
            if (
                read.readable[0]
                and follows[0] & np.uint64(1)
                and follows[0] - np.uint64(1) != at[0]
            ):
                head = self._pfn_of(int(follows[0]) - 1)
                return Compound("fake-head", head, "pointer", self._order(head))
        return Compound("head", pfn, None, self._order(pfn))

    def _pfn_of(self, address: int) -> int | None:
        """Return the page frame of the ``struct page`` at an address, ``None`` if none is there."""
        pfn, into = self.vmemmap.geometry.pfn_at(address)
        return pfn if not into and 0 <= pfn < 1 << self.kernel.physmem_bits else None

    def _order(self, head: int | None) -> int | None:
        """Read the order of a compound page, from its first tail."""
        if head is None:
            return None
        layout = self.vmemmap.page
        read = read_struct_pages(self.vmemmap, np.array([head + 1], dtype=np.int64))
        order = int(read.data[0, layout.order])
        flags = int(read.word(layout.flags, self.vmemmap.word)[0])
        if not read.readable[0]:
            self.unread["the order of a compound page"] += 1
            return None
        return order if self._initialised(head + 1, flags) else None

    def zone_of(
        self, pfn: int, page: StructPage, place: Place | None, section: Section
    ) -> tuple[int | None, str | None]:
        """Return node and zone: of the page's flags if valid, else by the zones' spans."""
        flags = page.flags
        if flags is not None and flags.zone_name is not None:
            return flags.node, flags.zone_name
        if section.present and not section.online and place is None:
            return None, None
        spanning = [
            (zone.nid, zone.name)
            for zone in self.zones
            if zone.start <= pfn < zone.end and (zone.name == DEVICE) == (place is not None)
        ]
        return spanning[0] if len(spanning) == 1 else (None, None)

    def memory_of(self, pfn: int) -> str:
        """Return the kind of memory that a frame is in: RAM, device or no memory."""
        one = np.array([pfn], dtype=np.uint64)
        if self.vmemmap.ram.contains(one)[0]:
            return "RAM"
        return "device" if self.place_of(pfn)[0] is not None else "no memory"

    def frame_of(self, way: Trace) -> Frame | None:
        """Read the frame at the end of a trace, ``None`` if nothing is mapped."""
        if way.pfn is None:
            return None
        page = self.struct_page(way.pfn)
        if not page.readable:
            self.unread["the struct page of the frame"] += 1
        return Frame(way.pfn, way.steps[-1].size, self.memory_of(way.pfn), page)

    def sharing(
        self, pfn: int, page: StructPage, place: Place | None, way: Trace
    ) -> Sharing | None:
        """Find the pages of the vmemmap that map the frame, in the compound page or section."""
        if way.pfn is None:
            return None
        first, end, what = self._neighbourhood(pfn, page, place)
        geometry = self.vmemmap.geometry
        start, stop = geometry.vpage(first), geometry.vpage_after(end)
        size = geometry.struct_page_size
        found: list[SharingRun] = []
        for leaves in self.vmemmap.leaves(start, stop):
            runs = runs_of(leaves, geometry, start, stop)
            runs = select(runs, runs.kind == Kind.MAPPED)
            into = np.int64(way.pfn) - runs.pfn.astype(np.int64)
            count = np.where(runs.order == 0, 1, runs.length)
            here = (into >= 0) & (into < count)
            for vpage, length, order, offset in zip(
                runs.vpage[here].tolist(),
                runs.length[here].tolist(),
                runs.order[here].tolist(),
                into[here].tolist(),
                strict=True,
            ):
                at = vpage + offset if order else vpage
                found.append(
                    SharingRun(
                        geometry.address(at),
                        1 if order else length,
                        -(-at * geometry.page_size // size),
                    )
                )
        return Sharing(
            start=geometry.address(start),
            end=geometry.address(stop),
            what=what,
            pages=sum(run.pages for run in found),
            runs=tuple(found[:_MAX_RUNS]),
            runs_left_out=max(len(found) - _MAX_RUNS, 0),
        )

    def backing(self, pfn: int) -> Backing | None:
        """Find what of the memory map lies in a page: one walk over the whole vmemmap."""
        if self._mappers is None or pfn not in self.pfns:
            if pfn not in self.pfns:
                self.pfns = (pfn,)
            self._mappers = find_mappers(self.vmemmap, self.kernel.vmemmap_end, self.pfns)
        if self._mappers.unread:
            self.unread[
                "pages of vmemmap whose page tables are missing, and which may map this page"
            ] += self._mappers.unread
        return self._backing(*self._mappers.of[pfn]) if pfn in self._mappers.of else None

    def _backing(self, vpage: NDArray[np.int64], pages: NDArray[np.int64]) -> Backing:
        """Say what runs of ``pages`` vpages describe, each from a ``vpage`` on."""
        geometry = self.vmemmap.geometry
        size, page_size = geometry.struct_page_size, geometry.page_size
        first = -(-vpage * page_size // size)
        last = ((vpage + pages) * page_size - 1) // size
        elsewhere = np.ones(len(first), dtype=np.bool_)
        compounds = 0
        for layout in self.layouts:
            for start, end in layout.pfns:
                inside = (last >= start) & (first < end)
                elsewhere &= ~inside
                if layout.order:
                    data = first_compound(layout.pagemap, start)
                    used = inside & (last >= data)
                    numbers = Spans.of(
                        np.maximum(first[used] - data, 0) >> layout.order,
                        (np.minimum(last[used], end - 1) - data >> layout.order) + 1,
                    )
                    compounds += union([numbers]).total
        runs = []
        for at, count, low, high in zip(
            *(column[:_MAX_RUNS].tolist() for column in (vpage, pages, first, last)), strict=True
        ):
            place, _ = self.place_of(low)
            head = place.head_pfn if place is not None else self._head_of(low)
            runs.append(
                Backed(
                    address=geometry.address(at),
                    pages=count,
                    first_pfn=low,
                    last_pfn=high,
                    memory=self.memory_of(low),
                    pgmap=place.address if place is not None else None,
                    name=place.name if place is not None else None,
                    head_pfn=head,
                )
            )
        return Backing(
            pages=int(pages.sum()),
            runs=tuple(runs),
            runs_left_out=len(first) - len(runs),
            compounds=compounds,
            elsewhere=int(pages[elsewhere].sum()),
        )

    def _head_of(self, pfn: int) -> int | None:
        """Return the head of the compound page that a ``struct page`` says it is in."""
        compound = self.struct_page(pfn).compound
        return compound.head_pfn if compound is not None and compound.role != "none" else None

    def _neighbourhood(
        self, pfn: int, page: StructPage, place: Place | None
    ) -> tuple[int, int, str]:
        """Choose the page frames ``[first, end)`` to search for other users, and name them."""
        if place is not None and place.head_pfn is not None:
            last = (place.end + 1) // self.vmemmap.geometry.page_size
            return place.head_pfn, min(place.head_pfn + (1 << place.order), last), "compound page"
        compound = page.compound
        if (
            compound is not None
            and compound.head_pfn is not None
            and compound.order is not None
            and 0 < compound.order <= _MAX_ORDER
            and compound.head_pfn <= pfn < compound.head_pfn + (1 << compound.order)
        ):
            end = compound.head_pfn + (1 << compound.order)
            return compound.head_pfn, end, "compound page"
        pages = self.vmemmap.sections.pages
        first = pfn // pages * pages
        return first, first + pages, "section"

    def check(
        self, pfn: int, place: Place | None, layout: PagemapLayout | None
    ) -> tuple[Finding, ...]:
        """Check the page's compound page by the rules about contents, where it has one."""
        geometry = self.vmemmap.geometry
        if (
            place is None
            or layout is None
            or place.head_pfn is None
            or geometry.compound_vpages(place.order) < 2
        ):
            return ()
        # The head's row, and the page's own if it is another.
        row, last = geometry.row, (place.end + 1) // geometry.page_size
        first = np.array(sorted({place.head_pfn // row * row, pfn // row * row}))
        end = np.minimum(first + row, last)
        pfns = first[:, None] + np.arange(row)
        read = read_struct_pages(self.vmemmap, pfns.ravel())
        readable = (read.readable.reshape(pfns.shape) | (pfns >= end[:, None])).all(axis=1)
        words = read.data.view(self.vmemmap.word).astype(np.uint64, copy=False)
        head = np.full(len(first), place.head_pfn)
        shared = np.zeros(len(first), dtype=np.bool_)
        rows = Rows(
            head, first, first, first, end, shared, read.frame.reshape(pfns.shape)[:, 0],
            words.reshape(len(first), row, -1),
        )  # fmt: skip
        expected = Expected(layout.pagemap, self.vmemmap.page, geometry, self.flags)
        findings, violations = Collector(), PageViolations(expected, PageKind.COMPOUND)
        violations.check(
            StructPages(select(rows, readable), expected, PageKind.COMPOUND), COMPOUND_RULES
        )
        pages = int(np.count_nonzero(readable)) * row
        violations.report(findings, lambda _: (pages - int(readable[0]), pages))
        return findings.finish()
