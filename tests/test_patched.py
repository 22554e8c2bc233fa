# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults for dumps of real kernels, patched into a simulated one with the same devices.

The guest tests patch them into dumps of real kernels. That they find the same here
shows that the simulator and a patch mean the same by a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vmemscope.sim.faults import Finding

from .kernels import KERNELS, View, audit_core, image, write
from .patched import FAULTS, HUGETLB_FAULTS, damaged, patched

KERNEL = "6.12"


class Mixed(NamedTuple):
    core: Path
    view: View
    sound: set[Finding]
    #: where each pagemap's range starts, by the address of its structure
    starts: dict[int, str]
    kernel: str = KERNEL


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    built = image("mixed", KERNEL)
    # Real dumps have free frames, too: those that a patch takes first.
    for pfn in (*range(0x2000), *range(0x3F000, 0x40000)):
        built.kernel.physical.page(pfn)
    core = Path(write(built, tmp_path_factory.mktemp("patched")))
    before, view = core.read_bytes(), View(core)
    starts = {va: hex(pgmap.range.start.value_()) for va, (pgmap, _) in view.pgmaps().items()}
    yield Mixed(core, view, audit_core(core).found(), starts)
    # All of it was put back.
    assert core.read_bytes() == before


@pytest.mark.parametrize("name", FAULTS)
def test_fault(mixed: Mixed, name: str) -> None:
    changes, expected = patched(mixed.view.prog, FAULTS[name])
    assert FAULTS[name].rule in {one.rule for one in expected}
    with damaged(mixed.core, changes):
        done = audit_core(mixed.core)
    starts = {one.name: mixed.starts[one.address] for one in done.pgmap.pagemaps}
    found = {
        one._replace(pagemap=starts.get(one.pagemap or "")) for one in done.found() - mixed.sound
    }
    assert found == expected


@pytest.fixture(scope="module", params=KERNELS)
def hugetlb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    core = Path(write(image("hugetlb", request.param), tmp_path_factory.mktemp(request.param)))
    assert audit_core(core).found() == set()
    return Mixed(core, View(core), set(), {}, request.param)


@pytest.mark.parametrize("name", HUGETLB_FAULTS)
def test_hugetlb_fault(hugetlb: Mixed, name: str) -> None:
    fault = HUGETLB_FAULTS[name]
    if fault.only and hugetlb.kernel not in fault.only:
        return
    changes, expected = patched(hugetlb.view.prog, fault)
    assert fault.rule in {one.rule for one in expected}
    with damaged(hugetlb.core, changes):
        found = audit_core(hugetlb.core).found()
    assert {one for one in found if one.command == "hugetlb"} == expected
