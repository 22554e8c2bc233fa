# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many struct pages are looked into, that each frame is read once, and what is said of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from vmemscope.audits.pagemaps import Contents, audit, once
from vmemscope.limits import LIMITS
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import PgmapTimings, Report
from vmemscope.rules.findings import Outcome
from vmemscope.sim.image import Image
from vmemscope.vmemmap.memory import PhysicalMemory

from .kernels import KERNELS, STRUCT_PAGE, View, image, write

_DEVICE = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "4G"
align = "{align}"
"""
#: compound 1 of 2048 is not in a sample of 1024, spread evenly: it starts 0, 2, 4
_FAULT = """
[[fault]]
kind = "head-flag-lost"
pagemap = "dax0.0"
compound = 1
"""


def looked(core: str, contents: str) -> Report:
    return audit(Kernel.open_core(core), contents=contents)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    built = image(_DEVICE.format(align="2M") + _FAULT, "6.12")
    return write(built, tmp_path_factory.mktemp("contents"))


class TestHowMany:
    def test_sample(self, large: str) -> None:
        report = looked(large, "sample")
        assert (report.summary.compounds, report.summary.compounds_checked) == (2048, 1024)
        assert report.summary.contents == "sample"
        [one] = report.pagemaps
        assert one.findings == ()
        told = {outcome.rule: outcome for outcome in one.outcomes}
        assert told["head-flag"].outcome is Outcome.CHECKED
        assert "not in the sample" in (told["head-flag"].reason or "")

    def test_all(self, large: str) -> None:
        report = looked(large, "all")
        assert report.summary.compounds_checked == 2048
        [one] = report.pagemaps
        assert [finding.rule for finding in one.findings] == ["head-flag"]
        told = {outcome.rule: outcome for outcome in one.outcomes}
        assert told["compound-head"].reason is None

    def test_none(self, large: str) -> None:
        report = looked(large, "none")
        assert (report.summary.compounds, report.summary.compounds_checked) == (2048, 0)
        [one] = report.pagemaps
        assert one.findings == ()
        told = {outcome.rule: outcome for outcome in one.outcomes}
        for rule in ("head-flag", "tail-contents", "page-zone", "mask-alignment"):
            assert told[rule].outcome is Outcome.SKIPPED
            assert "--contents none" in (told[rule].reason or "")
        assert told["tail-frame"].outcome is Outcome.CHECKED

    def test_no_other_word(self, large: str) -> None:
        with pytest.raises(ValueError, match="some"):
            looked(large, "some")


@pytest.mark.parametrize("align", ["4K", "2M"])
def test_each_frame_is_read_once(
    align: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = _DEVICE.format(align=align).replace("4G", "640M")
    core = write(image(device, "6.1"), tmp_path)
    view = View(core)
    start = view.vmemmap + (0x100000000 // 4096) * STRUCT_PAGE
    end = start + (640 << 20) // 4096 * STRUCT_PAGE
    backing = {pfn for va, (pfn, _) in view.pages().items() if start <= va < end}
    read: list[int] = []
    sizes: list[int] = []
    batches, run = PhysicalMemory.read_batches, PhysicalMemory.read_run

    def recorded(self: PhysicalMemory, pfns: Any, count: int) -> Any:
        # One frame is a run.
        if len(pfns) > 1:
            read.extend(pfns.tolist())
            sizes.append(min(count, len(pfns)))
        return batches(self, pfns, count)

    def recorded_run(self: PhysicalMemory, first: int, count: int) -> Any:
        read.extend(range(first, first + count))
        sizes.append(count)
        return run(self, first, count)

    kernel = Kernel.open_core(core)
    progress: list[tuple[int, int]] = []
    monkeypatch.setattr(PhysicalMemory, "read_batches", recorded)
    monkeypatch.setattr(PhysicalMemory, "read_run", recorded_run)
    once(kernel, contents=Contents.ALL, progress=lambda *step: progress.append(step))
    times = Counter(read)
    assert len(backing) == (640 if align == "2M" else 2560)
    # One of them is also asked for the node that the device is on.
    assert Counter(times[pfn] for pfn in backing) == {1: len(backing) - 1, 2: 1}
    assert max(sizes) * 4096 <= 4 << 20
    done, totals = zip(*progress, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


_COMPOUND = 512


@pytest.fixture(scope="module")
def small() -> dict[str, Image]:
    """Kernels with a device of 128 MiB; who changes one restores it."""
    device = _DEVICE.format(align="2M").replace("4G", "128M")
    return {kernel: image(device, kernel) for kernel in KERNELS}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(40))
def test_a_glance_tells_as_much_as_each_struct_page(
    small: dict[str, Image],
    kernel: str,
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(seed)
    memmap = small[kernel].kernel.memmap
    undo: list[tuple[int, int, int]] = []
    for _ in range(chance.choice((1, 2, 4))):
        # The first has what the others are held against.
        several = chance.choice(([0], [5], [63], [0, 1], range(64), range(1, 64)))
        # Those with members of their own; of the frame with the head; of that of the tail pages.
        pages = list(chance.choice((range(5), range(64), (64, 65, 127), range(64, 128))))
        if chance.random() < 0.8:
            pages = [chance.choice(pages)]
        # Words that all hold, what leads to the head more often; or as another page has it.
        word = chance.choice((1, 1, 1, *range(8)))
        other = chance.choice((0, 1, 3, 64, _COMPOUND, _COMPOUND + 1))
        mask = -(STRUCT_PAGE << chance.randrange(5, 12)) & (1 << 64) - 1 | 1
        value = chance.choice((None, 0, (1 << 64) - 1, 1 << chance.randrange(64), mask))
        for compound in several:
            first = 0x100000 + compound * _COMPOUND
            place = (first + other - 0x100000) % (64 * _COMPOUND) + 0x100000
            taken = int(memmap.words(place)[word]) if value is None else value
            for page in pages:
                undo.append((first + page, word * 8, int(memmap.words(first + page)[word])))
                memmap.poke(first + page, word * 8, taken)
    core = write(small[kernel], tmp_path)
    for pfn, offset, before in reversed(undo):
        memmap.poke(pfn, offset, before)
    quick = replace(looked(core, "all"), timings=PgmapTimings())
    with monkeypatch.context() as patch:
        patch.setattr(LIMITS, "short_cuts", False)
        in_full = replace(looked(core, "all"), timings=PgmapTimings())
    assert quick == in_full
    [one] = quick.pagemaps
    assert one.vmemmap.pages == 64 * _COMPOUND * STRUCT_PAGE // 4096


class TestOneCompoundPage:
    """Struct pages changed one by one, and what must be told of it."""

    def found(self, kernel: str, tmp_path: Path, change: Any) -> list[tuple[str, int, str]]:
        built = image(_DEVICE.format(align="2M").replace("4G", "128M"), kernel)
        vmemmap = built.kernel.addresses.pfn_to_page(0)
        change(built.kernel.memmap)
        report = looked(write(built, tmp_path), "all")
        [one] = report.pagemaps
        return [
            (f.rule, ((f.vaddr or 0) - vmemmap) // STRUCT_PAGE, f.message) for f in one.findings
        ]

    @pytest.mark.parametrize("kernel", ["6.1", "7.2"])
    def test_pages_in_use_are_no_finding(self, kernel: str, tmp_path: Path) -> None:
        def change(memmap: Any) -> None:
            # Mapped and pinned: counts of the head and the first tail pages, mapping and index.
            for number in range(4):
                memmap.set_refcount(0x100000 + number * 512, 2 + number)
            memmap.poke(0x100000, 24, 0xFFFF888000001000)
            memmap.poke(0x100000, 32, 0x200)
            memmap.poke(0x100001, 20, 3, 4)

        assert self.found(kernel, tmp_path, change) == []

    def test_mask_of_a_smaller_order(self, tmp_path: Path) -> None:
        # Right for the first 256 pages, where the frame of the tail pages starts; wrong where
        # it ends.
        mask = -(STRUCT_PAGE << 8) & (1 << 64) - 1 | 1

        def change(memmap: Any) -> None:
            for pfn in range(0x100601, 0x100680):
                memmap.poke(pfn, 8, mask)

        [(rule, pfn, message)] = self.found("7.2", tmp_path, change)
        assert (rule, pfn) == ("compound-head", 0x100600 + 448)
        assert message.startswith("64 of 127 tail pages checked in the compound page at pfn")

    def test_all_tail_pages_of_a_frame_differ_from_those_with_the_head(
        self, tmp_path: Path
    ) -> None:
        def change(memmap: Any) -> None:
            for pfn in range(0x100640, 0x100680):
                memmap.poke(pfn, 40, 0x1234)

        [(rule, pfn, message)] = self.found("6.12", tmp_path, change)
        assert (rule, pfn) == ("tail-contents", 0x100640)
        assert message.startswith("64 of 128 struct pages checked in the compound page at pfn")

    def test_negative_reference_count(self, tmp_path: Path) -> None:
        def change(memmap: Any) -> None:
            memmap.set_refcount(0x100000 + 512, 0xFFFF_FFFF)

        [(rule, pfn, _)] = self.found("6.1", tmp_path, change)
        assert (rule, pfn) == ("page-refcount", 0x100000 + 512)

    def test_a_lost_frame_of_tail_pages_is_one_finding(self, tmp_path: Path) -> None:
        def change(memmap: Any) -> None:
            for pfn in range(0x100640, 0x100680):
                memmap.words(pfn)[:] = 0

        [(rule, pfn, message)] = self.found("7.2", tmp_path, change)
        assert (rule, pfn) == ("page-uninitialised", 0x100640)
        assert message.startswith("64 of 128 struct pages checked")

    @pytest.mark.parametrize("kernel", ["6.1", "7.2"])
    def test_frames_of_an_altmap_are_never_given_out(self, kernel: str, tmp_path: Path) -> None:
        # Since 6.15 a page of fsdax has no reference while nobody uses it; these have one.
        device = _DEVICE.replace("4G", "256M").replace("devdax", "fsdax").replace("dax0.0", "pmem0")
        built = image(device.replace('align = "{align}"', 'map = "dev"'), kernel)
        # The altmap hands out the first 1024 frames after its reserve.
        built.kernel.memmap.set_refcount(0x100000 + 600, 0)
        [one] = looked(write(built, tmp_path), "all").pagemaps
        [found] = one.findings
        assert (found.rule, found.expected, found.observed) == ("page-refcount", "at least 1", 0)
