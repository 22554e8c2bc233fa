# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pagemap under audit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...rules.findings import Collector
from ...vmemmap.frame_table import FrameTable
from ...vmemmap.frames import Frames
from ...vmemmap.layout import Populated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...report.documents.pgmap import FrameSpan
    from ...vmemmap.cells import Cells
    from ...vmemmap.layout import Piece
    from ...vmemmap.pagemaps import PagemapLayout
    from ...vmemmap.schemes import Scheme
    from ...vmemmap.shared_pages import SharedPage
    from ...vmemmap.shared_tails import SharedTail
    from ...vmemmap.tables import Kind

__all__ = ("AuditedPagemap",)


class AuditedPagemap:
    """
    A pagemap, and what the audit has found out about it.

    :param layout: the pagemap, and what of it is trusted
    """

    def __init__(self, layout: PagemapLayout) -> None:
        self.layout = layout
        self.pagemap = layout.pagemap
        self.name = layout.name
        self.label = layout.label
        #: the trusted ranges
        self.ranges = layout.ranges
        #: whether ``vmemmap_shift`` is trusted
        self.shift_sound = layout.shift_sound
        #: log2 of the base pages in a compound page, 0 where it is not trusted
        self.order = layout.order
        #: what is found decides where the kernel may or may not deduplicate
        self.dedup = layout.dedup
        self.findings = Collector()
        self.pieces: list[Piece] = []
        #: base pages of the vmemmap by what they turned out to be
        self.by_kind: Counter[Kind] = Counter()
        #: bytes of a leaf -> entries
        self.leaf_sizes: Counter[int] = Counter()
        #: frames from the page allocator
        self.ram = FrameTable()
        #: frames of tail pages that it shares with other devices of its node
        self.zone = FrameTable()
        #: entries of these, and the first vpage of them
        self.zone_entries = 0
        self.zone_vpage: int | None = None
        #: which of these it should map, ``None`` if its tail pages share no frame with others'
        self.shared: SharedTail | None = None
        #: frames of the altmap that the vmemmap maps
        self.in_altmap = 0
        #: whether some of its large leaves describe neighbouring sections, too
        self.shared_leaves = False
        #: frames on the device itself
        self.device = FrameTable()
        #: frames of which no more is asked: those of early pieces, which the memory
        #: map of RAM owns, and of pieces of which nothing is known
        self.boot = FrameTable()
        #: frames of pages that count with a neighbour, which they are checked with
        self.neighbour = FrameTable()
        #: how many of these pages are mapped
        self.mapped_elsewhere = 0
        #: large leaves that describe RAM, too, by their numbers in the vmemmap
        self.ram_leaves: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        #: its pages that describe other memory, too, by vpage
        self.shared_pages: dict[int, SharedPage] = {}
        #: compound pages walked, and those of which no two tail pages share a
        #: frame, each by the first vpage of its range and its number there
        self.compounds = 0
        self.apart: list[tuple[int, int]] = []
        #: vpages whose frame is not theirs: what is read there is somebody else's
        self.foreign: set[int] = set()
        #: what could not be read of it -> how many
        self.not_read: Counter[str] = Counter()
        #: the first compound page as mapped, for drawing
        self.first: list[FrameSpan] = []
        #: what is mapped by place, for drawing; ``None`` if it has no valid range
        self.cells: Cells | None = None

    @property
    def no_compounds(self) -> str | None:
        """Why it has no compound pages, or none that can be trusted; ``None`` if it has."""
        if not self.shift_sound:
            return "its vmemmap_shift makes no sense"
        if not self.order:
            return "no compound pages"
        return None

    @property
    def scheme(self) -> Scheme | None:
        """How its tail pages should share frames, ``None`` if not at all."""
        return self.dedup.applied

    def map_zone(self, vpage: int, entries: int) -> None:
        """Count entries that map the frame that it shares with others, from a vpage on."""
        number = np.zeros(1, dtype=np.int64)
        self.zone.add_frames(
            Frames(
                np.array([self.shared_pfn], dtype=np.uint64), number + entries, number,
                number + vpage, np.zeros(1, dtype=np.bool_), number + 1,
            )
        )  # fmt: skip
        self.zone_entries += entries
        if self.zone_vpage is None:
            self.zone_vpage = vpage

    @property
    def shared_pfn(self) -> int | None:
        """The frame that its tail pages should share with other devices', if there is one."""
        return None if self.shared is None else self.shared.pfn

    @property
    def vpages(self) -> int:
        """Base pages of the vmemmap that describe the pagemap."""
        return sum(piece.end - piece.start for piece in self.pieces)

    @property
    def pages_elsewhere(self) -> int:
        """Of these, those that count with a neighbour."""
        return sum(
            piece.end - piece.start
            for piece in self.pieces
            if piece.populated is Populated.NEIGHBOUR
        )
