# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The order of a page's section, which ``page`` shows as it is in memory.

Expected orders are those that the kernel's rules set: a device's in its whole sections
(``section_activate()``), a gigantic page's in its own from boot
(``hugetlb_vmemmap_optimize_bootmem_page()``), and none elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vmemscope.audits.page import audit
from vmemscope.cli.main import main
from vmemscope.machine import Kernel
from vmemscope.report.page import render_page

from .kernels import DEVICE, KERNELS, image, write

Order = Callable[[int], "int | None"]


@pytest.fixture
def order_of(tmp_path: Path) -> Callable[[str, str], Order]:
    """Return the order that a report has of a page's section, by scenario and kernel."""

    def opened(scenario: str, kernel: str) -> Order:
        one = Kernel.open_core(write(image(scenario, kernel), tmp_path))
        return lambda pfn: audit(one, pfn, "pfn").section.order

    return opened


@pytest.mark.parametrize("arch", ["", "@riscv64"])
def test_gigantic_pages_from_boot(order_of: Callable[[str, str], Order], arch: str) -> None:
    """It stays when a folio is restored; one of run time, at 4 GiB, sets none."""
    found = order_of("hugetlb-boot", f"next{arch}")
    assert [found(pfn) for pfn in (0x140000, 0x17FFFF, 0x180000, 0x1BFFFF)] == [18] * 4
    assert [found(pfn) for pfn in (0x100, 0x100000, 0x13FFFF, 0x1C0000)] == [0] * 4


def test_devices(order_of: Callable[[str, str], Order]) -> None:
    """2 MiB and 1 GiB; no compound pages; a memory map on the device; RAM."""
    found = order_of("mixed", "next")
    assert [found(pfn) for pfn in (0x100000, 0x11FFFF, 0x150000, 0x1FFFFF)] == [9, 9, 18, 18]
    assert [found(pfn) for pfn in (0x210000, 0x220000, 0x100)] == [0, 0, 0]
    # Not present.
    assert found(0x300000) is None


def test_a_part_of_a_section(order_of: Callable[[str, str], Order]) -> None:
    """192 MiB: a section and a half of 128 MiB, of which the half has no order."""
    found = order_of(DEVICE.replace("256M", "192M"), "next")
    assert [found(pfn) for pfn in (0x100000, 0x107FFF, 0x108000)] == [9, 9, 0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_without_orders(tmp_path: Path, kernel: str) -> None:
    one = Kernel.open_core(write(image(DEVICE, kernel), tmp_path))
    report = audit(one, 0x100000, "pfn")
    assert report.section.order is None
    assert "section order" not in render_page(report)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (0, "0, populated for no compound pages"),
        (9, "9, populated for compound pages of 2 MiB"),
        (18, "18, populated for compound pages of 1 GiB"),
        (44, "44, populated for compound pages of 64 PiB"),
        (45, "45, which makes no sense"),
        (0xFFFF_FFFF, "4294967295, which makes no sense"),
    ],
)
def test_whatever_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: int, words: str
) -> None:
    """In text and in JSON, for a section that no rule says anything of, too."""
    built = image(DEVICE, "next")
    section = built.kernel.sections.get(1)
    assert section is not None
    section["compound_page_order"] = order
    core = write(built, tmp_path)
    main(["page", "--pfn", "0x8000", "-c", core])
    lines = capsys.readouterr().out.splitlines()
    assert f"  section order    {words}" in lines
    main(["page", "--pfn", "0x8000", "-c", core, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["section"]["order"] == order
