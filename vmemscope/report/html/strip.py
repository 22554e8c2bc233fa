# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A device's part of the vmemmap as a strip, from its first page to its last.

The strip has a column for each of the cells that the audit counted
(:mod:`vmemscope.vmemmap.cells`), whatever the size of the device. In a column, each kind of
page has a part of the height. All columns together are one path for each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...text import binary_size, count
from ...vmemmap.cells import HOLE, LEAVES, OWN, SHARED, UNREADABLE
from .pictures import WIDTH, Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...rules.findings import Finding
    from ...vmemmap.cells import Cells
    from ..documents.pgmap import PagemapDetail, PagemapReport

__all__ = ("Layer", "Mark", "Strip", "StripPart", "draw_strip")

#: height of a column, and of the smallest part of one, which is more than its share
HEIGHT, _LEAST = 28, 3
#: half of the width of a mark
_MARK = 7.0
_MAX_BOXES, _MAX_TICKS, _MAX_PARTS = 64, 48, 24
#: marks that say what they are, and findings that each of them names
_MAX_MARKS, _MAX_NAMED = 32, 3

#: by :attr:`.Piece.populated`: how it looks, and what that stands for
_EXPECTED = {
    "compound": ("shared", "tail pages share frames"),
    "leaf": ("leaf", "large leaves"),
    "base": ("own", "a frame for each page"),
    "early": ("early", "there since boot"),
    "neighbour": ("early", "a neighbour's, which it counts with"),
    "unknown": ("unknown", "not known"),
}


class Layer(NamedTuple):
    """All pages of a kind."""

    #: class in the style sheet, which gives a pattern
    look: str
    #: their boxes, as the data of an SVG path
    path: str
    text: str


class Mark(NamedTuple):
    """The findings in a column."""

    #: its middle
    x: float
    #: of the worst
    severity: str
    text: str


class StripPart(NamedTuple):
    """Neighbouring columns that look alike, in words."""

    #: the vmemmap that they stand for
    addresses: str
    text: str


class Strip(NamedTuple):
    """A device's part of the vmemmap."""

    text: str
    #: the vmemmap from the first page to the last
    addresses: str = ""
    layers: Sequence[Layer] = ()
    #: what the kernel should have built
    expected: Sequence[Box] = ()
    marks: Sequence[Mark] = ()
    #: further marks by severity: where
    unnamed: Mapping[str, Sequence[float]] = MappingProxyType({})
    #: borders of sections, and where a range begins apart from the one before
    ticks: Sequence[float] = ()
    breaks: Sequence[float] = ()
    #: the same in words, and how many parts that leaves out
    parts: Sequence[StripPart] = ()
    parts_left_out: int = 0

    @property
    def severities(self) -> list[str]:
        """The severities of the marks, each once."""
        return [*dict.fromkeys([*(one.severity for one in self.marks), *self.unnamed])]

    @property
    def expected_looks(self) -> list[tuple[str, str]]:
        """The looks of what the kernel should have built, and what each stands for."""
        return [*dict.fromkeys((one.look, one.text) for one in self.expected)]


def draw_strip(one: PagemapReport, findings: Iterable[Finding], section_size: int) -> Strip:
    """
    Draw what is mapped along the vmemmap of a pagemap, and findings at their places.

    Gaps between its ranges are left out.

    :param findings: of all audits; those elsewhere are left out
    :param section_size: bytes of physical memory in a section
    """
    detail = one.detail
    cells = detail.cells
    if cells is None or not cells.total:
        return Strip("none of its vmemmap was audited")
    scale = WIDTH / cells.total
    at = _by_cell(cells, detail, findings)
    heights = _heights(cells)
    first = np.flatnonzero(np.append(True, (heights[:, 1:] != heights[:, :-1]).any(axis=0)))
    bounds = np.append(cells.bounds[first], cells.total)
    marks = [*_marks(cells, at)]
    unnamed: dict[str, list[float]] = {}
    for mark in marks[_MAX_MARKS:]:
        unnamed.setdefault(mark.severity, []).append(mark.x)
    ticks, sections, every = _borders(detail, cells, section_size)
    breaks = [
        after.at * scale for before, after in pairwise(cells.places) if before.end != after.start
    ]
    width = int(cells.bounds[1])
    text = (
        f"{count(cells.total, 'page')} of vmemmap,"
        f" {binary_size(cells.total * detail.geometry.page_size)}, for"
        f" {count(sections, 'section')}{f' (a tick for {every})' if every > 1 else ''};"
        f" a column for {count(width, 'page')}"
    )
    if breaks:
        text += f"; {len(breaks) + 1} ranges, with a bar between them"
    if found := sum(len(several) for several in at.values()):
        text += f"; {count(found, 'finding')}"
    return Strip(
        text=text,
        addresses=_addresses(detail, cells.places[0].start, cells.places[-1].end),
        layers=[*_layers(cells, heights[:, first], bounds * scale)],
        expected=_expected(detail, cells),
        marks=marks[:_MAX_MARKS],
        unnamed=unnamed,
        ticks=ticks,
        breaks=breaks if len(breaks) <= _MAX_TICKS else (),
        parts=[*_parts(cells, detail, first[:_MAX_PARTS], bounds, at)],
        parts_left_out=max(len(first) - _MAX_PARTS, 0),
    )


def _kinds(cells: Cells) -> list[tuple[int, str, str]]:
    """Return the kinds of pages from the top of a column down: row, look, and words."""
    leaves = [
        (
            LEAVES + number,
            "leaf" if not number else "leaf-2",
            f"in large leaves of {binary_size(size)}",
        )
        for number, size in enumerate(cells.leaf_sizes)
    ]
    return [
        (HOLE, "hole", "not mapped"),
        (UNREADABLE, "unknown", "not read"),
        *leaves,
        (OWN, "own", "with a frame of their own"),
        (SHARED, "shared", "that share frames"),
    ]


def _heights(cells: Cells) -> NDArray[np.int64]:
    """Return the height of each kind of page in each column, as :attr:`Cells.pages` has them."""
    pages = cells.pages
    heights = np.rint(pages * (HEIGHT / np.diff(cells.bounds))).astype(np.int64)
    heights = np.where(pages > 0, np.maximum(heights, _LEAST), 0)
    # The tallest makes room for those that are there in spite of their small share.
    column = np.arange(pages.shape[1])
    heights[heights.argmax(axis=0), column] += HEIGHT - heights.sum(axis=0)
    return heights


def _layers(
    cells: Cells,
    heights: NDArray[np.int64],
    x: NDArray[np.float64],
) -> Iterator[Layer]:
    """
    Yield the kinds of pages that there are.

    :param heights: of the parts of columns, shape ``(kinds, parts)``
    :param x: where the parts begin, and the end, shape ``(parts + 1,)``
    """
    edges = [f"{one:.1f}".removesuffix(".0") for one in x.tolist()]
    top = np.zeros(heights.shape[1], dtype=np.int64)
    for row, look, words in _kinds(cells):
        if not (pages := int(cells.pages[row].sum())):
            continue
        boxes = zip(top.tolist(), heights[row].tolist(), edges, edges[1:], strict=False)
        path = "".join(f"M{left} {y}V{y + h}H{right}V{y}z" for y, h, left, right in boxes if h)
        yield Layer(look, path, f"{count(pages, 'page')} {words}")
        top += heights[row]


def _by_cell(
    cells: Cells, detail: PagemapDetail, findings: Iterable[Finding]
) -> dict[int, list[Finding]]:
    """Find the findings in each cell."""
    found: dict[int, list[Finding]] = {}
    for finding in findings:
        if finding.vaddr is None:
            continue
        position = cells.position(detail.geometry.vpage_at(finding.vaddr))
        if position is not None:
            cell = int(np.searchsorted(cells.bounds, position, side="right")) - 1
            found.setdefault(cell, []).append(finding)
    return found


def _marks(cells: Cells, findings: Mapping[int, Sequence[Finding]]) -> Iterator[Mark]:
    """Yield a mark for each cell with findings."""
    middle = (cells.bounds[1:] + cells.bounds[:-1]) / 2 * (WIDTH / cells.total)
    x = np.clip(middle, _MARK, WIDTH - _MARK).tolist()
    for cell, found in sorted(findings.items()):
        yield Mark(x[cell], str(min(one.severity for one in found)), _named(found))


def _named(findings: Sequence[Finding]) -> str:
    """Return what some findings are, and where."""
    names = [f"{one.severity} {one.rule} at {one.vaddr:#x}" for one in findings[:_MAX_NAMED]]
    if len(findings) > _MAX_NAMED:
        names.append(f"{len(findings) - _MAX_NAMED} more")
    return "; ".join(names)


def _parts(
    cells: Cells,
    detail: PagemapDetail,
    first: NDArray[np.int64],
    bounds: NDArray[np.int64],
    findings: Mapping[int, Sequence[Finding]],
) -> Iterator[StripPart]:
    """Yield what columns that look alike have, in words and numbers."""
    kinds = _kinds(cells)
    ends = [*first[1:].tolist(), int(np.searchsorted(cells.bounds, bounds[len(first)]))]
    for low, high in zip(first.tolist(), ends, strict=True):
        pages = cells.pages[:, low:high].sum(axis=1).tolist()
        words = [f"{count(pages[row], 'page')} {what}" for row, _, what in kinds if pages[row]]
        named = sum(len(found) for cell, found in findings.items() if low <= cell < high)
        if named:
            words.append(count(named, "finding"))
        start, stop = int(cells.bounds[low]), int(cells.bounds[high])
        runs: list[tuple[int, int]] = []
        for begin, end in cells.vpages(start, stop):
            if runs and runs[-1][1] == begin:
                begin = runs.pop()[0]
            runs.append((begin, end))
        addresses = ", ".join(_addresses(detail, *run) for run in runs[:2])
        if len(runs) > 2:
            addresses += f" and {count(len(runs) - 2, 'more range')}"
        yield StripPart(addresses, ", ".join(words))


def _addresses(detail: PagemapDetail, vpage: int, end: int) -> str:
    """Return the addresses of some vpages, that of the last byte included."""
    start = detail.geometry.address(vpage)
    return f"{start:#x}-{start + (end - vpage) * detail.geometry.page_size - 1:#x}"


def _expected(detail: PagemapDetail, cells: Cells) -> list[Box]:
    """Return what the kernel should have built, neighbours that look alike as one."""
    scale = WIDTH / cells.total
    boxes: list[Box] = []
    pieces = sorted(detail.pieces, key=lambda piece: piece.start)
    for piece, place in zip(pieces, cells.places, strict=True):
        look, words = _EXPECTED[piece.populated.value]
        x, size = place.at * scale, (place.end - place.start) * scale
        if boxes and boxes[-1].look == look:
            boxes[-1] = boxes[-1]._replace(width=boxes[-1].width + size)
        elif len(boxes) == _MAX_BOXES:
            boxes.append(Box(x, WIDTH - x, "unknown", "not drawn"))
        elif len(boxes) < _MAX_BOXES:
            boxes.append(Box(x, size, look, words))
    return boxes


def _borders(
    detail: PagemapDetail, cells: Cells, section_size: int
) -> tuple[list[float], int, int]:
    """
    Find the borders of sections inside of ranges.

    :return: where they are, all or some; how many sections there are; and how many of them a
        tick stands for
    """
    geometry = detail.geometry
    ranges = sorted((one.start, one.end + 1) for one in detail.ranges)
    sections, last = 0, -1
    for start, end in ranges:
        low, high = start // section_size, (end - 1) // section_size
        sections += high - max(low, last + 1) + 1
        last = max(last, high)
    every = 1
    while sections / every > _MAX_TICKS:
        every *= 2
    step = every * section_size
    ticks = []
    for start, end in ranges:
        for border in range((start // step + 1) * step, end, step):
            at = border // geometry.page_size * geometry.struct_page_size
            vpage, into = divmod(at, geometry.page_size)
            position = cells.position(vpage)
            if position is not None:
                x = (position + into / geometry.page_size) * WIDTH / cells.total
                ticks.append(x)
    return ticks, sections, every
