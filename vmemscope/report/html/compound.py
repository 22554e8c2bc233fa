# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The first compound page, after ``Documentation/mm/vmemmap_dedup.rst``.

Pages of the vmemmap on the left, the frames that they map on the right, and a line for
each entry. Long runs lose their middle, as in the text's drawing
(:mod:`vmemscope.report.drawing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..documents.pgmap import FrameSpan, PagemapReport

__all__ = ("Drawing", "draw")

#: rows, and rows of a run before its middle is left out
_MAX_ROWS, _MAX_RUN = 14, 5
_ROW, _GAP = 24, 6
_LEFT, _RIGHT, _BOX_LEFT, _BOX_RIGHT = 1, 229, 120, 150


class Page(NamedTuple):
    """A page of the vmemmap, or several that are left out."""

    y: int
    label: str
    look: str


class FrameBox(NamedTuple):
    """A frame."""

    y: int
    label: str
    look: str


class Line(NamedTuple):
    """An entry: from a page to a frame."""

    y1: int
    y2: int


class Drawing(NamedTuple):
    """The first compound page of a pagemap."""

    height: int
    pages: Sequence[Page]
    frames: Sequence[FrameBox]
    lines: Sequence[Line]
    #: what it shows, in words
    text: str


class _Row(NamedTuple):
    first: int
    pages: int
    pfn: int | None
    role: str


def draw(one: PagemapReport) -> Drawing | None:
    """Draw the first compound page of a pagemap, ``None`` if nothing of it was audited."""
    rows = _rows(one.detail.first)
    if not rows:
        return None
    left_out = len(rows) > _MAX_ROWS
    rows = rows[:_MAX_ROWS]
    used: dict[int, int] = {}
    runs = 0
    pages, frames, lines = [], [], []
    for index, row in enumerate(rows):
        y = index * (_ROW + _GAP)
        last = row.first + row.pages - 1
        label = f"page {row.first}" if row.pages == 1 else f"pages {row.first}-{last}"
        if row.pfn is None:
            pages.append(Page(y, label, "unknown" if row.role == "unreadable" else "hole"))
            continue
        shared = sum(other.pages for other in rows if other.pfn == row.pfn) > 1
        several = row.pages > 1 and row.role == "own"
        pages.append(Page(y, label, "shared" if shared and not several else "own"))
        if several:
            runs += row.pages
            frames.append(FrameBox(y, f"{row.pages} frames", "own"))
            lines.append(Line(y, y))
            continue
        if row.pfn not in used:
            used[row.pfn] = y
            look = "shared" if shared else "own"
            frames.append(FrameBox(y, f"pfn {row.pfn:#x}", look))
        lines.append(Line(y, used[row.pfn]))
    height = len(rows) * (_ROW + _GAP)
    last = rows[-1].first + rows[-1].pages - 1
    words = f"pages 0 to {last} map {count(len(used) + runs, 'frame')}"
    return Drawing(height, pages, frames, lines, words + (", the rest is not drawn" * left_out))


def _rows(spans: Sequence[FrameSpan]) -> list[_Row]:
    """Return rows: pages one by one, the middle of long runs as one."""
    rows: list[_Row] = []
    own: list[_Row] = []
    first = 0

    def end_own() -> None:
        if len(own) <= _MAX_RUN:
            rows.extend(own)
        else:
            middle = own[3:-1]
            rows.extend(own[:3])
            rows.append(_Row(middle[0].first, len(middle), middle[0].pfn, "own"))
            rows.append(own[-1])
        own.clear()

    sizes: dict[int | None, int] = {}
    for span in spans:
        sizes[span.pfn] = sizes.get(span.pfn, 0) + span.vpages
    for span in spans:
        if span.large and span.pfn is not None:
            end_own()
            rows.append(_Row(first, span.vpages, span.pfn, "own"))
        elif span.pfn is not None and sizes[span.pfn] == 1:
            own.append(_Row(first, 1, span.pfn, span.role))
        else:
            end_own()
            if span.vpages > _MAX_RUN and span.pfn is not None:
                rows.append(_Row(first, 1, span.pfn, span.role))
                rows.append(_Row(first + 1, 1, span.pfn, span.role))
                rows.append(_Row(first + 2, span.vpages - 3, span.pfn, span.role))
                rows.append(_Row(first + span.vpages - 1, 1, span.pfn, span.role))
            elif span.pfn is None:
                rows.append(_Row(first, span.vpages, None, span.role))
            else:
                rows += [_Row(first + i, 1, span.pfn, span.role) for i in range(span.vpages)]
        first += span.vpages
    end_own()
    return rows
