# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sets of integers as spans: pfns, vpages and other numbers that come in long runs.

A :class:`Spans` is sorted, and its spans neither touch nor overlap, so that a
terabyte of one kind takes one element. All operations are over whole arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("Spans", "intersection", "subtract", "union")


class Spans(NamedTuple):
    """Spans in order; both arrays have shape ``(n,)``."""

    #: first number of each span (int64)
    start: NDArray[np.int64]
    #: first number after each span (int64)
    end: NDArray[np.int64]

    @classmethod
    def of(cls, start: NDArray[Any] | Sequence[int], end: NDArray[Any] | Sequence[int]) -> Spans:
        """Return the set of spans in any order, which may overlap or be empty."""
        first = np.asarray(start, dtype=np.int64)
        last = np.asarray(end, dtype=np.int64)
        kept = last > first
        if not kept.all():
            first, last = first[kept], last[kept]
        if len(first) < 2:
            return cls(first, last)
        # Most inputs are in order already.
        if not (first[1:] >= first[:-1]).all():
            order = np.argsort(first, kind="stable")
            first, last = first[order], last[order]
        last = np.maximum.accumulate(last)
        begins = np.flatnonzero(np.concatenate(([True], first[1:] > last[:-1])))
        return cls(first[begins], last[np.append(begins[1:] - 1, len(last) - 1)])

    @property
    def total(self) -> int:
        """The number of integers in the set."""
        return int((self.end - self.start).sum())

    def contains(self, numbers: NDArray[Any]) -> NDArray[np.bool_]:
        """Return whether each number is in the set (bool, same shape)."""
        if not len(self.start):
            return np.zeros(numbers.shape, dtype=np.bool_)
        index = np.searchsorted(self.start, numbers, side="right") - 1
        inside: NDArray[np.bool_] = (index >= 0) & (numbers < self.end[np.maximum(index, 0)])
        return inside

    def touches(self, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each non-empty range has a number in the set (bool, same shape)."""
        if not len(self.start):
            return np.zeros(start.shape, dtype=np.bool_)
        # The first span that ends after the range starts.
        index = np.searchsorted(self.end, start, side="right")
        found: NDArray[np.bool_] = (index < len(self.end)) & (
            self.start[np.minimum(index, len(self.end) - 1)] < end
        )
        return found

    def pairs(self) -> list[tuple[int, int]]:
        """Return the spans as pairs of Python integers."""
        return list(zip(self.start.tolist(), self.end.tolist(), strict=True))


def union(several: Iterable[Spans]) -> Spans:
    """Return the union of sets."""
    parts = list(several)
    if not parts:
        return Spans.of([], [])
    return Spans.of(
        np.concatenate([one.start for one in parts]), np.concatenate([one.end for one in parts])
    )


def intersection(one: Spans, other: Spans) -> Spans:
    """Return the intersection of two sets."""
    return _combined(one, other, np.logical_and)


def subtract(one: Spans, other: Spans) -> Spans:
    """Return the integers in ``one`` that are not in ``other``."""
    return _combined(one, other, np.greater)


def _combined(
    one: Spans,
    other: Spans,
    keep: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]],
) -> Spans:
    # numpy.unique() would import numpy.ma.
    points = np.sort(np.concatenate((*one, *other)))
    new = np.ones(len(points), dtype=np.bool_)
    new[1:] = points[1:] != points[:-1]
    points = points[new]
    if len(points) < 2:
        return Spans.of([], [])
    left, right = points[:-1], points[1:]
    kept = keep(one.contains(left), other.contains(left))
    return Spans.of(left[kept], right[kept])
