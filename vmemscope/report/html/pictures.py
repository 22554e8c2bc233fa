# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Strips and bars: boxes in a width of 1000, whatever the size of what they show.

A strip has a bounded number of boxes: neighbours that look alike become one, and what is
left over is one box of its own. Nothing is told by colour alone: each kind has a pattern,
and the numbers stand beside it as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...text import binary_size, count

if TYPE_CHECKING:
    from ...rules.findings import Finding
    from ..documents.hugetlb import HstateReport
    from ..documents.memmap import Area
    from ..documents.pgmap import PagemapReport

__all__ = ("Box", "Mark", "Picture", "area_bar", "folio_bar", "frame_bar", "leaf_bar", "strip")

WIDTH = 1000.0
#: half of the width of a mark
_MARK = 6.0
_MAX_BOXES, _MAX_MARKS, _MAX_TICKS = 96, 64, 64


class Box(NamedTuple):
    """A box of a strip."""

    x: float
    width: float
    #: class in the style sheet, which gives a pattern
    look: str
    text: str


class Mark(NamedTuple):
    """A finding at its place."""

    x: float
    severity: str
    text: str


class Picture(NamedTuple):
    """A strip, with what it says in words."""

    title: str
    text: str
    boxes: Sequence[Box]
    marks: Sequence[Mark] = ()
    ticks: Sequence[float] = ()
    marks_left_out: int = 0
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
#: by :attr:`.Piece.populated`
_PIECES = {
    "compound": "shared",
    "leaf": "leaf",
    "base": "own",
    "early": "early",
    "unknown": "unknown",
}


def strip(one: PagemapReport, findings: Iterable[Finding], section_size: int) -> Picture:
    """
    Draw the vmemmap of a pagemap as the kernel should have populated it, and findings in it.

    Gaps between its ranges are left out.

    :param findings: of all audits; those elsewhere are left out
    :param section_size: bytes of physical memory in a section
    """
    geometry = one.detail.geometry
    pieces = one.detail.pieces
    total = sum(piece.end - piece.start for piece in pieces)
    if not total:
        return Picture("its vmemmap", "none of its vmemmap was audited", ())
    scale = WIDTH / total
    deduplicated = one.state in ("deduplicated", "partial")
    boxes: list[Box] = []
    places: list[tuple[int, int, int]] = []
    at = 0
    for piece in pieces:
        look = _PIECES[piece.populated.value]
        if look == "shared" and not deduplicated:
            look = "own"
        places.append((piece.start, piece.end, at))
        size = piece.end - piece.start
        if boxes and boxes[-1].look == look:
            boxes[-1] = boxes[-1]._replace(width=boxes[-1].width + size * scale)
        elif len(boxes) == _MAX_BOXES:
            boxes.append(Box(at * scale, WIDTH - at * scale, "unknown", "not drawn"))
        elif len(boxes) < _MAX_BOXES:
            boxes.append(Box(at * scale, size * scale, look, LOOKS[look]))
        at += size

    def place(address: int) -> float | None:
        vpage = geometry.vpage_at(address)
        return next(
            ((at + vpage - start) * scale for start, end, at in places if start <= vpage < end),
            None,
        )

    marks = [
        Mark(
            min(max(x, _MARK), WIDTH - _MARK),
            str(finding.severity),
            f"{finding.severity} {finding.rule} at {finding.vaddr:#x}",
        )
        for finding in findings
        if finding.vaddr is not None and (x := place(finding.vaddr)) is not None
    ]
    per_section = max(section_size // geometry.page_size * geometry.struct_page_size, 1)
    step = per_section // geometry.page_size
    borders = []
    for start, end, first in places:
        if step and (end - start) // step <= _MAX_TICKS:
            number = -(-start // step) * step
            borders += [(first + at - start) * scale for at in range(number, end, step)]
    ticks = borders if len(borders) <= _MAX_TICKS else []
    sections = max(total // step, 1) if step else 1
    text = (
        f"{count(total, 'page')} of vmemmap, {binary_size(total * geometry.page_size)}, in"
        f" {count(sections, 'section')}"
    )
    if marks:
        text += f"; {count(len(marks), 'finding')} in it"
    return Picture(
        "its vmemmap, from the first to the last page",
        text,
        boxes,
        marks[:_MAX_MARKS],
        ticks,
        max(len(marks) - _MAX_MARKS, 0),
    )


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


def leaf_bar(one: PagemapReport) -> Picture:
    """Draw how the pages of a pagemap's vmemmap are mapped: leaf sizes, and holes."""
    vmemmap, page_size = one.vmemmap, one.detail.geometry.page_size
    parts = []
    for size, entries in sorted(vmemmap.leaf_sizes.items()):
        pages = entries * max(size // page_size, 1)
        look = "own" if size == page_size else "leaf"
        leaves = count(entries, "leaf", "leaves")
        parts.append((pages, look, f"{leaves} of {binary_size(size)}"))
    parts.append((vmemmap.unmapped, "hole", f"{count(vmemmap.unmapped, 'page')} not mapped"))
    unreadable = f"{count(vmemmap.unreadable, 'page')} could not be read"
    parts.append((vmemmap.unreadable, "unknown", unreadable))
    return _bar("how it is mapped", parts)


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
