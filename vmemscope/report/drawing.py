# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The first compound page, drawn as the kernel's own documentation draws it.

After ``Documentation/mm/vmemmap_dedup.rst``: device memory on the left, the
pages of the vmemmap with its ``struct page``s in the middle, the frames that
they map on the right, all from the entries as found. A page that maps the
frame last drawn has an arrow up to it. A page that maps an earlier frame names
the frame, and a note names the page that mapped it first. Long groups of equal
pages lose their middle, and a note describes it.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING

from msgspec import Struct

from ..text import binary_size
from .words import count, safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..vmemmap.layout import Geometry
    from .documents.pgmap import FrameSpan, PagemapReport

__all__ = ("caption", "draw")

#: rows at the most
_ROWS = 24
#: arrows up to one frame: more would miss its box
_ARROWS = 6
#: columns between the bars of a box, from a page to its frame, and from the
#: device memory to the pages
_BOX, _ARROW, _BETWEEN = 11, 16, 21
_ELIDED = ".."
_NOTHING = {"hole": "(not mapped)", "unreadable": "(unreadable)"}


class _Kind(Enum):
    """Where the arrow of a row goes."""

    #: a frame that is drawn beside it
    FRAME = auto()
    #: up to the frame drawn last
    UP = auto()
    #: a frame further up, with another between
    BACK = auto()
    #: nowhere
    NOTHING = auto()


#: a longer group of rows loses its middle; rows then kept before that, besides
#: the last one. With 7, the compound page of 2 MiB on x86 is whole.
_LIMITS = {
    _Kind.FRAME: (10, 5),
    _Kind.UP: (_ARROWS + 1, _ARROWS - 1),
    _Kind.BACK: (2, 1),
    _Kind.NOTHING: (2, 1),
}


class _Group(Struct, frozen=True):
    """Neighbouring vpages that are drawn alike, numbered from the first drawn."""

    first: int
    #: frame that each maps, or ``None``
    pfns: Sequence[int | None]
    role: str
    #: whether one large leaf maps them, each to the frame after that of the one before
    large: bool = False

    @property
    def pages(self) -> int:
        return len(self.pfns)

    @property
    def shares(self) -> bool:
        """Whether all map one frame."""
        return self.pages > 1 and self.pfns[0] == self.pfns[1]


class _Row(Struct, frozen=True):
    """One box in the middle: a vpage, or several that are left out."""

    first: int
    pages: int
    kind: _Kind
    #: what stands in the frame's box, or in its stead
    text: str
    #: goes on with the large leaf of the row above
    continues: bool = False


class _Note(Struct, frozen=True):
    """A remark about vpages."""

    first: int
    text: str


def caption(one: PagemapReport, geometry: Geometry) -> str:
    """Return the title of what :func:`draw` draws."""
    total, is_compound = _extent(one, geometry)
    if is_compound:
        return "the first compound page, as mapped"
    return f"the first {count(total, 'page')} of the vmemmap, as mapped"


def draw(one: PagemapReport, geometry: Geometry, width: int) -> list[str]:
    """
    Return a drawing of the first compound page of a pagemap, or of its first vpages.

    :param width: columns; in too few, the device memory on the left is left out, or all
    :return: lines, notes at the end
    """
    spans = _first_spans(one, geometry)
    if not spans:
        return [" none of its vmemmap was audited"]
    total, is_compound = _extent(one, geometry)
    rows, notes = _rows(_groups(spans, one, geometry))
    rows, notes = _cut(rows, notes, total)
    lines = _lines(rows, _memory(one, geometry, total, is_compound), total)
    if max(map(len, lines)) > width:
        lines = _lines(rows, None, total)
    if (needed := max(map(len, lines))) > width:
        lines = [f" no drawing: it needs {needed} columns"]
    return [
        *lines,
        "",
        f" page 0 is at {spans[0].address:#x}, frames are labelled with their pfn",
        *(f" {note.text}" for note in notes),
    ]


def _first_spans(one: PagemapReport, geometry: Geometry) -> list[FrameSpan]:
    """Return the spans up to the first gap: the next are of another range."""
    spans: list[FrameSpan] = []
    for span in one.detail.first:
        if spans and spans[-1].address + spans[-1].vpages * geometry.page_size != span.address:
            break
        spans.append(span)
    return spans


def _extent(one: PagemapReport, geometry: Geometry) -> tuple[int, bool]:
    """Return how many vpages there are to draw, and whether they are a compound page."""
    found = sum(span.vpages for span in _first_spans(one, geometry))
    shift = one.vmemmap_shift or 0
    if not shift or one.compound_size is None or not one.detail.pieces:
        return found, False
    size = geometry.compound_vpages(shift)
    start, origin = one.detail.pieces[0].start, one.detail.pieces[0].origin
    end = max(piece.end for piece in one.detail.pieces if piece.origin == origin)
    total = max(min(size, end - start), found)
    # With an altmap the struct pages of the memory map's own frames come first.
    return total, total == size and one.altmap is None


def _groups(spans: Sequence[FrameSpan], one: PagemapReport, geometry: Geometry) -> list[_Group]:
    """Join neighbouring vpages that each have a frame of their own, and number all."""
    used = Counter(span.pfn for span in spans)
    groups: list[_Group] = []
    own: list[int | None] = []
    first = 0

    def end_own() -> None:
        if own:
            groups.append(_Group(first - len(own), tuple(own), "own"))
            own.clear()

    for span in spans:
        if span.vpages == 1 and span.pfn is not None and used[span.pfn] == 1:
            own.append(span.pfn)
        else:
            end_own()
            pfns: Sequence[int | None]
            if span.pfn is not None and span.large:
                pfns = range(span.pfn, span.pfn + span.vpages)
            else:
                pfns = [span.pfn] * span.vpages
            groups.append(_Group(first, pfns, span.role, span.large))
        first += span.vpages
    end_own()
    return groups


def _rows(groups: Sequence[_Group]) -> tuple[list[_Row], list[_Note]]:
    """Return the rows and notes of groups."""
    rows: list[_Row] = []
    notes: list[_Note] = []
    #: each frame drawn, or left out, with the first vpage that maps it
    drawn: dict[int, int] = {}
    latest: int | None = None
    arrows = 0
    for group in groups:
        pfn = group.pfns[0]
        if pfn is None:
            kind, same = _Kind.NOTHING, "just the same"
            text = _NOTHING.get(group.role, f"({safe(group.role)})")
        elif group.large or not (group.shares or pfn in drawn):
            kind, same, text = _Kind.FRAME, "each with a frame of its own", ""
            notes += _again(group, drawn)
        elif pfn not in drawn or (
            pfn == latest and arrows + len(_parts(group.pages, _Kind.UP)) <= _ARROWS
        ):
            kind, same, text = _Kind.UP, "which map the same frame", ""
        else:
            kind, same, text = _Kind.BACK, "which map the same frame", f"{pfn:#x}"
            maps = "maps" if group.pages == 1 else "map"
            notes.append(
                _Note(
                    group.first,
                    f"{_which(group.first, group.pages)} {maps} the frame of page {drawn[pfn]}",
                )
            )
        for offset, pages in _parts(group.pages, kind):
            frame = group.pfns[offset]
            row_kind, row_text = kind, text
            if kind is _Kind.FRAME or (kind is _Kind.UP and pfn not in drawn and not offset):
                row_kind = _Kind.FRAME
                row_text = _ELIDED if pages > 1 else f"{frame:#x}"
                latest, arrows = frame, 0
            elif kind is _Kind.UP:
                arrows += 1
            rows.append(
                _Row(group.first + offset, pages, row_kind, row_text, group.large and offset > 0)
            )
            if pages > 1:
                where = _which(group.first + offset, pages)
                notes.append(_Note(group.first + offset, f"{_ELIDED} is {where}, {same}"))
        if group.large:
            which = _which(group.first, group.pages)
            notes.append(_Note(group.first, f"{which} are mapped by one large leaf"))
        for offset, frame in enumerate(group.pfns):
            if frame is not None:
                drawn.setdefault(frame, group.first + offset)
    return rows, sorted(notes, key=lambda note: note.first)


def _again(group: _Group, drawn: dict[int, int]) -> list[_Note]:
    """Return a note if frames of a group, each drawn beside its page, were drawn before."""
    again = [(i, pfn) for i, pfn in enumerate(group.pfns) if pfn is not None and pfn in drawn]
    if not again:
        return []
    offset, pfn = again[0]
    text = f"page {group.first + offset} maps the frame of page {drawn[pfn]}"
    if len(again) > 1:
        text += f", and {count(len(again) - 1, 'more page')} after it map frames drawn before"
    return [_Note(group.first + offset, text)]


def _parts(pages: int, kind: _Kind) -> list[tuple[int, int]]:
    """Split vpages into rows: offset and number of vpages, the middle of many as one row."""
    most, kept = _LIMITS[kind]
    left_out = pages - kept - 1
    if pages <= most or left_out < 2:
        return [(i, 1) for i in range(pages)]
    return [*((i, 1) for i in range(kept)), (kept, left_out), (pages - 1, 1)]


def _which(first: int, pages: int) -> str:
    if pages == 1:
        return f"page {first}"
    return f"pages {first} to {first + pages - 1}"


def _cut(rows: list[_Row], notes: list[_Note], total: int) -> tuple[list[_Row], list[_Note]]:
    """Return at most 24 rows, the last of which stands for the rest."""
    rows = rows[:_ROWS]
    end = rows[-1].first + rows[-1].pages
    notes = [note for note in notes if note.first < end]
    if end < total:
        rows.append(_Row(end, total - end, _Kind.NOTHING, "(not drawn)"))
        notes.append(_Note(end, f"{_ELIDED} is {_which(end, total - end)}, not drawn"))
    return rows, notes


def _memory(
    one: PagemapReport, geometry: Geometry, total: int, is_compound: bool
) -> tuple[str, ...]:
    """Return the label of the device memory that the drawn vpages describe."""
    if is_compound and one.compound_size is not None:
        return (binary_size(one.compound_size), "compound", "page")
    described = total * geometry.page_size // geometry.struct_page_size * geometry.page_size
    return ("first", binary_size(described))


class _Canvas:
    """Lines of text that can be written to anywhere."""

    def __init__(self) -> None:
        self._lines: list[list[str]] = []

    def put(self, line: int, column: int, text: str) -> None:
        """Write text from a place rightwards, over what is there."""
        while len(self._lines) <= line:
            self._lines.append([])
        cells = self._lines[line]
        cells += " " * (column + len(text) - len(cells))
        cells[column : column + len(text)] = text

    def lines(self) -> list[str]:
        """Return all lines without trailing blanks."""
        return ["".join(cells).rstrip() for cells in self._lines]


def _lines(rows: Sequence[_Row], memory: tuple[str, ...] | None, total: int) -> list[str]:
    """
    Return the lines of the drawing.

    :param memory: label of the device memory, ``None`` to leave it out
    """
    canvas = _Canvas()
    # Line 0 has the headings, line 1 the top borders, then each row has two.
    bottom = 1 + 2 * len(rows)
    middle = 1
    if memory is not None:
        middle += _BOX + 2 + _BETWEEN
        canvas.put(0, 2, "device memory")
        canvas.put(1, 1 + _BOX + 2, " ---virt_to_page---> ")
        for line in range(2, bottom + 4):
            canvas.put(line, 1, f"|{'':{_BOX}}|")
        for offset, word in enumerate(memory):
            canvas.put((bottom + 5) // 2 + offset, 1, f"|{word.center(_BOX)}|")
        for line in (1, bottom + 4):
            canvas.put(line, 1, _border(_BOX))
    canvas.put(0, middle - 1, f"struct pages ({count(total, 'page')})")
    canvas.put(1, middle, _border(_BOX))
    for index, row in enumerate(rows):
        label = str(row.first) if row.pages == 1 else _ELIDED
        canvas.put(2 + 2 * index, middle, f"|{label.center(_BOX)}|")
        canvas.put(3 + 2 * index, middle, _border(_BOX))
    _put_frames(canvas, rows, middle + _BOX + 2)
    return canvas.lines()


def _put_frames(canvas: _Canvas, rows: Sequence[_Row], left: int) -> None:
    """Draw arrows and frames to the right of a column."""
    frames = [row for row in rows if row.kind is _Kind.FRAME]
    beside = [row for row in rows if row.kind in (_Kind.BACK, _Kind.NOTHING)]
    inner = max([_BOX, *(len(row.text) + 2 for row in frames)])
    gap = max([_ARROW, *(len(_beside(row)) + 2 for row in beside)])
    canvas.put(0, left + gap, "page frames")
    canvas.put(1, left, "mapping to".center(gap))
    for index, row in enumerate(rows):
        line = 2 + 2 * index
        if row.kind is _Kind.FRAME:
            top = f"|{'':{inner}}|" if row.continues else _border(inner)
            canvas.put(line - 1, left + gap, top)
            canvas.put(line, left, f" {'-' * (gap - 3)}> |{row.text.center(inner)}|")
            canvas.put(line + 1, left + gap, _border(inner))
            _put_arrows(canvas, rows, index, left, left + gap + 1)
        elif row.kind is not _Kind.UP:
            canvas.put(line, left, _beside(row))


def _beside(row: _Row) -> str:
    return f" ---> {row.text}" if row.kind is _Kind.BACK else f" {row.text}"


def _put_arrows(canvas: _Canvas, rows: Sequence[_Row], index: int, left: int, column: int) -> None:
    """Draw the arrows that go up to the frame of a row, from a column rightwards."""
    under = 2 + 2 * (index + 1)
    for at in range(index + 1, len(rows)):
        if rows[at].kind is _Kind.FRAME:
            return
        if rows[at].kind is not _Kind.UP:
            continue
        line = 2 + 2 * at
        canvas.put(line, left, f" {'-' * (column - left - 1)}{'+' if line > under else '^'}")
        if line > under:
            canvas.put(under, column, "^")
        for between in range(under + 1, line):
            canvas.put(between, column, "|")
        column += 2


def _border(inner: int) -> str:
    return f"+{'-' * inner}+"
