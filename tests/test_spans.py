# SPDX-License-Identifier: LGPL-2.1-or-later
"""Spans, held against Python's own sets."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from vmemscope.spans import Spans, intersection, subtract, union

SIZE = 60


def numbers(spans: Spans) -> set[int]:
    """Spread spans out, having checked that they are in order and apart."""
    pairs = spans.pairs()
    assert all(start < end for start, end in pairs)
    assert all(one[1] < other[0] for one, other in pairwise(pairs))
    assert spans.total == sum(end - start for start, end in pairs)
    return {number for start, end in pairs for number in range(start, end)}


def random_spans(rng: random.Random) -> tuple[Spans, set[int]]:
    pairs = []
    for _ in range(rng.randrange(6)):
        start = rng.randrange(SIZE)
        pairs.append((start, start + rng.randrange(-2, 12)))
    spans = Spans.of([start for start, _ in pairs], [end for _, end in pairs])
    return spans, {number for start, end in pairs for number in range(start, end)}


@pytest.mark.parametrize("seed", range(200))
def test_operations_are_those_of_sets(seed: int) -> None:
    rng = random.Random(seed)
    one, of_one = random_spans(rng)
    other, of_other = random_spans(rng)
    assert numbers(one) == of_one
    assert numbers(union((one, other))) == of_one | of_other
    assert numbers(intersection(one, other)) == of_one & of_other
    assert numbers(subtract(one, other)) == of_one - of_other
    everything = np.arange(-2, SIZE + 14)
    assert one.contains(everything).tolist() == [n in of_one for n in everything.tolist()]
    starts = np.array([rng.randrange(SIZE) for _ in range(8)])
    ends = starts + np.array([rng.randrange(1, 9) for _ in range(8)])
    assert one.touches(starts, ends).tolist() == [
        any(n in of_one for n in range(start, end))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def test_nothing() -> None:
    nothing = Spans.of([], [])
    assert nothing.total == 0
    assert nothing.pairs() == []
    assert union(()).pairs() == []
    assert not nothing.contains(np.array([0, 1])).any()
    assert not nothing.touches(np.array([0]), np.array([5])).any()
    assert subtract(nothing, nothing).pairs() == intersection(nothing, nothing).pairs() == []


def test_spans_that_touch_become_one() -> None:
    assert Spans.of([4, 0, 2], [6, 2, 4]).pairs() == [(0, 6)]
