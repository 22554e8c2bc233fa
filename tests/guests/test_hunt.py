# SPDX-License-Identifier: LGPL-2.1-or-later
"""A short hunt with a fixed seed, and proof that the hunter sees what is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .devices import GIB, MIB
from .hunt import Hunt, Layout, Part, Running, Step
from .hunt_model import Alarm, Expectations, Pagemap, expected_frames
from .packages import Kernel, get_kernel

#: an nvdimm of 512 MiB, of which the namespace has compound pages of 2 MiB
LAYOUT = Layout("max", 1, (Part("nvdimm", 4 * GIB, 512 * MIB, 0, 0, False),), ())
#: a small guest without labels, which take as long to write as all steps: compound pages of
#: 2 MiB, an altmap, one of 1 GiB that does not fit, memory that is plugged in, a huge page
SHORT = 31749
MAKE = Step("remake namespace", 0, ("devdax", "mem", "2M"))


def test_short_hunt(series: str) -> None:
    hunt = Hunt(get_kernel(series), seed=SHORT)
    hunt.run(600, steps=5, boots=1)
    assert hunt.alarms == []
    assert hunt.lost == []
    assert hunt.steps == 5
    assert {kind: done for kind, done in hunt.kinds.items() if done} == {
        "remake namespace": 2, "huge": 1, "plug": 1,
    }  # fmt: skip
    assert hunt.refused == 1


def count_references(running: Running, pfn: int, count: int) -> None:
    """Write the reference count of a frame of RAM into its struct page."""
    frame, _ = running.walked().find(pfn) or (0, 0)
    assert frame
    with open(running.directory / "ram0", "r+b") as file:
        file.seek(frame * 4096 + pfn % 64 * 64 + 52)
        file.write(count.to_bytes(4, "little"))


def test_it_sees_a_frame_with_too_few_references(series: str, tmp_path: Path) -> None:
    hunt = Hunt(get_kernel(series), seed=1, out=tmp_path)
    with hunt.running(LAYOUT) as running:
        assert running.do(MAKE) == ""
        assert running.compare(random.Random(1)) == []
        (pagemap,) = running.observed.pagemaps
        assert (pagemap.align, pagemap.altmap) == (2 * MIB, False)
        backing = running.walked().part(pagemap.ranges)
        # The tail frame of the first compound page: seven entries map it.
        tail = int(backing.pfn[1])
        count_references(running, tail, 3)
        found = running.compare(random.Random(1))
        assert {one.kind for one in found} == {"pgmap refcount-low"}
        count_references(running, tail, 7)
        assert running.compare(random.Random(1)) == []


@pytest.mark.parametrize("needed", [(), (0,), (3, 9), (4, 5, 6)])
def test_it_shrinks_to_the_steps_that_are_needed(
    needed: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = [Step("huge", number, (1,)) for number in range(12)]
    alarm, other = Alarm("pgmap frames", ""), Alarm("memmap frames", "")
    wanted = {steps[one] for one in needed} | {steps[-1]}
    hunt = Hunt(Kernel("6.1", "", "", "", tmp_path), seed=1)
    monkeypatch.setattr(
        hunt, "replay", lambda layout, some: [alarm if wanted <= set(some) else other]
    )
    shrunk = hunt.shrink(LAYOUT, steps, alarm, boots=100)
    assert shrunk == sorted(wanted)
    # With few guests it may keep more, but the difference is still there.
    few = hunt.shrink(LAYOUT, steps, alarm, boots=3)
    assert wanted <= set(few) <= set(steps)


@pytest.mark.parametrize(
    ("ranges", "align", "altmap", "early", "frames"),
    [
        # Numbers of guests that were looked at by hand.
        (((0x100000000, 0x120000000),), 2 * MIB, False, (), 512),
        (((0x150000000, 0x200000000),), GIB, False, (), 6),
        (((0x120000000, 0x150000000),), 2 * MIB, True, (), 3072),
        (((0x210000000, 0x220000000),), 4096, False, (), 1024),
        (((0x1D4000000, 0x1D8000000),), 2 * MIB, False, (), 64),
        # In a section that was there at boot, as a whole and at its end.
        (((0x30000000, 0x34000000),), 2 * MIB, False, (6,), 256),
        (((0x30000000, 0x3C000000),), 2 * MIB, False, (7,), 128 + 256),
        (((0x114000000, 0x180000000),), GIB, False, (34,), 256 + 1 + 2),
        (((0x8000000000, 0x8080000000), (0x8100000000, 0x8200000000)), GIB, False, (), 12),
    ],
)
def test_frames_of_a_sound_kernel(
    ranges: tuple[tuple[int, int], ...],
    align: int,
    altmap: bool,
    early: tuple[int, ...],
    frames: int,
) -> None:
    pagemap = Pagemap("dax0.0", "generic", ranges, align, altmap)
    known = Expectations(frozenset(early), "7.2", masks=True)
    assert expected_frames(pagemap, known) == frames
