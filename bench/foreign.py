# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels of other architectures with a terabyte of device memory.

The simulator makes all of it but the device's own struct pages, which are left out. Unlike
:mod:`.sparse`, which writes x86-64's tables itself, it takes up to two minutes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vmemscope.sim.architectures import ARCHITECTURES
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.radix import RadixVmemmap
from vmemscope.sim.scenario import Scenario
from vmemscope.sim.scenario_toml import parse_scenario
from vmemscope.sim.units import GIB

__all__ = ("FOREIGN", "write_foreign")

TIB = 1 << 40
#: simulated architectures but x86-64, and but the one that the audits refuse -> bytes of the
#: device's compound pages
FOREIGN = {
    name: GIB if name == "ppc64le-64k" else max(arch.units.pmd_size, 2 << 20)
    for name, arch in ARCHITECTURES.items()
    if name != "x86_64" and arch.machine is None
}


class _Radix(RadixVmemmap):
    def _clear(self, pfn: int, count: int) -> None:
        """Leave the frames out of the dump."""


class _Kernel(SimulatedKernel):
    def __init__(self, scenario: Scenario) -> None:
        if ARCHITECTURES[scenario.arch].radix:
            self.vmemmap_type = _Radix
        super().__init__(scenario)

    def _driver_init(self) -> None:
        super()._driver_init()
        setattr(self.memremap, "memmap_init_zone_device", lambda *_: None)  # noqa: B010


def write_foreign(path: Path, arch: str, size: int = TIB) -> None:
    """
    Write a dump of a kernel of an architecture with one devdax.

    :param size: of the device in bytes
    """
    align, there = FOREIGN[arch], ARCHITECTURES[arch]
    # Sizes of a scenario are those of a PMD of 2 MiB.
    factor = max(there.units.pmd_size >> 21, 1)
    frames = size // align * 2 if there.deduplicates else size * 64 >> 2 * there.units.page_shift
    # With their own struct pages and what lies below 4 GiB.
    ram = -(-frames * there.units.page_size * 17 // 16 // GIB) + 5
    text = (
        f'kernel = "7.2"\nram = "{ram}G"\n[[pagemap]]\nname = "dax0.0"\ntype = "devdax"\n'
        f'start = {TIB // factor}\nsize = {size // factor}\nalign = "{align // factor >> 20}M"\n'
    )
    scenario = dataclasses.replace(
        parse_scenario(text, "foreign"), arch=arch, levels=max(set(there.levels) - {5})
    )
    Image(_Kernel(scenario)).write(path)
