# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels in the middle of the series, as linux-next had them, and other layouts that it can have.

The order of a section was called ``order`` at first. ``vmemmap_shared_tail_page()`` and the
orders were there before devices used them, and zones had the array of 7.1 for longer. Which
of that a kernel has, members and symbols say; what a device maps decides the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vmemscope.audits.pagemaps import once
from vmemscope.kernel.vmemmap_tails import TailSlots, slots_of
from vmemscope.machine import Kernel
from vmemscope.sim import kernel as sim_kernel
from vmemscope.sim.layouts import Layouts
from vmemscope.sim.sparse import Sections

from .kernels import View, audit_core, image, write
from .test_coming import GIB, device, frames_of

COMING = Layouts.load("next")
#: of 7.2: with an array of slots
ZONE = Layouts.load("7.2")._named["struct", "zone"]
#: 2 sections of RAM at 0, and RAM with pages from boot in sections of order 18
RAM = """
[[node]]
start = 0
size = "256M"
[[node]]
start = 0x100000000
size = "2304M"
[[hugetlb]]
size = "1G"
count = 2
boot = true
restored = 1
[[hugetlb]]
count = 2
"""
#: whole sections of 2 MiB and 1 GiB pages, half a section, and one that begins in the middle
DEVICES = (
    device(0, 16 * GIB, 512 << 20, "2M")
    + device(1, 32 * GIB, 2 * GIB, "1G")
    + device(2, 48 * GIB, 64 << 20, "2M")
    + device(3, 64 * GIB + (64 << 20), 256 << 20, "2M")
)
PFNS = {
    "dax0.0": (0x400000, 0x420000),
    "dax1.0": (0x800000, 0x880000),
    "dax2.0": (0xC00000, 0xC04000),
    "dax3.0": (0x1004000, 0x1014000),
}


def layouts(
    order: str = "compound_page_order",
    *,
    array: bool = False,
    size: int | None = None,
    offsets: Mapping[str, int] | None = None,
) -> Layouts:
    """
    Return the coming kernel's types, with some others.

    :param order: name of the member of ``struct mem_section``
    :param array: whether zones have an array
    :param size: of ``struct mem_section``, in bytes
    :param offsets: of its members, in bits; it has no others
    """
    types: list[dict[str, Any]] = []
    for one in COMING.types:
        record = one
        if record["kind"] == "struct" and record.get("name") == "zone" and array:
            record = {**ZONE}
        elif record["kind"] == "struct" and record.get("name") == "mem_section":
            members = [
                [order if name == "compound_page_order" else name, kind, at]
                for name, kind, at in record["members"]
            ]
            if offsets is not None:
                members = [[n, kind, offsets[n]] for n, kind, _ in members if n in offsets]
            record = {**record, "members": members, "size": size or record["size"]}
        types.append(record)
    return Layouts(COMING.release, types)


class Snapshot(NamedTuple):
    """A state of the series."""

    order: str
    array: bool
    #: whether the kernel has vmemmap_shared_tail_page()
    function: bool
    #: whether devices share by zone, or in pairs still
    zone: bool


SNAPSHOTS = {
    "orders-for-hugetlb": Snapshot("order", array=True, function=False, zone=False),
    "function-for-hugetlb": Snapshot("order", array=True, function=True, zone=False),
    "renamed": Snapshot("compound_page_order", array=True, function=True, zone=False),
    "first-posting": Snapshot("order", array=True, function=True, zone=True),
    "array": Snapshot("compound_page_order", array=True, function=True, zone=True),
    "now": Snapshot("compound_page_order", array=False, function=True, zone=True),
}


def opened(snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a kernel of that state."""
    types = layouts(snapshot.order, array=snapshot.array)
    monkeypatch.setattr(sim_kernel.Layouts, "load", lambda _: types)
    if not snapshot.zone:
        orders = Sections.section_set_compound_order_range

        def of_ram(self: Sections, pfn: int, count: int, order: int) -> None:
            if pfn < PFNS["dax0.0"][0]:
                orders(self, pfn, count, order)

        monkeypatch.setattr(sim_kernel, "SectionVmemmap", sim_kernel.Vmemmap)
        monkeypatch.setattr(Sections, "section_set_compound_order_range", of_ram)
    built = image(f"{RAM}{DEVICES}", "next")
    if not snapshot.function:
        names = [one for one in built.kernel.image.symbols if "shared_tail" not in one.name]
        built.kernel.image.symbols = names
    return Path(write(built, tmp_path))


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_state_of_the_series(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = SNAPSHOTS[name]
    path = opened(snapshot, tmp_path, monkeypatch)
    kernel = Kernel.open_core(str(path))
    assert kernel.sections.orders is not None
    assert (slots_of(kernel.prog) is TailSlots.EMBEDDED) == snapshot.array
    done = audit_core(path)
    assert done.found() == set()
    # In pairs, half sections are shared, too; by zone, each page there has a frame.
    frames = (512, 4, 64, 256) if not snapshot.zone else (257, 3, 256, 2 * 256 + 64 + 1)
    pagemaps = {one.name: one for one in done.pgmap.pagemaps}
    view = View(str(path))
    for (device_name, pfns), expected in zip(PFNS.items(), frames, strict=True):
        assert len(frames_of(view, *pfns)) == expected
        assert pagemaps[device_name].frames.backing == expected
        assert pagemaps[device_name].frames.expected == expected
        shares = expected != 256 or pfns != PFNS["dax2.0"]
        assert (pagemaps[device_name].state == "deduplicated") == shares
    assert isinstance(done.pgmap.device_tails, tuple) == snapshot.zone
    # Of 1 GiB pages from boot, the optimized one has the zone's frame in each state.
    assert done.hugetlb.hstates[1].optimized == 1
    for counter in done.memmap.counters:
        assert counter.value == counter.expected
    added = done.memmap.counters[0].value
    assert added is not None
    # Those of the restored page, and of two heads: what zones share is not counted.
    since_boot = 4095 + 2
    counted = sum(frames) if not snapshot.zone else sum(frames) - 3
    assert added == counted + since_boot


@pytest.mark.parametrize(
    ("size", "offsets"),
    [
        (24, {"section_mem_map": 0, "usage": 64, "compound_page_order": 128}),
        (40, None),
        (48, None),
    ],
)
def test_sizes_that_no_page_is_a_multiple_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, offsets: dict[str, int] | None
) -> None:
    """The last bytes of a page of the section table hold no section."""
    types = layouts(size=size, offsets=offsets)
    monkeypatch.setattr(sim_kernel.Layouts, "load", lambda _: types)
    built = image(f"{RAM}{DEVICES}", "next")
    assert built.kernel.sections.sections_per_root == 4096 // size
    path = Path(write(built, tmp_path))
    kernel = Kernel.open_core(str(path))
    orders = kernel.sections.orders
    assert orders is not None
    found = dict(zip(kernel.sections.number.tolist(), orders.tolist(), strict=True))
    assert found == {nr: built.kernel.sections.compound_order(nr) for nr in found}
    assert {9, 18} <= set(found.values())
    assert audit_core(path).found() == set()


def test_half_a_section_in_an_early_kernel_that_shares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it maps decides: it says that it is plain, not that something is missing."""
    path = opened(SNAPSHOTS["array"], tmp_path, monkeypatch)
    (half,) = [one for one in once(Kernel.open_core(str(path))).pagemaps if one.name == "dax2.0"]
    assert (half.state, half.findings) == ("not-optimized", ())
    assert "no whole section" in (half.reason or "")
