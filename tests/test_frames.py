# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs, frames and compound pages, held against per-page loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vmemscope.arch.x86_64 import ARCHITECTURE
from vmemscope.limits import LIMITS
from vmemscope.vmemmap.frame_table import FrameTable
from vmemscope.vmemmap.frames import sharing
from vmemscope.vmemmap.layout import Piece, Populated
from vmemscope.vmemmap.runs import Runs, are_regular, judge, whole_compounds
from vmemscope.vmemmap.tables import Kind, Leaves

from .kernels import KERNELS, Dumps

TABLE = ARCHITECTURE.page_table({"SYMBOL(swapper_pg_dir)": "ffffffff82000000"}, lambda address: 0)


def runs_from(pages: list[tuple[int, Kind]], first: int = 0) -> Runs:
    """Make runs of base pages, each (pfn, kind)."""
    vpage, length, pfn, kind = [], [], [], []
    for i, page in enumerate(pages):
        if i and pages[i - 1] == page:
            length[-1] += 1
            continue
        vpage.append(first + i)
        length.append(1)
        pfn.append(page[0])
        kind.append(page[1])
    return Runs(
        np.array(vpage, np.int64),
        np.array(length, np.int64),
        np.array(pfn, np.uint64),
        np.zeros(len(vpage), np.uint8),
        np.array(kind, np.uint8),
    )


def mapped(*pfns: int) -> list[tuple[int, Kind]]:
    return [(pfn, Kind.MAPPED) for pfn in pfns]


def spread(runs: Runs) -> list[tuple[int, int, int]]:
    """Spread runs over base pages: (vpage, pfn, kind)."""
    return [
        (vpage + i, pfn + i * (order > 0), kind)
        for vpage, length, pfn, order, kind in zip(*(a.tolist() for a in runs), strict=True)
        for i in range(length)
    ]


class TestJudge:
    def test_sound_compounds(self) -> None:
        judged = judge(runs_from(mapped(1, 2, 2, 2, 3, 4, 4, 4), 40), 40, 4)
        assert not judged.wrong.any()
        assert judged.head.tolist() == [True, False, True, False]
        assert judged.shared[~judged.head].tolist() == [2, 4]
        assert judged.owner.tolist() == [1, 1, 1, 1]

    @pytest.mark.parametrize("at", range(1, 8))
    def test_one_wrong_tail_is_told_wherever_it_is(self, at: int) -> None:
        pages = mapped(1, *[2] * 7)
        pages[at] = (9, Kind.MAPPED)
        judged = judge(runs_from(pages), 0, 8)
        assert judged.runs.vpage[judged.wrong].tolist() == [at]
        assert judged.runs.length[judged.wrong].tolist() == [1]
        assert set(judged.shared[~judged.head].tolist()) == {2}
        assert judged.owner[judged.wrong].tolist() == [0]

    def test_head_that_maps_the_tail_frame_owns_it_too(self) -> None:
        judged = judge(runs_from(mapped(2, 2, 2, 2)), 0, 4)
        assert judged.head.tolist() == [True, False]
        assert judged.owner.tolist() == [1, 1]
        assert not judged.wrong.any()

    def test_nothing_shared_makes_all_but_the_first_wrong(self) -> None:
        judged = judge(runs_from(mapped(1, 2, 3, 4)), 0, 4)
        assert judged.wrong.tolist() == [False, False, True, True]

    def test_holes_have_no_say(self) -> None:
        pages = [*mapped(1), (0, Kind.HOLE), (0, Kind.HOLE), *mapped(5)]
        judged = judge(runs_from(pages), 0, 4)
        assert not judged.wrong.any()
        assert judged.owner.tolist() == [1, 0, 1]

    def test_compound_without_a_mapped_tail(self) -> None:
        pages = [*mapped(1), *[(0, Kind.HOLE)] * 3, *mapped(2, 3, 3, 3)]
        judged = judge(runs_from(pages), 0, 4)
        assert not judged.wrong.any()
        assert judged.shared.tolist()[-1] == 3

    def test_what_is_not_there_costs_nothing(self) -> None:
        # As of a range that goes up to the end of the address space.
        runs = Runs(
            np.array([8, 16]), np.array([8, 1 << 50]), np.array([1, 0], np.uint64),
            np.array([9, 0], np.uint8), np.array([Kind.MAPPED, Kind.HOLE], np.uint8),
        )  # fmt: skip
        judged = judge(runs, 8, 8)
        assert len(judged.runs.vpage) < 10
        assert int(judged.runs.length.sum()) == 8 + (1 << 50)
        assert not judged.wrong[judged.runs.kind == Kind.HOLE].any()

    def test_random_against_a_loop(self) -> None:
        rng = np.random.default_rng(7)
        for _ in range(200):
            size = int(rng.integers(3, 9))
            pages = mapped(*rng.integers(1, 4, size * 5).tolist())
            judged = judge(runs_from(pages, 3), 3, size)
            flat = {
                vpage + i: (shared, wrong)
                for vpage, length, shared, wrong in zip(
                    judged.runs.vpage.tolist(),
                    judged.runs.length.tolist(),
                    judged.shared.tolist(),
                    judged.wrong.tolist(),
                    strict=True,
                )
                for i in range(length)
            }
            for compound in range(5):
                tails = [pfn for pfn, _ in pages[compound * size + 1 : (compound + 1) * size]]
                votes = Counter(tails)
                most = max(votes.values())
                winner = next(pfn for pfn in tails if votes[pfn] == most)
                for i, pfn in enumerate(tails):
                    assert flat[3 + compound * size + 1 + i] == (winner, pfn != winner)


def test_regrouping_cuts_no_compound_in_two() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        size, count, origin = int(rng.integers(3, 9)), int(rng.integers(1, 8)), 5
        total = size * count + int(rng.integers(0, size))
        pages = mapped(*rng.integers(1, 3, total).tolist())
        runs = runs_from(pages, origin)
        cuts = sorted(rng.integers(0, total, 4).tolist())
        parts = [
            runs.clip(origin + a, origin + b)
            for a, b in zip([0, *cuts], [*cuts, total], strict=True)
        ]
        piece = Piece(Populated.COMPOUND, origin, origin + total, origin, 0)
        regrouped = list(whole_compounds(iter(parts), piece, size))
        assert [page for part in regrouped for page in spread(part)] == spread(runs)
        for part in regrouped[:-1]:
            assert (part.vpage[0] - origin) % size == 0
            assert (part.vpage[-1] + part.length[-1] - origin) % size == 0


def test_clip_moves_into_a_large_leaf() -> None:
    leaf = Runs(
        np.array([512]), np.array([512]), np.array([0x800], np.uint64), np.array([9], np.uint8),
        np.array([Kind.MAPPED], np.uint8),
    )  # fmt: skip
    clipped = leaf.clip(600, 610)
    assert clipped.vpage.tolist() == [600]
    assert clipped.length.tolist() == [10]
    assert clipped.pfn.tolist() == [0x800 + 88]


def test_frame_table_counts_across_batches() -> None:
    table = FrameTable()
    table.add(runs_from(mapped(7, 8, 8, 8)), np.array([1, 1]))
    table.add(runs_from(mapped(8, 9), 4), np.array([0, 1]))
    leaf = Runs(
        np.array([512]), np.array([4]), np.array([8], np.uint64), np.array([2], np.uint8),
        np.array([Kind.MAPPED], np.uint8),
    )  # fmt: skip
    table.add(leaf, np.array([1]))
    frames = table.finish()
    assert frames.pfn.tolist() == [7, 8, 9, 10, 11]
    assert frames.entries.tolist() == [1, 5, 2, 1, 1]
    assert frames.owners.tolist() == [1, 2, 2, 1, 1]
    assert frames.vpage.tolist() == [0, 1, 5, 514, 515]
    # 8 is the first frame of the leaf; 9 is inside it, but mapped as a base page too.
    assert frames.inner.tolist() == [False, False, False, True, True]
    assert sharing(frames) == {1: 3, 2: 1, 5: 1}


def test_empty_frame_table() -> None:
    frames = FrameTable().finish()
    assert len(frames.pfn) == 0
    assert sharing(frames) == {}


def leaves_of(pfns: list[int]) -> Leaves:
    """Make leaves of base pages, as a walk gives them."""
    runs = runs_from(mapped(*pfns))
    yes = np.ones(len(runs.pfn), dtype=np.bool_)
    address = (runs.vpage << 12).astype(np.uint64)
    shift = np.full(len(yes), 12, dtype=np.uint8)
    return Leaves(address, shift, runs.length, runs.pfn, runs.kind, yes, yes.copy())


class TestRegularCompounds:
    """Compound pages that are taken many at a time must be those that judging finds nothing in."""

    PFNS = (1, *[2] * 7, 3, *[4] * 7)

    def test_heads_and_tails(self) -> None:
        assert are_regular(leaves_of(list(self.PFNS)), 8, 12)
        assert not are_regular(leaves_of([]), 8, 12)

    @pytest.mark.parametrize("row", range(4))
    @pytest.mark.parametrize("column", ["writable", "no_execute", "kind", "shift"])
    def test_entry_that_is_another_anywhere(self, row: int, column: str) -> None:
        leaves = leaves_of(list(self.PFNS))
        getattr(leaves, column)[row] ^= 1
        assert not are_regular(leaves, 8, 12)

    @pytest.mark.parametrize("at", [*range(1, 8), *range(9, 16)])
    def test_wrong_tail_anywhere(self, at: int) -> None:
        pfns = list(self.PFNS)
        pfns[at] = 9
        assert not are_regular(leaves_of(pfns), 8, 12)

    @pytest.mark.parametrize("seed", range(50))
    def test_counts_as_judging_does(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pfns: list[int] = []
        for _ in range(50):
            # Frames that several compound pages share among them; a tail frame apart.
            head, tail = rng.integers(1, 600, 2).tolist()
            pfns += [head, *[tail] * 7]
        if seed % 2:
            pfns[int(rng.integers(len(pfns)))] = int(rng.integers(1, 600))
        leaves = leaves_of(pfns)
        judged = judge(runs_from(mapped(*pfns), 24), 24, 8)
        if not are_regular(leaves, 8, 12):
            return
        assert not judged.wrong.any()
        taken, judging = FrameTable(), FrameTable()
        taken.add_compounds(leaves.pfn.reshape(-1, 2), 24, 8)
        judging.add(judged.runs, judged.owner)
        for one, other in zip(taken.finish(), judging.finish(), strict=True):
            assert one.tolist() == other.tolist()


def test_table_adds_up_what_it_has_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    batches = [runs_from(mapped(*rng.integers(1, 30, 7).tolist())) for _ in range(40)]

    def table() -> FrameTable:
        found = FrameTable()
        for runs in batches:
            found.add(runs, np.ones(len(runs.vpage), dtype=np.int64))
        return found

    whole = table().finish()
    monkeypatch.setattr(LIMITS, "gathered", 10)
    for one, other in zip(table().finish(), whole, strict=True):
        assert one.tolist() == other.tolist()


# Where frames are.


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("start", "size"),
    [
        # part of a section, whole sections with a part before, behind, on both sides, none
        (0x102000000, 48), (0x100000000, 4), (0x102000000, 304), (0x108000000, 130),
        (0x10C000000, 448), (0x108000000, 256), (0x106000000, 64),
        # partly, or as a whole, in a section of RAM
        (0x1E000000, 64), (0x1E000000, 288), (0x1C000000, 32),
    ],
)  # fmt: skip
def test_the_memory_map_of_a_device_with_an_altmap(
    dumps: Dumps, start: int, size: int, kernel: str
) -> None:
    scenario = f"""
ram = "512M"
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = {start}
size = "{size}M"
map = "dev"
"""
    (one,) = dumps.audited(scenario, kernel).pgmap.pagemaps
    first, end = start >> 12, (start >> 12) + size * 256
    # One entry at a time; RAM is below 512 MiB.
    view = dumps.view(scenario, kernel)
    frames = set()
    for va, (pfn, _) in view.pages().items():
        if first <= (va - view.vmemmap) // 64 < end:
            frames.add(pfn)
    device = {pfn for pfn in frames if first <= pfn < end}
    assert all(pfn < 0x20000 for pfn in frames - device)
    assert (one.frames.backing, one.frames.on_device, one.frames.elsewhere) == (
        len(frames),
        len(device),
        0,
    )
    assert one.state == "not-optimized"
    reason = one.reason or ""
    assert ("on the device" in reason) == bool(device)
    assert ("in RAM" in reason) == bool(frames - device)
    if device and frames - device:
        assert f"{len(device)} frames are on the device" in reason
        assert f"{len(frames - device)} frames are in RAM" in reason
