# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The coming kernel in states that it should not be in, and in some that look wrong and are not.

Each is made by hand in a sound image. What is wrong must be reported where it is, once, and
not as thousands of pages that show it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmemscope.cli.main import main
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.page_alloc import PageAllocator
from vmemscope.sim.pagetable import RW

from .kernels import PAGE, Audited, audit_core, image, write
from .test_coming import GIB, NODES, ONE, OTHER, device

HUGE = "[[hugetlb]]\ncount = 2\n"
#: of the device in ONE
START, END = 0x100000, 0x120000
DEVICE, DMA32 = (0, "ZONE_DEVICE", 9), (0, "ZONE_DMA32", 9)

Change = Callable[[SimulatedKernel], object]


def changed(tmp_path: Path, text: str, change: Change | None = None) -> tuple[Image, Audited]:
    """Build a scenario, change it, and audit it."""
    built = image(f"\n{text}", "next")
    if change is not None:
        change(built.kernel)
    return built, audit_core(Path(write(built, tmp_path)))


def found(done: Audited) -> list[tuple[str, str | None, str]]:
    """Return command, pagemap and rule of each finding."""
    return [
        *(("pgmap", owner.name if owner else None, one.rule) for owner, one in
          done.pgmap.all_findings()),
        *(("memmap", None, one.rule) for one in done.memmap.findings),
        *(("hugetlb", None, one.rule) for one in done.hugetlb.findings),
    ]  # fmt: skip


def entries(kernel: SimulatedKernel, start: int, end: int, pfn: int) -> list[int]:
    """Return the pages of the vmemmap of page frames that map a frame."""
    first, last = (kernel.addresses.pfn_to_page(one) for one in (start, end))
    return [
        va
        for va in range(first, last, PAGE)
        if kernel.tables.frame(kernel.tables.entry(va, 12)) == pfn
    ]


def slot(value: Callable[[SimulatedKernel], int], zone: str = "ZONE_DEVICE") -> Change:
    """Return a change of the zone's slot for order 9."""

    def change(kernel: SimulatedKernel) -> None:
        array = kernel.nodes.zone(0, zone)["vmemmap_tails"]
        kernel.memory.write_int(array + 8 * (9 - 7), value(kernel))

    return change


ELSEWHERE: dict[str, Callable[[SimulatedKernel], int]] = {
    "hole": lambda kernel: kernel.addresses.pfn_to_page(0x900000),
    "behind": lambda _: (1 << 64) - 64,
    "user": lambda _: 0x40000,
    "between": lambda kernel: kernel.addresses.pfn_to_page(0x100) + 8,
    "device": lambda kernel: kernel.addresses.pfn_to_page(START),
    "other zone": lambda kernel: kernel.addresses.pfn_to_page(kernel.shared_tails.frames[DMA32]),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_devices_slot_that_points_elsewhere(tmp_path: Path, where: str) -> None:
    """The slot is wrong, once, whatever is there: all devices agree on the frame."""
    built, done = changed(tmp_path, ONE + OTHER + HUGE, slot(ELSEWHERE[where]))
    assert found(done) == [("pgmap", "dax0.0", "shared-tail")]
    ((_, one),) = done.pgmap.all_findings()
    assert one.expected == f"pfn {built.kernel.shared_tails.frames[DEVICE]:#x}"
    assert [one.state for one in done.pgmap.pagemaps] == ["deduplicated"] * 2


@pytest.mark.parametrize("where", ["hole", "behind", "user", "between"])
def test_a_slot_of_ram_that_leads_to_no_struct_page(tmp_path: Path, where: str) -> None:
    built, done = changed(tmp_path, ONE + HUGE, slot(ELSEWHERE[where], "ZONE_DMA32"))
    assert {rule for _, _, rule in found(done)} == {"hugetlb-shared-tail", "hugetlb-tail-frame"}
    (wrong,) = [one for one in done.hugetlb.findings if one.rule == "hugetlb-shared-tail"]
    assert wrong.observed == f"{ELSEWHERE[where](built.kernel):#x}"
    assert done.hugetlb.not_read == ()


@pytest.mark.parametrize("array", [8, 0xFFFF_8000_0000_0000, (1 << 64) - 8])
@pytest.mark.parametrize("zone", ["ZONE_DEVICE", "ZONE_DMA32"])
def test_an_array_that_is_not_mapped(
    tmp_path: Path, zone: str, array: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can't be read is reported as that, and nothing else."""

    def change(kernel: SimulatedKernel) -> None:
        kernel.nodes.zone(0, zone)["vmemmap_tails"] = array

    _, done = changed(tmp_path, ONE + HUGE, change)
    assert found(done) == []
    not_read = (*done.pgmap.summary.not_read, *done.hugetlb.not_read)
    assert [line.partition(":")[0] for line in not_read] == [
        "a slot of vmemmap_tails can't be read"
    ]
    command = "pgmap" if zone == "ZONE_DEVICE" else "hugetlb"
    assert main([command, "-c", str(tmp_path / "vmcore")]) == 4
    assert capsys.readouterr().err == ""


def test_a_frame_on_another_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's node had no memory left: contents name its node, the frame lies elsewhere."""
    alloc = PageAllocator.alloc_page
    monkeypatch.setattr(PageAllocator, "alloc_page", lambda self, nid=0: alloc(self, 0))
    text = NODES + ONE.replace("nid = 0", "nid = 1") + OTHER
    built, done = changed(tmp_path, text)
    assert built.kernel.memmap.nid(built.kernel.shared_tails.frames[1, "ZONE_DEVICE", 9]) == 0
    assert found(done) == [("pgmap", "dax0.0", "frame-node")]
    tails = done.pgmap.device_tails
    assert isinstance(tails, tuple)
    assert [(one.node, one.pagemaps) for one in tails] == [(1, ("dax0.0",)), (0, ("dax1.0",))]


def test_the_frame_of_another_nodes_devices(tmp_path: Path) -> None:
    """Heads are right: what is wrong is the slot, and the struct pages of one frame, not of all."""

    def change(kernel: SimulatedKernel) -> None:
        here, there = (kernel.shared_tails.frames[nid, "ZONE_DEVICE", 9] for nid in (1, 0))
        wrong = entries(kernel, 0x200000, 0x240000, here)
        for va in wrong:
            kernel.tables.set(va, 12, kernel.tables.pte(there))
        kernel.memmap.add_refcount(there, len(wrong))
        kernel.memmap.set_refcount(here, 1)

    _, done = changed(tmp_path, NODES + ONE + OTHER.replace("nid = 0", "nid = 1"), change)
    assert found(done) == [("pgmap", "dax1.0", "shared-tail"), ("pgmap", "dax1.0", "page-zone")]
    _, (_, zone) = done.pgmap.all_findings()
    assert "node 1" in str(zone.expected)
    assert "node 0" in str(zone.observed)


def test_the_frame_of_huge_pages(tmp_path: Path) -> None:
    """One entry of a device, and one of a huge page, that map each other's frame."""

    def of_device(kernel: SimulatedKernel) -> None:
        frame = kernel.shared_tails.frames[DEVICE]
        va = entries(kernel, START, END, frame)[1]
        kernel.tables.set(va, 12, kernel.tables.pte(kernel.shared_tails.frames[DMA32]))
        kernel.memmap.add_refcount(frame, -1)

    _, done = changed(tmp_path, ONE + HUGE, of_device)
    assert found(done) == [("pgmap", "dax0.0", "tail-frame")]

    def of_folio(kernel: SimulatedKernel) -> None:
        va = kernel.hugetlb.address(kernel.hugetlb.folios[0], 3)
        kernel.tables.set(va, 12, kernel.tables.pte(kernel.shared_tails.frames[DEVICE]) & ~RW)

    _, done = changed(tmp_path, ONE + HUGE, of_folio)
    assert found(done) == [("hugetlb", None, "hugetlb-tail-frame")]


def test_a_frame_of_which_no_device_is_left(tmp_path: Path) -> None:
    """It stays until the next boot, with the zone's reference."""

    def change(kernel: SimulatedKernel) -> None:
        kernel.shared_tails.page(0, "ZONE_DEVICE", 10)

    built, done = changed(tmp_path, ONE, change)
    assert len(built.kernel.shared_tails.frames) == 2
    assert found(done) == []


@pytest.mark.parametrize("order", [1, 9, 64, 0xFFFF_FFFF])
def test_the_order_of_a_section_that_a_device_has_a_part_of(tmp_path: Path, order: int) -> None:
    """Such a section is plain: the kernel refuses to add a part to one with an order."""
    text = device(0, 4 * GIB + (64 << 20), 256 << 20, "2M")
    numbers = 0x104000 // 32768, 0x114000 // 32768

    def change(kernel: SimulatedKernel) -> None:
        for number in numbers:
            section = kernel.sections.get(number)
            assert section is not None
            section["compound_page_order"] = order

    built, done = changed(tmp_path, text, change)
    assert found(done) == [("pgmap", "dax0.0", "section-order")] * 2
    addresses = [one.vaddr for _, one in done.pgmap.all_findings()]
    assert addresses == [built.kernel.addresses.pfn_to_page(pfn) for pfn in (0x104000, 0x110000)]
    assert [one.expected for _, one in done.pgmap.all_findings()] == [0, 0]


@pytest.mark.parametrize("shift", [18, 22, 23, 63, 64, 0xFFFF_FFFF])
def test_orders_that_no_device_can_have(tmp_path: Path, shift: int) -> None:
    def change(kernel: SimulatedKernel) -> None:
        kernel.pagemap("dax0.0").pgmap["vmemmap_shift"] = shift

    _, done = changed(tmp_path, ONE + OTHER, change)
    assert found(done) == [("pgmap", "dax0.0", "vmemmap-shift")]
    # The other device shares the frame all the same, and one reader less proves nothing.
    assert [one.state for one in done.pgmap.pagemaps] == ["unreadable", "deduplicated"]
