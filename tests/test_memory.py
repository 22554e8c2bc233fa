# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames of physical memory, held against reading them one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from drgn import Architecture, FaultError, Platform, Program

from vmemscope.vmemmap.memory import PhysicalMemory

PAGE = 4096
#: frames that may be read, and those that there are
RANGES = ((0x1000, 0x3FFFF), (0x80000, 0xBFFFF), (0x100000, 0x1FFFFF))
SEGMENTS = ((0x1000, 0x40000), (0x80000, 0x90000), (0x98000, 0x180000))
CONTENTS = np.random.default_rng(1).integers(0, 256, 0x200000, dtype=np.uint8).tobytes()


@pytest.fixture(scope="module")
def prog() -> Program:
    made = Program(Platform(Architecture.X86_64))
    for start, end in SEGMENTS:
        made.add_memory_segment(
            start,
            end - start,
            lambda address, count, offset, physical: CONTENTS[address : address + count],
            True,
        )
    return made


def one_by_one(prog: Program, pfns: list[int]) -> list[bytes | None]:
    found: list[bytes | None] = []
    for pfn in pfns:
        if not any(start <= pfn * PAGE and pfn * PAGE + PAGE - 1 <= end for start, end in RANGES):
            found.append(None)
            continue
        try:
            found.append(prog.read(pfn * PAGE, PAGE, True))
        except FaultError:
            found.append(None)
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("frames_a_read", [1, 7, 1024])
def test_batches_against_single_frames(
    prog: Program, seed: int, frames_a_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmemscope.vmemmap.memory._SPAN", frames_a_read * PAGE)
    chance = random.Random(seed)
    inside = [pfn for start, end in RANGES for pfn in range(start // PAGE, (end + 1) // PAGE)]
    # Neighbours, with gaps of any length and without, some of them twice.
    chosen = chance.sample(inside, chance.choice((1, 5, len(inside) // 2, len(inside) - 20)))
    chosen += chance.choices(chosen, k=chance.choice((0, 0, 3)))
    if chance.random() < 0.7:
        chosen.sort()
    if chance.random() < 0.3:
        chosen.insert(chance.randrange(len(chosen)), 0x60)
    memory = PhysicalMemory(prog, PAGE, RANGES)
    count = chance.choice((1, 4, 50, 1000))
    found: list[bytes | None] = []
    for data, readable in memory.read_batches(np.array(chosen, dtype=np.uint64), count):
        assert len(data) == len(readable) <= count
        for row, known in zip(data, readable.tolist(), strict=True):
            assert known or not row.any()
            found.append(row.tobytes() if known else None)
    assert found == one_by_one(prog, chosen)
