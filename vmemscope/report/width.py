# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text that fits the columns of a terminal.

This is the rule for all text reports, and the only place that applies it:

* A table leaves out columns until it fits, the least important first. If the last that stay
  do not fit, it shortens names, and ``...`` shows where. It never shortens a figure.
* Every other line is one line, so that users can search for it in a file or a pipe. A terminal
  with fewer columns gets it broken at spaces (:func:`broken`). A word that is wider than the
  terminal stays whole, and so does a number with its unit.

The command line decides where the text goes (``cli/streams.py``). Nothing here needs more than
the standard library until a table is made: help and messages use it, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from ..text import safe

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

__all__ = ("broken", "fitting_grid", "grid", "wrapped")

_Row = TypeVar("_Row")

#: columns of a name that does not fit, and columns that are left of it in any case
_NAME, _SHORTEST_NAME = 24, 8
#: columns of text that a line has after its indent, however narrow the terminal is
_LEAST = 20
#: gaps between the columns of a line; its text may have such gaps, too
_GAP = re.compile(r"(?<=\S) {2,}(?=\S)")
#: time stamp of a line of the kernel's log
_STAMP = re.compile(r"\[ *\d+\.\d+\] ")
#: the space between a number and its unit
_UNIT = re.compile(r"(?<=\d) (?=(?:[KMGTPE]i)?B\b)")
#: stands for a space at which no line is broken; no text has it, since it is not printable
_GLUE = "\0"


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Container[str]) -> list[str]:
    """
    Return rows as lines, the names of the columns first.

    :param rows: of each the cells, safe to be shown
    :param right: columns that stand on the right
    """
    from tabulate import tabulate

    # Column names are an ordinary row: tabulate makes columns wider than their headers.
    # Names like 0x10 and 1e3 are no numbers.
    text = tabulate(
        [columns, *rows],
        tablefmt="plain",
        colalign=["right" if column in right else "left" for column in columns],
        disable_numparse=True,
    )
    return [line.rstrip() for line in text.splitlines()]


def fitting_grid(
    rows: Sequence[_Row],
    cells: Mapping[str, Callable[[_Row], str]],
    choices: Sequence[Sequence[str]],
    right: Container[str],
    width: int,
    names: Container[str] = (),
) -> list[str]:
    """
    Return rows as lines, with as many columns as fit.

    :param cells: name of a column -> a row's text there
    :param choices: columns to show, in order of preference; if none fits, the last
    :param width: columns of text that there are
    :param names: columns whose text may be shortened
    """

    def lines_of(columns: Sequence[str], longest: int | None) -> list[str]:
        shown = (
            [
                _shortened(safe(cells[column](row)), longest if column in names else None)
                for column in columns
            ]
            for row in rows
        )
        return grid(columns, shown, right)

    lines = lines_of(choices[0], None)
    if _fits(lines, width):
        return lines
    for columns in choices:
        lines = lines_of(columns, _NAME)
        if _fits(lines, width):
            return lines
    for longest in range(_NAME - 1, _SHORTEST_NAME - 1, -1):
        lines = lines_of(choices[-1], longest)
        if _fits(lines, width):
            break
    return lines


def _fits(lines: Sequence[str], width: int) -> bool:
    return max(map(len, lines)) <= width


def _shortened(text: str, longest: int | None) -> str:
    return text if longest is None or len(text) <= longest else text[: longest - 3] + "..."


def broken(text: str, width: int) -> str:
    """
    Break the lines of a text at spaces where they are wider than a terminal.

    The rest of a line stands below a column of the line, the last that leaves a third of the
    terminal and has room for each word, or is indented by two.

    :param width: columns of the terminal
    """
    if all(len(line) <= width for line in text.split("\n")):
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= width:
            lines.append(line)
        else:
            indent = len(line) - len(line.lstrip())
            lines += wrapped(line[indent:], width, " " * indent, " " * _hang(line, width))
    return "\n".join(lines)


def _hang(line: str, width: int) -> int:
    """Return the column in which the rest of a line starts."""
    if stamp := _STAMP.match(line):
        starts = [stamp.end()]
    else:
        starts = [gap.end() for gap in _GAP.finditer(line)]
    indent = len(line) - len(line.lstrip()) + 2
    most = min(2 * width // 3, width - _LEAST)
    fit = [
        start
        for start in starts
        if start <= most and start + max(map(len, line[start:].split())) <= width
    ]
    return max([indent, *fit])


def wrapped(text: str, width: int, first: str, later: str) -> list[str]:
    """
    Return text as lines that are broken at spaces only.

    :param width: columns of a line, at least 20 of them text
    :param first, later: indents of the first line and of the others
    """
    import textwrap

    lines = textwrap.wrap(
        _UNIT.sub(_GLUE, text),
        max(width, len(later) + _LEAST),
        initial_indent=first,
        subsequent_indent=later,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in lines]
