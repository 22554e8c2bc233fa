# SPDX-License-Identifier: LGPL-2.1-or-later
"""A short hunt with a fixed seed, and proof that the hunter sees what is wrong."""

from __future__ import annotations

import random
from pathlib import Path

from .devices import GIB, MIB
from .hunt import Hunt, Layout, Part, Running, Step
from .packages import get_kernel

#: an nvdimm of 512 MiB, of which the namespace has compound pages of 2 MiB
LAYOUT = Layout("max", 1, (Part("nvdimm", 4 * GIB, 512 * MIB, 0, 0, False),), ())
MAKE = Step("remake namespace", 0, ("devdax", "mem", "2M"))


def test_short_hunt(series: str) -> None:
    hunt = Hunt(get_kernel(series), seed=1)
    hunt.run(600, steps=5, boots=1)
    assert hunt.alarms == []
    assert hunt.lost == []
    assert hunt.steps == 5
    assert hunt.kinds["remake namespace"] == 3


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
