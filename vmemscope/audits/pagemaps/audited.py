# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pagemap under audit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...rules.findings import Collector
from ...vmemmap.frame_table import FrameTable
from ...vmemmap.frames import Frames
from ...vmemmap.layout import Piece
from ...vmemmap.tables import Kind

if TYPE_CHECKING:
    from ...report.documents.pgmap import FrameSpan
    from ...vmemmap.cells import Cells
    from ...vmemmap.pagemaps import PagemapLayout
    from ...vmemmap.schemes import Scheme
    from ...vmemmap.shared_tails import SharedTail

__all__ = ("AuditedPagemap",)


@dataclass
class AuditedPagemap:
    """A pagemap, and what the audit has found out about it."""

    layout: PagemapLayout
    findings: Collector = field(default_factory=Collector)
    pieces: list[Piece] = field(default_factory=list)
    #: base pages of the vmemmap by what they turned out to be
    by_kind: Counter[Kind] = field(default_factory=Counter)
    #: bytes of a leaf -> entries
    leaf_sizes: Counter[int] = field(default_factory=Counter)
    #: frames from the page allocator
    ram: FrameTable = field(default_factory=FrameTable)
    #: frames of tail pages that it shares with other devices of its node
    zone: FrameTable = field(default_factory=FrameTable)
    #: entries of these, and the first vpage of them
    zone_entries: int = 0
    zone_vpage: int | None = None
    #: which of these it should map, ``None`` if its tail pages share no frame with others'
    shared: SharedTail | None = None
    #: frames of the altmap that the vmemmap maps
    in_altmap: int = 0
    #: whether some of its large leaves describe neighbouring sections, too
    shared_leaves: bool = False
    #: frames on the device itself
    device: FrameTable = field(default_factory=FrameTable)
    #: frames of which no more is asked: those of early pieces, which the memory
    #: map of RAM owns, and of pieces of which nothing is known
    boot: FrameTable = field(default_factory=FrameTable)
    #: compound pages walked, and those of which no two tail pages share a
    #: frame, each by the first vpage of its range and its number there
    compounds: int = 0
    apart: list[tuple[int, int]] = field(default_factory=list)
    #: vpages whose frame is not theirs: what is read there is somebody else's
    foreign: set[int] = field(default_factory=set)
    #: what could not be read of it -> how many
    not_read: Counter[str] = field(default_factory=Counter)
    #: the first compound page as mapped, for drawing
    first: list[FrameSpan] = field(default_factory=list)
    #: what is mapped by place, for drawing; ``None`` if it has no valid range
    cells: Cells | None = None

    def __post_init__(self) -> None:
        self.pagemap = self.layout.pagemap
        self.name = self.layout.name
        self.label = self.layout.label
        #: the trusted ranges
        self.ranges = self.layout.ranges
        #: whether ``vmemmap_shift`` is trusted
        self.shift_sound = self.layout.shift_sound
        #: log2 of the base pages in a compound page, 0 where it is not trusted
        self.order = self.layout.order
        #: what is found decides where the kernel may or may not deduplicate
        self.dedup = self.layout.dedup

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
