# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is mapped along a device's part of the vmemmap, cell by cell.

Expected is what the page tables say of each page alone, gone down entry by entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from drgn import FaultError

from vmemscope.arch.x86_64 import ARCHITECTURE
from vmemscope.audits.pagemaps import once
from vmemscope.limits import LIMITS
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import PagemapReport
from vmemscope.sim import builtin_scenarios
from vmemscope.vmemmap.cells import HOLE, LEAVES, OWN, SHARED, UNREADABLE, Cells
from vmemscope.vmemmap.layout import Geometry, Piece, Populated
from vmemscope.vmemmap.runs import Runs

from .kernels import FAULTS, PAGE, STRUCT_PAGE, Dumps, View, able

MIB = 1 << 20
#: holes, tables that can't be read, entries that lead elsewhere, leaves where none should be
DAMAGED = [
    "hole", "hole-head", "hole-leaf", "huge-leaf", "unreadable-table", "unreadable-table-pmd",
    "head-shared", "head-in-shared", "tail-neighbour", "tail-other-pagemap", "tail-private",
    "stray-head", "missing-dedup", "base-pages", "several-faults", "altmap-ram",
]  # fmt: skip


def expected_of(view: View, ranges: list[tuple[int, int]]) -> list[int]:
    """
    Return what each page of the vmemmap of some frames is, in order of address.

    :return: a row of :attr:`Cells.pages`, for large leaves log2 of their bytes
    """
    found: list[int] = []
    pfns: list[int | None] = []
    for first, end in sorted(ranges):
        low = first * STRUCT_PAGE // PAGE
        high = -(-end * STRUCT_PAGE // PAGE)
        for vpage in range(low, high):
            va = view.vmemmap + vpage * PAGE
            pfns.append(None)
            try:
                leaf = view.leaf(va)
            except FaultError:
                found.append(UNREADABLE)
                continue
            if leaf is None:
                found.append(HOLE)
                continue
            found.append(OWN if leaf.shift == 12 else leaf.shift)
            pfns[-1] = leaf.pfn + (va - leaf.va) // PAGE
    mapped = Counter(pfn for pfn in pfns if pfn is not None)
    return [
        SHARED if row == OWN and pfn is not None and mapped[pfn] > 1 else row
        for row, pfn in zip(found, pfns, strict=True)
    ]


def check(one: PagemapReport, pages: list[int]) -> None:
    cells = one.detail.cells
    assert cells is not None
    bounds = cells.bounds.tolist()
    assert cells.total == len(pages)
    assert (bounds[0], bounds[-1]) == (0, len(pages))
    assert min(len(pages), 32) <= len(bounds) - 1 <= 192
    names = [OWN, SHARED, HOLE, UNREADABLE, *(size.bit_length() - 1 for size in cells.leaf_sizes)]
    for number, (start, end) in enumerate(pairwise(bounds)):
        there = Counter(pages[start:end])
        assert {
            name: count
            for name, count in zip(names, cells.pages[:, number].tolist(), strict=True)
            if count
        } == there, (one.label, number)


@pytest.mark.parametrize("kernel", ["6.1", "7.2", "next"])
@pytest.mark.parametrize("scenario", [*builtin_scenarios(), *DAMAGED])
def test_cells_have_what_each_page_is(scenario: str, kernel: str, dumps: Dumps) -> None:
    if kernel not in able(scenario):
        kernel = able(scenario)[-1]
    made = dumps.made(scenario, kernel)
    view = dumps.view(scenario, kernel)
    report = once(Kernel.open_core(str(made.core)))
    walked = []
    for one in report.pagemaps:
        ranges = [(r.start // PAGE, (r.end + 1) // PAGE) for r in one.detail.ranges]
        check(one, expected_of(view, ranges))
        walked.append(sorted(ranges))
    assert sorted(walked) == sorted(sorted(one) for one in made.ranges.values())


@pytest.mark.parametrize("scenario", ["mixed", "head-shared", "several-ranges", "early-1g"])
def test_batches_and_short_cuts_change_nothing(
    scenario: str, dumps: Dumps, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = dumps.core(scenario, "6.12" if scenario == "early-1g" else "7.2")
    cells = [one.detail.cells for one in once(Kernel.open_core(str(core))).pagemaps]
    monkeypatch.setattr(LIMITS, "tables", 1)
    monkeypatch.setattr(LIMITS, "short_cuts", False)
    apart = [one.detail.cells for one in once(Kernel.open_core(str(core))).pagemaps]
    assert cells == apart
    assert all(one is not None and one.pages.sum() == one.total for one in cells)


def runs_of(rows: Iterator[tuple[int, int, int, int, int]]) -> Runs:
    columns = zip(*rows, strict=True)
    types = (np.int64, np.int64, np.uint64, np.uint8, np.uint8)
    return Runs(*(np.array(c, dtype=t) for c, t in zip(columns, types, strict=True)))


@pytest.mark.parametrize("seed", range(20))
def test_any_runs_of_any_pieces(seed: int) -> None:
    """Runs of all kinds, across the bounds of cells, in batches, in pieces out of order."""
    random = np.random.default_rng(seed)
    geometry = Geometry(ARCHITECTURE, PAGE, STRUCT_PAGE, 0xFFFFEA0000000000)
    levels = tuple(SimpleNamespace(shift=shift) for shift in (39, 30, 21, 12))
    sizes = random.integers(1, 4000, 4).tolist()
    starts = [100_000 * number for number in random.permutation(4).tolist()]
    pieces = [
        Piece(Populated.BASE, start, start + size, start, 0)
        for start, size in zip(starts, sizes, strict=True)
    ]
    cells = Cells(pieces, int(random.choice([0, 8, 4096])), levels, geometry)
    pages: dict[int, int] = {}
    for piece in pieces:
        rows, at, pfn = [], piece.start, 1000 * piece.start
        while at < piece.end:
            length = min(int(random.choice([1, 1, 7, 300, 2000])), piece.end - at)
            kind = int(random.choice([0, 0, 0, 1, 2]))
            order = int(random.choice([0, 0, 9, 18])) if kind == 0 else 0
            pfn += 1 << 18
            rows.append((at, length, pfn, order, kind))
            row = (OWN if length == 1 else SHARED) if kind == 0 else HOLE + kind - 1
            row = LEAVES + {9: 0, 18: 1}[order] if order else row
            pages |= dict.fromkeys(range(at, at + length), row)
            at += length
        for part in np.array_split(np.arange(len(rows)), 3):
            if len(part):
                cells.add(runs_of(iter([rows[i] for i in part.tolist()])), piece)
    ordered = [pages[vpage] for vpage in sorted(pages)]
    assert cells.total == len(ordered) == sum(sizes)
    for number, (start, end) in enumerate(pairwise(cells.bounds.tolist())):
        there = Counter(ordered[start:end])
        assert [there[row] for row in range(len(cells.pages))] == cells.pages[:, number].tolist()
        vpages = [v for low, high in cells.vpages(start, end) for v in range(low, high)]
        assert vpages == sorted(pages)[start:end]
    assert [cells.position(vpage) for vpage in sorted(pages)] == list(range(cells.total))
    assert cells.position(99_999) is None
    assert cells.unread().pages.sum(axis=1).tolist() == [0, 0, 0, cells.total, 0, 0, 0]


def test_a_device_of_any_size_has_a_bounded_number_of_cells() -> None:
    geometry = Geometry(ARCHITECTURE, PAGE, STRUCT_PAGE, 0xFFFFEA0000000000)
    for total in (1, 5, 191, 192, 193, 1535, 1537, 12345, 1 << 26, (1 << 36) - 1):
        for compound in (0, 8, 4096):
            cells = Cells([Piece(Populated.BASE, 7, 7 + total, 7, 0)], compound, (), geometry)
            assert min(total, 32) <= len(cells.bounds) - 1 <= 192
            assert np.diff(cells.bounds).min() > 0
            assert cells.bounds[-1] == total


def test_there_is_a_fault_of_each_kind() -> None:
    assert set(DAMAGED) <= set(FAULTS)
