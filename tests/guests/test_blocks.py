# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Hot-plugged memory of real kernels: blocks that are not online, and memory maps in them.

Two DIMMs are plugged in, and ``memmap_on_memory`` puts the memory map of each block into
the block. The first one goes online. What the guest's own sysfs says is what must be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from vmemscope.audits import hugetlb, memmap, page
from vmemscope.audits.pagemaps import once
from vmemscope.machine import Kernel

from .devices import MIB, Nvdimm
from .guest import Guest
from .packages import get_kernel

BLOCKS = "/sys/devices/system/memory"
SWITCH = "/proc/sys/vm/hugetlb_optimize_vmemmap"
NR = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#: one memory block: before 6.6 larger DIMMs do not hold their own memory map
DIMM = 128 * MIB
PARAMETERS = ("memhp_default_state=offline", "memory_hotplug.memmap_on_memory=1")

pytestmark = pytest.mark.guest


class Plugged:
    """A guest with two DIMMs, of which one is online."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.kernel: Kernel
        output = guest.run(
            f"cd {BLOCKS} && cat block_size_bytes && for b in memory*; do"
            " [ -e $b/state ] && echo $b $(cat $b/phys_index $b/state); done"
        ).stdout
        size, *lines = output.split("\n")
        #: bytes
        self.block = int(size, 16)
        found = [re.fullmatch(r"(memory\d+) (\w+) (\w+)", line) for line in lines]
        #: physical address of each block -> its name, whether it is online
        self.blocks = {
            int(one[2], 16) * self.block: (one[1], one[3] == "online") for one in found if one
        }

    def online(self, count: int) -> None:
        """Bring the first blocks online that are not."""
        for name in [name for name, on in self.blocks.values() if not on][:count]:
            self.guest.run(f"echo online > {BLOCKS}/{name}/state")


@pytest.fixture(scope="module", params=["6.1", "7.2"])
def plugged(request: pytest.FixtureRequest) -> Iterator[Plugged]:
    arguments = [
        argument
        for i in range(2)
        for argument in (
            "-object", f"memory-backend-ram,id=dimm{i},size={DIMM}",
            "-device", f"pc-dimm,id=d{i},memdev=dimm{i}",
        )
    ]  # fmt: skip
    with Guest(
        get_kernel(request.param),
        [Nvdimm(size=256 * MIB, mode="devdax", align=2 * MIB)],
        memory=768 * MIB,
        parameters=PARAMETERS,
        qemu_arguments=arguments,
    ) as guest:
        before = Plugged(guest)
        assert sum(not on for _, on in before.blocks.values()) * before.block == 2 * DIMM
        before.online(DIMM // before.block)
        guest.run(f"echo 1 > {SWITCH} && echo 250 > {NR}")
        found = Plugged(guest)
        found.kernel = Kernel.open_qemu(guest.qmp)
        yield found


def test_blocks_are_what_the_guest_says(plugged: Plugged) -> None:
    kernel = plugged.kernel
    report = memmap.audit(kernel)
    assert (report.findings, report.not_read) == ((), ())
    offline = sorted(at for at, (_, on) in plugged.blocks.items() if not on)
    online = sorted(at for at, (_, on) in plugged.blocks.items() if on and at >= 768 * MIB)
    assert len(offline) * plugged.block == len(online) * plugged.block == DIMM
    areas = {area.label: area for area in report.areas}
    assert areas["offline"].described_bytes == DIMM
    # Each block's memory map is in it: 64 of 4096 bytes.
    frames = DIMM // 64 // 4096
    assert (areas["offline"].frames, areas["offline"].frames_self_hosted) == (frames, frames)
    zones = [area for area in report.areas if area.kind == "zone"]
    assert sum(area.frames_self_hosted for area in zones) == frames
    assert "no known zone" not in areas
    for at in offline:
        for pfn in (at // 4096, (at + plugged.block) // 4096 - 1):
            one = page.audit(kernel, pfn, "pfn")
            assert (one.section.online, one.page.initialised, one.zone) == (False, False, None)
            assert one.frame is not None
            assert at <= one.frame.pfn * 4096 < at + plugged.block
    for at in online:
        one = page.audit(kernel, at // 4096, "pfn")
        assert (one.section.online, one.page.initialised) == (True, True)
        assert one.backs is not None
    assert once(kernel).findings == ()


def test_no_folio_in_them_is_optimized(plugged: Plugged) -> None:
    kernel = plugged.kernel
    report = hugetlb.audit(kernel, folios=True)
    known = {"hugetlb-restore"}
    assert {one.rule for one in report.findings} <= known
    small = next(one for one in report.hstates if one.order == 9)
    here = [folio for folio in report.folios if folio.pfn * 4096 >= 1 << 32]
    assert len(here) > 20
    assert not any(folio.read_only for folio in here)
    assert small.self_hosted == len(here)
    assert small.optimized == small.folios - len(here)
    assert small.savable_bytes == 0
