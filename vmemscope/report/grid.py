# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of cells as text, under the names of their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .words import safe

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

__all__ = ("fitting_grid", "grid")

_Row = TypeVar("_Row")


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
    choices: Iterable[Sequence[str]],
    right: Container[str],
    width: int,
) -> list[str]:
    """
    Return rows as lines, with as many columns as fit.

    :param cells: name of a column -> a row's text there
    :param choices: columns to show, in order of preference; if none fits, the last
    :param width: columns of text that there are
    """
    lines: list[str] = []
    for columns in choices:
        shown = ([safe(cells[column](row)) for column in columns] for row in rows)
        lines = grid(columns, shown, right)
        if max(map(len, lines)) <= width:
            break
    return lines
