# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame behind a ``struct page``, who shares it, and what of the memory map a page holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...columns import select
from ...report.documents.page import Backed, Backing, Frame, Sharing, SharingRun
from ...spans import Spans, union
from ...vmemmap.layout import first_compound
from ...vmemmap.runs import runs_of
from ...vmemmap.tables import Kind
from .mappers import Mappers, find_mappers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...report.documents.page import Place, StructPage
    from ...vmemmap.tables import Trace
    from .struct_page import StructPageReader

__all__ = ("FrameReader",)

#: log2 of the pages in the largest compound page that is believed: 16 GiB of base pages
_MAX_ORDER = 22
#: runs of pages that share a frame that are listed
_MAX_RUNS = 32


class FrameReader:
    """
    Reads the frames that hold ``struct page``s.

    :param pages: reads these
    :param pfns: frames that :meth:`backing` will be asked for; one walk serves all of them
    """

    def __init__(self, pages: StructPageReader, pfns: Sequence[int] = ()) -> None:
        self.pages, self.places, self.vmemmap = pages, pages.places, pages.vmemmap
        self.pfns = tuple(pfns)
        self._mappers: Mappers | None = None

    def frame_of(self, way: Trace) -> Frame | None:
        """Read the frame at the end of a trace, ``None`` if nothing is mapped."""
        if way.pfn is None:
            return None
        page = self.pages.read(way.pfn)
        if not page.readable:
            self.places.unread["the struct page of the frame"] += 1
        return Frame(way.pfn, way.steps[-1].size, self.places.memory_of(way.pfn), page)

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

    def backing(self, pfn: int) -> Backing | None:
        """Find what of the memory map lies in a page: one walk over the whole vmemmap."""
        if self._mappers is None or pfn not in self.pfns:
            if pfn not in self.pfns:
                self.pfns = (pfn,)
            self._mappers = find_mappers(self.vmemmap, self.places.kernel.vmemmap_end, self.pfns)
        if self._mappers.unread:
            self.places.unread[
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
        for layout in self.places.layouts:
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
            place, _ = self.places.place_of(low)
            head = place.head_pfn if place is not None else self._head_of(low)
            runs.append(
                Backed(
                    address=geometry.address(at),
                    pages=count,
                    first_pfn=low,
                    last_pfn=high,
                    memory=self.places.memory_of(low),
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
        compound = self.pages.read(pfn).compound
        return compound.head_pfn if compound is not None and compound.role != "none" else None
