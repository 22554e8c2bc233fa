# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an audit may cost, in counts that no machine changes, and that its short cuts change nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from vmemscope.audits.pagemaps import once
from vmemscope.limits import LIMITS
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import PgmapTimings, Report
from vmemscope.vmemmap.memory import PhysicalMemory
from vmemscope.vmemmap.runs import judge

from .kernels import image, write

PAGE = 4096

#: scenario -> most bytes, and most reads, of physical memory that an audit makes
BUDGETS = {
    # 4 tables of the last level, 512 frames whose struct pages are 8 pages; the
    # contents of 256 compound pages: a frame of the head and one of the tails.
    "devdax-2m": ((4 + 8 + 512 + 40) * PAGE, 80),
    # A table a section, 2 frames a compound page.
    "devdax-1g": (160 * PAGE, 80),
    "empty": (16 * PAGE, 16),
}


def look(core: str) -> Report:
    return replace(once(Kernel.open_core(core)), timings=PgmapTimings())


#: limits that make many batches of a small target
SMALL = {
    "tables": 9, "gap": 0, "translated": 3, "read": 2, "gathered": 10, "window": 50,
    "window_order": 9, "dense": 0, "sparse": 0, "narrow": 0, "compounds": 3, "vpages": 5,
    "frames": 2,
}  # fmt: skip


@pytest.mark.parametrize("scenario", BUDGETS)
def test_reads_and_bytes(tmp_path: Path, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memories: list[PhysicalMemory] = []
    original = PhysicalMemory.__init__

    def remember(self: PhysicalMemory, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        memories.append(self)

    monkeypatch.setattr(PhysicalMemory, "__init__", remember)
    look(write(image(scenario, "6.12"), tmp_path))
    most_bytes, most_reads = BUDGETS[scenario]
    assert sum(one.bytes_read for one in memories) <= most_bytes
    assert sum(one.reads for one in memories) <= most_reads


@pytest.mark.parametrize("kernel", ["6.12", "next"])
@pytest.mark.parametrize("scenario", ["devdax-2m", "devdax-1g", "unaligned-1g"])
def test_sound_compounds_are_not_judged_one_by_one(
    tmp_path: Path, scenario: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = write(image(scenario, kernel), tmp_path)
    judged = []

    def counting(runs, origin, size, frame):  # type: ignore[no-untyped-def]
        judged.append(int(runs.length.sum()))
        return judge(runs, origin, size, frame)

    monkeypatch.setattr("vmemscope.audits.pagemaps.mapping.judge", counting)
    report = look(core)
    size = report.pagemaps[0].compound_size or 0
    vpages = size // PAGE * 64 // PAGE
    # The first stands for the others: it is judged so that one path alone has the rules and
    # keeps what is drawn. So is what the end of the range cuts short, and nothing else.
    assert sum(judged) == vpages + report.pagemaps[0].vmemmap.pages % vpages


@pytest.mark.parametrize("kernel", ["6.1", "7.2"])
@pytest.mark.parametrize(
    "scenario",
    [
        "mixed",
        "unaligned-section-1g",
        "early-1g",
        "several-ranges",
        "several-faults",
        "tail-own-head",
        "head-shared",
        "huge-leaf",
        "base-pages",
        "missing-dedup",
        "altmap-data",
    ],
)
def test_short_cuts_change_nothing(
    tmp_path: Path, scenario: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = write(image(scenario, kernel), tmp_path)
    quick = look(core)
    with monkeypatch.context() as patch:
        # The plain way alone.
        patch.setattr(LIMITS, "short_cuts", False)
        plain = look(core)
        # Many windows, batches and reads; few compound pages and frames at a time. Not so
        # few tables that no batch has a whole compound page of 1 GiB.
        for name, few in SMALL.items():
            patch.setattr(LIMITS, name, few)
        plain_small = look(core)
    with monkeypatch.context() as patch:
        for name, few in SMALL.items():
            patch.setattr(LIMITS, name, few)
        small = look(core)
    assert quick == plain
    assert quick == plain_small
    assert quick == small


@pytest.mark.parametrize("page", [2, 5, 600, 2000, 4095])
@pytest.mark.parametrize("compound", [0, 1, 2, 3])
def test_fault_in_a_compound_page_that_batches_cut(
    tmp_path: Path, compound: int, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A compound page of 1 GiB has 8 tables, of which a batch of 9 has one as a whole.
    scenario = f"""
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "4G"
align = "1G"

[[fault]]
kind = "tail-wrong-frame"
pagemap = "dax0.0"
compound = {compound}
page = {page}
to = "own-head"
"""
    core = write(image(scenario, "6.12"), tmp_path)
    monkeypatch.setattr(LIMITS, "tables", 9)
    cut = look(core)
    monkeypatch.setattr(LIMITS, "tables", 512)
    whole = look(core)
    monkeypatch.setattr(LIMITS, "short_cuts", False)
    plain = look(core)
    assert cut == whole == plain
    start = whole.pagemaps[0].vmemmap.start
    [found] = [one for one in whole.pagemaps[0].findings if one.rule == "tail-frame"]
    assert found.vaddr == start + (compound * 4096 + page) * PAGE


#: most blocks of memory that Python has for its objects at any time of an audit, in
#: addition to those from before; the device has 4,096 vpages for each GiB
OBJECTS = 6000


def built(tmp_path: Path, size: str, align: str) -> tuple[int, int]:
    """Count calls in an audit, and the most objects that there are at a time."""
    scenario = f"""
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "{size}"
align = "{align}"
"""
    kernel = Kernel.open_core(write(image(scenario, "6.12"), tmp_path))
    # What is looked up once, and kept, is not counted.
    once(kernel)
    kernel = kernel.again()
    calls = most = 0
    before = sys.getallocatedblocks()

    def count(*_: Any) -> None:
        nonlocal calls, most
        calls += 1
        most = max(most, sys.getallocatedblocks() - before)

    other = sys.getprofile()
    sys.setprofile(count)
    try:
        once(kernel)
    finally:
        sys.setprofile(other)
    return calls, most


@pytest.mark.parametrize("align", ["4K", "2M"])
def test_objects_and_calls_do_not_grow_with_the_device(tmp_path: Path, align: str) -> None:
    calls, most = built(tmp_path, "1G", align)
    calls_of_more, most_of_more = built(tmp_path, "6G", align)
    assert calls_of_more < calls * 1.2
    assert most < OBJECTS
    assert most_of_more < OBJECTS
