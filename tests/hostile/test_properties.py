# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walk and the counting of frames, on anything: page by page, the same comes out."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_frames import runs_from
from tests.test_walk import BASE, PRESENT, WRITABLE, Tables, by_page
from vmemscope.vmemmap.frame_table import FrameTable
from vmemscope.vmemmap.frames import sharing
from vmemscope.vmemmap.tables import Kind, translate

SAME = settings(max_examples=60, deadline=None, derandomize=True, database=None)

PAGE, PMD, PUD = 1 << 12, 1 << 21, 1 << 30

#: where in the range something is mapped: (level from the last, place, frame)
LEAVES = st.lists(
    st.tuples(st.sampled_from([-1, -1, -1, -2, -3]), st.integers(0, 2047), st.integers(0, 99)),
    max_size=8,
)
#: what is done to tables: (table, entry, what)
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(0, 511),
        st.one_of(
            # A table, its own among them; a frame that is no table; anything.
            st.integers(0, 9).map(lambda frame: frame << 12 | PRESENT | WRITABLE),
            st.integers(0, (1 << 64) - 1),
            st.sampled_from([0, 1 << 7 | PRESENT, (1 << 64) - 1]),
        ),
    ),
    max_size=6,
)


def tables_of(levels: int, leaves: list[tuple[int, int, int]]) -> Tables:
    tables = Tables(levels)
    for level, place, frame in leaves:
        size = {-1: PAGE, -2: PMD, -3: PUD}[level]
        address = BASE[levels] + (place * PAGE if level == -1 else place % 4 * size)
        try:
            tables.map(address // size * size, frame * size // PAGE, level)
        except KeyError:
            # Something large is mapped there already.
            continue
    return tables


@SAME
@given(
    st.sampled_from([4, 5]),
    LEAVES,
    DAMAGE,
    st.sets(st.integers(1, 9), max_size=2),
    st.integers(0, 1023),
    st.integers(1, 1536),
)
def test_walk(levels, leaves, damage, missing, first, count):
    tables = tables_of(levels, leaves)
    for table, entry, value in damage:
        if table in tables.frames:
            tables.frames[table][entry] = value
    for table in missing:
        tables.frames.pop(table, None)
    start = BASE[levels] + first * PAGE
    expected = [tables.lookup(start + i * PAGE) for i in range(count)]
    assert by_page(tables, start, start + count * PAGE) == expected
    addresses = np.arange(start, start + count * PAGE, PAGE, dtype=np.uint64)
    pfns, kinds = translate(tables, tables.table, addresses)
    assert list(zip(map(Kind, kinds.tolist()), pfns.tolist(), strict=True)) == expected


def test_walk_of_a_table_that_is_its_own() -> None:
    # Whatever the level, the walk ends at the last.
    for levels in (4, 5):
        tables = Tables(levels)
        tables.frames[1][:] = 1 << 12 | PRESENT
        expected = [tables.lookup(BASE[levels] + i * PAGE) for i in range(600)]
        assert by_page(tables, BASE[levels], BASE[levels] + 600 * PAGE) == expected


@SAME
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2)), min_size=1, max_size=40),
        max_size=6,
    )
)
def test_frames(batches):
    table, entries, owners, first = FrameTable(), Counter(), Counter(), {}
    vpage = 0
    for batch in batches:
        # A frame, and how many of the pages that map it should own it.
        runs = runs_from([(pfn, Kind.MAPPED) for pfn, _ in batch], vpage)
        owned = np.minimum(np.array([batch[i][1] for i in runs.vpage - vpage]), runs.length)
        table.add(runs, owned)
        for start, length, pfn, own in zip(
            runs.vpage.tolist(),
            runs.length.tolist(),
            runs.pfn.tolist(),
            owned.tolist(),
            strict=True,
        ):
            entries[pfn] += length
            owners[pfn] += own
            first.setdefault(pfn, start)
        vpage += len(batch)
    frames = table.finish()
    assert frames.pfn.tolist() == sorted(entries)
    assert frames.entries.tolist() == [entries[pfn] for pfn in sorted(entries)]
    assert frames.owners.tolist() == [owners[pfn] for pfn in sorted(entries)]
    assert frames.vpage.tolist() == [first[pfn] for pfn in sorted(entries)]
    assert sharing(frames) == Counter(entries.values())
