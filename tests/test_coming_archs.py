# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The coming kernel on ppc64 with the radix MMU, which shares tail pages by node, and on s390x,
which shares nothing.

Expected are the rules of ``radix_pgtable.c`` for each page of the vmemmap, by its address alone:
a frame of its own where a compound page starts, the frame of the node elsewhere; and what parts
of sections and large leaves that are there already get.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from msgspec import UnsetType

from vmemscope.errors import UsageError
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.kernel import SimulatedKernel

from .arch_matrix import EXISTING_LEAF, UNEVEN, audited_fault, holds
from .kernels import COMING_FAULTS, DEVICE, Audited, Dumps, able, audit_core, image, write

RADIX = ("ppc64le", "ppc64le-64k")
#: faults that can't be there: of RAM's sections, which no large leaf has alone, and of slots of
#: 2 MiB pages, which are too small with pages of 64 KiB
NO_FAULT = {"ppc64le": {"ram-order"}, "ppc64le-64k": {"ram-order", "ram-order-small"}}
SLOTS = {"slot-empty", "slot-other-order", "slot-wild"}


def mapped(kernel: SimulatedKernel, start: int) -> dict[int, int]:
    """Return the vpages of the device at an address that base pages map, and the frame of each."""
    size, units, found = kernel.addresses.struct_page_size, kernel.units, {}
    (record,) = (one for one in kernel.pagemaps if one.ranges[0][0] << units.page_shift == start)
    for first, end in record.ranges:
        for vpage in range(first * size // units.page_size, -(-end * size // units.page_size)):
            leaf = kernel.tables.leaf(kernel.addresses.vmemmap_base + vpage * units.page_size)
            assert leaf is not None
            if leaf[0] == units.page_shift:
                found[vpage] = kernel.tables.frame(leaf[1])
    return found


def check_sharing(done: Audited, kernel: SimulatedKernel) -> int:
    """Compare what is reported of shared frames with the vpages; return how many there are."""
    slots = {(nid, order): pfn for (nid, _, order), pfn in kernel.shared_tails.frames.items()}
    entries: Counter[int] = Counter()
    for one in done.pgmap.pagemaps:
        pages = mapped(kernel, one.ranges[0].start)
        entries.update(pfn for pfn in pages.values() if pfn in slots.values())
        if one.state != "deduplicated":
            continue
        shift = one.vmemmap_shift or 0
        compound = (kernel.addresses.struct_page_size << shift) // kernel.units.page_size
        sections = kernel.units.pages_per_section
        size = kernel.addresses.struct_page_size
        for vpage, pfn in pages.items():
            section = vpage * kernel.units.page_size // size // sections
            if kernel.sections.compound_order(section) == shift:
                assert (pfn in slots.values()) == bool(vpage % compound)
    tails = done.pgmap.device_tails
    reported = {} if isinstance(tails, UnsetType) else {one.pfn: one for one in tails}
    assert reported.keys() == {pfn for pfn in entries if entries[pfn]}
    for pfn, one in reported.items():
        assert slots[one.node or 0, one.order] == pfn
        assert (one.entries, one.refcount) == (entries[pfn], entries[pfn] + 1)
    return len(reported)


@pytest.mark.parametrize("name", builtin_scenarios())
@pytest.mark.parametrize("arch", RADIX)
def test_ppc64_shares_by_node(tmp_path: Path, arch: str, name: str) -> None:
    built = image(name, f"next@{arch}")
    done = audit_core(Path(write(built, tmp_path)))
    found = {(one.command, one.rule) for one in done.found()}
    if name in UNEVEN:
        assert ("pgmap", "mask-alignment") in found
        return
    left_out = {("pgmap", "page-uninitialised")} if (arch, name) in EXISTING_LEAF else set()
    assert found == left_out
    shared = check_sharing(done, built.kernel)
    deduplicated = [one for one in done.pgmap.pagemaps if one.state == "deduplicated"]
    assert bool(shared) >= bool(deduplicated)
    for one in deduplicated:
        assert one.frames.backing == one.frames.expected < one.vmemmap.pages
    for counter in done.memmap.counters:
        assert counter.value == counter.expected


@pytest.mark.parametrize("name", builtin_scenarios())
def test_s390x_shares_nothing(tmp_path: Path, name: str) -> None:
    """Its sections have no orders, and their bits are as low as elsewhere."""
    try:
        built = image(name, "next@s390x")
    except UsageError:
        # As with 7.2, for reasons that have nothing to do with the kernel.
        with pytest.raises(UsageError):
            image(name, "7.2@s390x")
        return
    assert not built.kernel.sections.have_orders
    assert built.kernel.sections.flag("HAS_MEM_MAP") == 1
    done = audit_core(Path(write(built, tmp_path)))
    assert done.found() == set()
    assert {one.state for one in done.pgmap.pagemaps} <= {"not-optimized"}
    assert isinstance(done.pgmap.device_tails, UnsetType)
    for one in done.pgmap.pagemaps:
        assert one.frames.backing == one.frames.expected == one.vmemmap.pages


@pytest.mark.parametrize("fault", sorted(COMING_FAULTS))
@pytest.mark.parametrize("arch", RADIX)
def test_faults_of_the_coming_kernel(dumps: Dumps, arch: str, fault: str) -> None:
    assert able(fault, ("next",))
    done = audited_fault(dumps, fault, arch, ("next",))
    expected = {one for one in done.expected() if holds(one.rule, arch)}
    if fault in NO_FAULT[arch]:
        # A leaf has the memory map of several sections: it does not say how one is populated.
        expected = {one for one in expected if one.rule != "ram-order"}
    if arch == "ppc64le-64k" and fault in SLOTS:
        # The slot is of compound pages that none of its devices has.
        assert done.found() == set()
        return
    assert done.found() == expected


def test_there_is_no_order_to_set() -> None:
    text = DEVICE + '[[fault]]\nkind = "ram-order"\npagemap = "dax0.0"\n'
    with pytest.raises(UsageError, match="the sections of this kernel have no orders"):
        image(text, "next@s390x")
