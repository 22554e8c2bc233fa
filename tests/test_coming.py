# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The coming kernel: its devices share a frame of tail pages for each node and order.

Expected numbers are those of the kernel's rules (``mm/sparse-vmemmap.c`` in mm-unstable of
September 2026), and of a walk over the page tables entry by entry. Which generation a kernel is
of, members, symbols and memory say; what they can hold is tried one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vmemscope.audits import hugetlb, memmap
from vmemscope.audits.page import audit as audit_page
from vmemscope.audits.pagemaps import once
from vmemscope.audits.pagemaps.parts import Pagemaps
from vmemscope.kernel.vmemmap_tails import SlotState, TailSlots, shares_devices, slots_of
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import Report, SharedTails
from vmemscope.report.memmap import render_memmap
from vmemscope.rules.findings import Outcome
from vmemscope.sim.image import Image
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.pagetable import RW

from .kernels import PAGE, View, image, write

GIB = 1 << 30


def device(number: int, start: int, size: int, align: str, nid: int = 0) -> str:
    """Return a device, of bytes ``[start, start + size)``."""
    return (
        f'[[pagemap]]\nname = "dax{number}.0"\ntype = "hmem"\nstart = {start:#x}\n'
        f'size = {size:#x}\nalign = "{align}"\nnid = {nid}\n'
    )


def devdax(number: int, start: int, size: int, align: str, nid: int = 0) -> str:
    """Return the same as a namespace: a range that ends before 1 GiB pages do."""
    return device(number, start, size, align, nid).replace('"hmem"', '"devdax"')


ONE = device(0, 4 * GIB, 512 << 20, "2M")
OTHER = device(1, 8 * GIB, GIB, "2M")
GIGANTIC = device(2, 12 * GIB, 2 * GIB, "1G")
NODES = """
[[node]]
start = 0
size = "256M"
nid = 0
[[node]]
start = 0x2000000000
size = "256M"
nid = 1
"""

Opened = Callable[..., tuple[Image, Kernel]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Build a scenario, change it, and open its dump."""

    def build(text: str, change: Callable[[SimulatedKernel], object] | None = None) -> Any:
        built = image(f"\n{text}", "next")
        if change is not None:
            change(built.kernel)
        return built, Kernel.open_core(write(built, tmp_path))

    return build


def frames_of(view: View, start: int, end: int) -> Counter[int]:
    """Count the entries of each frame behind page frames, entry by entry."""
    return Counter(leaf.pfn for leaf in view.leaves_of(start, end) if leaf.shift == 12)


def shared_of(report: Report) -> tuple[SharedTails, ...]:
    found = report.device_tails
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize(
    ("text", "start", "end", "own", "on_shared", "counted"),
    [
        # 512 MiB in 2 MiB pages from a section boundary
        (ONE, 0x100000, 0x120000, 256, 1792, 256),
        # the same from the middle of a section: the first and the last half are plain
        (device(0, 0x104000000, 512 << 20, "2M"), 0x104000, 0x124000, 192 + 512, 1344, 704),
        # half a section
        (device(0, 4 * GIB, 64 << 20, "2M"), 0x100000, 0x104000, 256, 0, 256),
        # 2.75 GiB in 1 GiB pages, on a section boundary but on none of 1 GiB
        (devdax(0, 0x150000000, 3 * GIB, "1G"), 0x150000, 0x200000, 3, 11261, 2),
        # 3 GiB in 1 GiB pages from the middle of a section: two heads are lost
        (devdax(0, 0x104000000, 3 * GIB, "1G"), 0x104000, 0x1C0000, 256, 11776, 258),
        (device(0, 4 * GIB, 4 * GIB, "1G"), 0x100000, 0x200000, 4, 4 * 4095, 4),
    ],
)
def test_frames_of_a_device(
    opened: Opened, text: str, start: int, end: int, own: int, on_shared: int, counted: int
) -> None:
    built, kernel = opened(text)
    view = View(kernel.target.path)
    frames = frames_of(view, start, end)
    assert sorted(frames.values())[-1:] == ([on_shared] if on_shared else [1])
    assert len(frames) == own + (on_shared > 0)
    report = once(kernel)
    (one,) = report.pagemaps
    assert [(r.start // PAGE, (r.end + 1) // PAGE) for r in one.ranges] == [(start, end)]
    assert one.frames.sharing == dict(Counter(frames.values()))
    assert one.frames.backing == len(frames)
    assert one.saved_bytes == (frames.total() - len(frames)) * PAGE
    if on_shared:
        (shared,) = shared_of(report)
        assert (shared.pfn, shared.refcount) == (frames.most_common(1)[0][0], on_shared + 1)
        assert shared.refcount == view.refcount(shared.pfn or 0)
    else:
        assert one.state == "not-optimized"
        assert "whole section" in (one.reason or "")
    whole = memmap.audit(kernel)
    assert "memmap-counter" not in {f.rule for f in whole.findings}
    assert built.kernel.vmemmap.nr_memmap_pages == counted == whole.counters[0].value


def test_devices_of_one_node(opened: Opened) -> None:
    """512 MiB and 1 GiB in 2 MiB pages: 768 frames of their own, and one for both."""
    _, kernel = opened(ONE + OTHER)
    report = once(kernel)
    assert report.all_findings() == []
    (shared,) = shared_of(report)
    assert (shared.node, shared.order, shared.entries, shared.refcount) == (0, 9, 5376, 5377)
    assert shared.pagemaps == ("dax0.0", "dax1.0")
    assert [one.frames.backing for one in report.pagemaps] == [257, 513]
    assert report.summary.backing_frames == 769
    assert report.summary.saved_bytes == (6144 - 769) * PAGE
    whole = memmap.audit(kernel)
    assert "described by 6144 pages in 769 frames" in render_memmap(whole, 100)
    area = {one.name: one for one in whole.areas if one.kind == "pagemap"}
    assert [(one.frames, one.counted) for one in area.values()] == [(257, 256), (513, 512)]


def test_orders_and_nodes_have_frames_of_their_own(opened: Opened) -> None:
    devices = ONE + OTHER.replace("nid = 0", "nid = 1") + GIGANTIC
    _, kernel = opened(NODES + devices)
    report = once(kernel)
    assert report.all_findings() == []
    found = [(one.node, one.order, one.pagemaps) for one in shared_of(report)]
    assert found == [(0, 9, ("dax0.0",)), (1, 9, ("dax1.0",)), (0, 18, ("dax2.0",))]
    assert len({one.pfn for one in shared_of(report)}) == 3


def test_the_frame_in_words(opened: Opened) -> None:
    _, kernel = opened(ONE + OTHER)
    (shared,) = shared_of(once(kernel))
    (page,) = [audit_page(kernel, shared.pfn or 0, "pfn")]
    assert any("devices of node 0 share, now those of dax0.0, dax1.0" in s for s in page.state)
    tail = audit_page(kernel, 0x100080, "pfn")
    assert any("share, with those of dax1.0" in sentence for sentence in tail.state)
    # The count is not that of the entries of one compound page.
    assert not any("has reference count" in sentence for sentence in tail.state)


# How the generation is found.


def test_members_say_where_slots_are(opened: Opened, tmp_path: Path) -> None:
    _, coming = opened(ONE)
    assert (slots_of(coming.prog), shares_devices(coming.prog)) == (TailSlots.ALLOCATED, True)
    for version, slots in (("7.2", TailSlots.EMBEDDED), ("6.12", TailSlots.NONE)):
        (tmp_path / version).mkdir()
        prog = Kernel.open_core(write(image(f"\n{ONE}", version), tmp_path / version)).prog
        assert (slots_of(prog), shares_devices(prog)) == (slots, False)


@pytest.mark.parametrize("order", [0, 5, 18])
def test_the_order_of_a_section_decides(opened: Opened, order: int) -> None:
    """All whole sections of a device have its own: of another, it is not known how it is mapped."""

    def change(kernel: SimulatedKernel) -> None:
        section = kernel.sections.get(0x100000 // 32768)
        assert section is not None
        section["compound_page_order"] = order

    _, kernel = opened(ONE, change)
    layout = kernel.layouts[0]
    pieces = layout.pieces(kernel.geometry, kernel.sections, layout.dedup.scheme)
    assert [(one.populated.value, one.end - one.start) for one in pieces] == [
        ("unknown", 512), ("compound", 1536),
    ]  # fmt: skip
    assert [f.rule for _, f in once(kernel).all_findings()] == ["section-order"]


@pytest.mark.parametrize(
    ("value", "state"),
    [("array", SlotState.NO_ARRAY), ("slot", SlotState.EMPTY), ("wild", SlotState.UNREADABLE)],
)
def test_absent_slots_are_told_apart(opened: Opened, value: str, state: SlotState) -> None:
    def change(kernel: SimulatedKernel) -> None:
        zone = kernel.nodes.zone(0, "ZONE_DEVICE")
        if value == "slot":
            kernel.memory.write_int(zone["vmemmap_tails"] + 8 * (9 - 7), 0)
        else:
            zone["vmemmap_tails"] = 0 if value == "array" else 0xFFFF_8000_0000_0000

    _, kernel = opened(ONE, change)
    assert [slot.state for slot in kernel.device_slots] == [state]
    report = once(kernel)
    rules = [finding.rule for _, finding in report.all_findings()]
    if state is SlotState.UNREADABLE:
        # The frame that all tail pages map is known all the same.
        assert rules == []
        assert any("slot of vmemmap_tails" in line for line in report.summary.not_read)
    else:
        assert rules == ["shared-tail"]
    assert shared_of(report)[0].entries == 1792


def test_only_slots_of_orders_in_use_are_read(opened: Opened) -> None:
    """How long the array is, no type says: all else may be anything."""

    def change(kernel: SimulatedKernel) -> None:
        array = kernel.nodes.zone(0, "ZONE_DEVICE")["vmemmap_tails"]
        for slot in range(16):
            if slot != 9 - 7:
                kernel.memory.write_int(array + 8 * slot, 0xDEAD_BEEF_DEAD_BEEF)

    _, kernel = opened(ONE, change)
    assert [(slot.order, slot.state) for slot in kernel.device_slots] == [(9, SlotState.FILLED)]
    assert once(kernel).all_findings() == []


def test_sections_that_a_dump_lacks_prove_nothing(opened: Opened) -> None:
    """Nor do references that entries of other devices may have."""

    def change(kernel: SimulatedKernel) -> None:
        section = kernel.sections.get(0x200000 // 32768)
        assert section is not None
        kernel.physical.missing.add(kernel.memory.pa(section.va) // PAGE)

    _, kernel = opened(ONE + OTHER, change)
    report = once(kernel)
    assert report.all_findings() == []
    assert any("section table" in line for line in report.summary.not_read)
    assert {one.name: one.frames.expected for one in report.pagemaps}["dax1.0"] is None


# What later postings may do otherwise.


def uncounted(kernel: SimulatedKernel) -> None:
    """Leave the shared frames the reference of the zone alone."""
    for pfn in kernel.shared_tails.frames.values():
        kernel.memmap.set_refcount(pfn, 1)


def protect(kernel: SimulatedKernel, start: int, end: int) -> None:
    """Make the entries of page frames read-only that map a frame which devices share."""
    shared = set(kernel.shared_tails.frames.values())
    first, last = (kernel.addresses.pfn_to_page(pfn) for pfn in (start, end))
    for va in range(first, last, PAGE):
        entry = kernel.tables.entry(va, 12)
        if kernel.tables.frame(entry) in shared:
            kernel.tables.set(va, 12, entry & ~RW)


def test_references_that_are_not_counted(opened: Opened) -> None:
    """Frames with one reference, read-only: two readings are left, so it is a note."""

    def change(kernel: SimulatedKernel) -> None:
        uncounted(kernel)
        protect(kernel, 0x100000, 0x120000)
        protect(kernel, 0x300000, 0x380000)

    report = once(opened(ONE + GIGANTIC, change)[1])
    found = [(one, finding) for one, finding in report.all_findings()]
    assert [(finding.rule, finding.severity.name) for _, finding in found] == [
        ("shared-references", "NOTE")
    ] * 2
    assert [finding.expected for _, finding in found] == ["1, or 1793", "1, or 8191"]
    for one in report.pagemaps:
        outcome = {rule.rule: rule for rule in one.outcomes}["refcount-low"]
        assert outcome.outcome is Outcome.CHECKED
        assert "has one reference, whatever maps it" in (outcome.reason or "")


@pytest.mark.parametrize("text", [ONE, GIGANTIC, ONE + GIGANTIC])
def test_writable_entries_without_references(opened: Opened, text: str) -> None:
    """What maps them so drops one for each: a lone device that took none is found, and several."""
    report = once(opened(text, uncounted)[1])
    found = [
        (finding.rule, finding.observed, finding.expected) for _, finding in report.all_findings()
    ]
    entries = [1792 + 1] * (ONE in text) + [2 * 4095 + 1] * (GIGANTIC in text)
    assert found == [("refcount-low", 1, expected) for expected in entries]


def test_read_only_entries_with_references(opened: Opened) -> None:
    """The count says it: nothing is unclear."""
    _, kernel = opened(ONE, lambda kernel: protect(kernel, 0x100000, 0x120000))
    report = once(kernel)
    assert report.all_findings() == []
    outcome = {rule.rule: rule for rule in report.pagemaps[0].outcomes}["shared-references"]
    assert (outcome.outcome, outcome.reason) == (Outcome.CHECKED, None)


def test_one_uncounted_frame_among_others_is_a_fault(opened: Opened) -> None:
    def change(kernel: SimulatedKernel) -> None:
        kernel.memmap.set_refcount(kernel.shared_tails.frames[0, "ZONE_DEVICE", 9], 1)

    report = once(opened(ONE + GIGANTIC, change)[1])
    ((owner, finding),) = report.all_findings()
    assert owner is not None
    assert (owner.name, finding.rule, finding.expected) == ("dax0.0", "refcount-low", 1793)


def test_shared_tail_pages_that_are_protected(opened: Opened) -> None:
    """All of them, or a single entry: only that is a fault."""

    def protect(kernel: SimulatedKernel, vas: Iterator[int]) -> None:
        for va in vas:
            table = kernel.tables.last(va)
            assert table is not None
            index = kernel.tables.index(va, 12)
            table[index] = int(table[index]) & ~RW

    def all_of_them(kernel: SimulatedKernel) -> None:
        start = kernel.addresses.pfn_to_page(0x100000)
        protect(kernel, (start + PAGE * i for i in range(2048) if i % 8))

    _, kernel = opened(ONE, all_of_them)
    report = once(kernel)
    assert report.all_findings() == []
    assert hugetlb.audit(kernel).findings == ()

    def one(kernel: SimulatedKernel) -> None:
        protect(kernel, iter([kernel.addresses.pfn_to_page(0x100000) + 3 * PAGE]))

    assert [f.rule for _, f in once(opened(ONE, one)[1]).all_findings()] == ["read-only"]


# Sharers that are not all known.


def test_too_many_references_while_not_all_sharers_are_known(opened: Opened) -> None:
    """Another device that shares the frame says nothing of itself: nothing is proved."""

    def change(kernel: SimulatedKernel) -> None:
        kernel.pagemap("dax1.0").pgmap["ranges[0].end"] = 0

    _, kernel = opened(ONE + OTHER, change)
    report = once(kernel)
    (one,) = [one for one in report.pagemaps if one.name == "dax0.0"]
    assert one.findings == ()
    outcome = {rule.rule: rule for rule in one.outcomes}["refcount-high"]
    assert "not all sharers could be read: not checked" in (outcome.reason or "")


def test_a_device_that_comes_unsettles_what_others_share(opened: Opened) -> None:
    """Their counts moved with it; a finding about them must be in two quiet passes."""

    def change(kernel: SimulatedKernel) -> None:
        kernel.memmap.add_refcount(kernel.shared_tails.frames[0, "ZONE_DEVICE", 9], 1)

    _, kernel = opened(ONE + OTHER, change)
    report = once(kernel)
    assert [f.rule for _, f in report.all_findings()] == ["refcount-high"]
    first = report.pagemaps[0].address
    quiet = Pagemaps().changed(report, kernel, kernel)
    assert quiet == set()
    fewer: Any = SimpleNamespace(
        pagemaps=kernel.pagemaps[:1], geometry=kernel.geometry, vmemmap=kernel.vmemmap
    )
    assert first in Pagemaps().changed(report, kernel, fewer)
