# SPDX-License-Identifier: LGPL-2.1-or-later
"""Orders of sections of RAM: which the kernel can have set, and which not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmemscope.audits import memmap
from vmemscope.machine import Kernel
from vmemscope.sim.image import Image

from .kernels import DEVICE, image, write
from .test_coming_snapshots import RAM

#: the 2 MiB leaves of x86-64 map the memory map of a section each
SECTION = 32768


def orders_of(built: Image, numbers: dict[int, int], tmp_path: Path) -> list[tuple[int, object]]:
    """Set the orders of sections; return section and expected order of each that is wrong."""
    for number, order in numbers.items():
        section = built.kernel.sections.get(number)
        assert section is not None
        section["compound_page_order"] = order
    report = memmap.audit(Kernel.open_core(write(built, tmp_path)))
    base = built.kernel.addresses.vmemmap_base
    found = [one for one in report.findings if one.rule == "ram-order"]
    return [(((one.vaddr or 0) - base) // 64 // SECTION, one.expected) for one in found]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        *((order, "0, or 15 to 22") for order in (1, 9, 14, 23, 64, 0xFFFF_FFFF)),
        # Of base pages, a section can be of any of these.
        *((order, "0") for order in (15, 18, 22)),
    ],
)
def test_large_leaves_and_an_order(tmp_path: Path, order: int, expected: str) -> None:
    assert orders_of(image(DEVICE, "next"), {1: order}, tmp_path) == [(1, expected)]


def test_sections_of_pages_from_boot(tmp_path: Path) -> None:
    """One is restored, and has its order still; one that shares loses it, which is no error."""
    built = image(RAM, "next")
    numbers = {nr: built.kernel.sections.compound_order(nr) for nr in range(32, 50)}
    assert list(numbers.values()).count(18) == 16
    assert orders_of(built, {}, tmp_path) == []
    # Of pages that are optimized at run time, sections have none.
    assert orders_of(built, {40: 0}, tmp_path) == []


def test_ram_that_was_added_after_boot(tmp_path: Path) -> None:
    """A device that was there before had an order, and its sections are RAM now."""
    built = image(DEVICE, "next")
    section = built.kernel.sections.get(1)
    assert section is not None
    flags = built.kernel.sections.flag("IS_EARLY")
    section["section_mem_map"] = section["section_mem_map"] & ~flags
    assert orders_of(built, {1: 18}, tmp_path) == [(1, "0")]
    assert orders_of(built, {1: 0}, tmp_path) == []


@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
def test_kernels_without_orders_do_not_name_it(tmp_path: Path, kernel: str) -> None:
    report = memmap.audit(Kernel.open_core(write(image(DEVICE, kernel), tmp_path)))
    assert "ram-order" not in {one.rule for one in report.outcomes}
