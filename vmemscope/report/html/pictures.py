# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bars: boxes in a width of 1000, whatever the size of what they show.

Colour alone says nothing: each kind has a pattern, and the numbers stand beside it as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...text import binary_size, count

if TYPE_CHECKING:
    from ..documents.hugetlb import HstateReport
    from ..documents.memmap import Area
    from ..documents.pgmap import PagemapReport

__all__ = ("WIDTH", "Box", "Picture", "area_bar", "folio_bar", "frame_bar")

WIDTH = 1000.0


class Box(NamedTuple):
    """A box of a bar or a strip."""

    x: float
    width: float
    #: class in the style sheet, which gives a pattern
    look: str
    text: str


class Picture(NamedTuple):
    """A bar, with what it says in words."""

    title: str
    text: str
    boxes: Sequence[Box]
    #: part of the width that it takes
    width: float = WIDTH

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The looks of its boxes in their order, and what each stands for."""
        return [(look, LOOKS[look]) for look in dict.fromkeys(one.look for one in self.boxes)]


#: what a look stands for
LOOKS = {
    "own": "a frame for each page",
    "shared": "pages that share frames",
    "leaf": "large leaves",
    "early": "there since boot",
    "saved": "saved by sharing",
    "hole": "not mapped",
    "unknown": "not known or not read",
}


def _bar(title: str, parts: Sequence[tuple[int, str, str]], whole: float = WIDTH) -> Picture:
    """Draw parts of a whole: number, look and words of each."""
    total = sum(number for number, _, _ in parts)
    boxes, at = [], 0.0
    for number, look, text in parts:
        if number > 0:
            width = max(number / total * whole, 1.0)
            boxes.append(Box(at, width, look, text))
            at += width
    return Picture(title, "; ".join(box.text for box in boxes) or "nothing", boxes, width=at)


def frame_bar(one: PagemapReport) -> Picture:
    """Draw the pages of a pagemap's vmemmap by how many of them share a frame."""
    parts = []
    for entries, frames in sorted(one.frames.sharing.items()):
        if entries == 1:
            text = f"{count(frames, 'page')} with a frame of their own"
            parts.append((frames, "own", text))
        else:
            text = f"{count(frames, 'frame')} mapped by {entries} pages each"
            parts.append((entries * frames, "shared", text))
    if len(parts) > 8:
        rest = parts[7:]
        number = sum(pages for pages, _, _ in rest)
        parts = [*parts[:7], (number, "shared", f"{count(number, 'page')} in other frames")]
    return _bar("frames behind it", parts)


def area_bar(area: Area, most: int) -> Picture:
    """
    Draw the memory that the memory map of a zone or device takes, and what sharing saves.

    :param most: pages of the largest area
    """
    taken = min(area.frames, area.mapped)
    other = area.pages - area.mapped
    parts = [
        (taken, "own", f"{count(area.frames, 'frame')}"),
        (area.mapped - taken, "saved", f"{count(area.mapped - taken, 'page')} saved"),
        (other, "hole", f"{count(other, 'page')} not mapped or not read"),
    ]
    return _bar(area.label, parts, max(area.pages / max(most, 1) * WIDTH, 1.0))


def folio_bar(one: HstateReport) -> Picture:
    """Draw the folios of one size: optimized or not, free or in use."""
    parts = [
        (one.optimized, "saved", f"{one.optimized} optimized"),
        (one.folios - one.optimized, "own", f"{one.folios - one.optimized} not optimized"),
    ]
    return _bar(binary_size(one.size), parts)
