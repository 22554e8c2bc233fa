# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Named tuples of numpy arrays of one length, handled as tables.

One array a column keeps a million page-table entries in a few megabytes; these
are the operations that go over all columns alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("join", "numbered", "select")

Table = TypeVar("Table", bound="tuple[NDArray[Any], ...]")


def select(table: Table, which: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Table:
    """Select rows by a mask, by their numbers or by a slice."""
    return cast(Table, cast(Any, type(table))._make(column[which] for column in table))


def join(tables: Sequence[Table]) -> Table:
    """Concatenate tables of one type, at least one."""
    columns = zip(*tables, strict=True)
    return cast(Table, cast(Any, type(tables[0]))._make(np.concatenate(c) for c in columns))


def numbered(counts: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """
    Number the items of rows, of which each row has a count.

    :param counts: items of each row, 0 or more, shape ``(n,)``
    :return: the row of each item, and its number in that row, shape ``(counts.sum(),)``
    """
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
