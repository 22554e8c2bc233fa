# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of a booted kernel is as good as another: faults in it are what they are in a new one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmemscope.sim import build
from vmemscope.sim.image import Image

from ..kernels import FAULTS, able, built, scenario_of

#: with faults of many kinds, and of all architectures
CASES = [
    *((name, able(name)[-1]) for name in FAULTS[::4]),
    ("xarray-stray", "6.12@ppc64le-64k"),
    ("hole", "next@riscv64"),
]


def contents(image: Image) -> dict[int, bytes]:
    """Return all of physical memory, by pfn."""
    image.kernel.memmap.flush()
    memory = image.kernel.physical
    return {
        first + i: page.tobytes()
        for segment in memory.segments()
        for first, rows in memory.rows(*segment)
        for i, page in enumerate(rows)
    }


@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_faults_in_a_copy(name: str, kernel: str) -> None:
    found = scenario_of(name, kernel.partition("@")[0])
    assert found.faults or found.hugetlb_faults
    version, _, arch = kernel.partition("@")
    found = replace(found, levels=4 if arch else found.levels)
    anew = build(found, kernel=version, arch=arch or None)
    for _ in range(2):
        copied = built(found, kernel)
        assert copied.planted == anew.planted
        assert copied.vmcoreinfo == anew.vmcoreinfo
        assert contents(copied) == contents(anew)
