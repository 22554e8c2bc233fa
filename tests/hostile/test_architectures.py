# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Dumps of other architectures damaged at random: every command answers, as for x86-64.

What is hit is mostly what the simulator knows to be a page table, a structure or a struct page
that the audits read; the rest is anywhere.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.arch_matrix import damage
from tests.kernels import image, write
from vmemscope.sim.image import Image

from .answers import problems, problems_of
from .child import run
from .conftest import SEED

ARCHS = ("arm64", "arm64-16k", "arm64-64k", "ppc64le", "ppc64le-64k", "riscv64", "s390x")
#: cases of an architecture
_CASES, _MORE = 12, 60

DEVICES = """
ram = "512M"
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "128M"
align = "2M"
[[pagemap]]
name = "dax3.0"
type = "devdax"
start = 0x120000000
size = "128M"
align = "2M"
map = "dev"
[[pagemap]]
name = "pmem4"
type = "fsdax"
start = 0x140000000
size = "128M"
"""


def _places(one: Image) -> list[int]:
    """Return physical addresses of pages that the audits read."""
    kernel = one.kernel
    size, addresses = kernel.units.page_size, kernel.addresses
    found = [pfn * size for pfn in one._tables()]
    for node in kernel.pgmap_array.nodes():
        found.append(addresses.pa(node.va))
    found.append(addresses.pa(kernel.mem_section))
    for record in kernel.pagemaps:
        found.append(addresses.pa(record.va))
        for pfn in (record.data_pfn, record.ranges[0][1] - 1):
            place = kernel.tables.translate(addresses.pfn_to_page(pfn))
            assert place is not None
            found.append(place)
    return [address // size * size for address in found]


@pytest.mark.parametrize("arch", ARCHS)
def test_damage_is_answered(tmp_path: Path, arch: str) -> None:
    check(tmp_path, arch, range(_CASES))


@pytest.mark.whole
@pytest.mark.parametrize("arch", ARCHS)
def test_more_damage_is_answered(tmp_path: Path, arch: str) -> None:
    check(tmp_path, arch, range(_CASES, _MORE))


def check(tmp_path: Path, arch: str, numbers: range) -> None:
    one = image(DEVICES, f"7.2@{arch}")
    core = Path(write(one, tmp_path))
    whole, places = core.read_bytes(), _places(one)
    failed = []
    for case in numbers:
        rng = random.Random(f"{SEED} {arch} {case}")
        core.write_bytes(whole)
        damage(core, places, rng)
        pfn = rng.choice([record.data_pfn for record in one.kernel.pagemaps]) + rng.randrange(600)
        target = ("-c", str(core))
        commands = [
            ("pgmap", "--all", *target),
            ("pgmap", *target, "--format", "json"),
            rng.choice([("memmap", *target), ("hugetlb", *target)]),
            ("page", "--pfn", hex(pfn), *target),
            ("vmcoreinfo", *target, "-o", os.devnull),
        ]
        if found := problems(run(commands, judge=problems_of)):
            failed.append("\n".join([f"case {case} of {arch}", *found]))
    assert not failed, "\n\n".join(failed[:5])
