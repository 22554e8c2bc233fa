# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulated vmcores against drgn and its own helpers."""

from __future__ import annotations

import numpy as np
import pytest
from drgn import FaultError, Object, Program, ProgramFlags, container_of, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.ioport import for_each_resource
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import (
    PageHead,
    PageReserved,
    PageTail,
    compound_head,
    compound_order,
    follow_phys,
    page_to_pfn,
    pfn_to_page,
    phys_to_virt,
    virt_to_phys,
)
from drgn.helpers.linux.mmzone import for_each_online_pgdat, for_each_present_section
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.percpu import per_cpu_ptr

from tests.kernels import KERNELS, PAGE, STRUCT_PAGE, View, image
from vmemscope.sim import build, builtin_scenarios, load_scenario

#: (first pfn, pfn after the last) of what the scenarios' pagemaps should be
RANGES = {
    "4-level": [(0x100000, 0x110000), (0x140000, 0x1C0000), (0x1D0000, 0x1D8000)],
    "5-level": [(0x100000, 0x110000), (0xE0000000, 0xE0080000), (0xFFD00000, 0xFFD08000)],
    "altmap": [(0x120000, 0x150000)],
    "coherent": [(0x2000000, 0x2010000)],
    "devdax-1g": [(0x140000, 0x200000)],
    "devdax-2m": [(0x100000, 0x120000)],
    "devdax-4k": [(0x100000, 0x110000)],
    "device-private": [(0x3FF0000, 0x4000000)],
    "early-1g": [(0x114000, 0x180000)],
    "early-section": [(0xA000, 0xE000)],
    "empty": [],
    "fsdax": [(0x210000, 0x220000)],
    "hugetlb": [],
    "hugetlb-boot": [],
    "interleaved-ranges": [
        (0x4000000, 0x4004000),
        (0x4004000, 0x4008000),
        (0x4008000, 0x4014000),
        (0x8000000, 0x8080000),
        (0x8080000, 0x8100000),
        (0x8100000, 0x8200000),
    ],
    "mixed": [
        (0x100000, 0x120000),
        (0x120000, 0x150000),
        (0x150000, 0x200000),
        (0x210000, 0x220000),
        (0x220000, 0x260000),
    ],
    "p2pdma": [(0x800000, 0x808000)],
    "partial-sections": [
        (0x1D0000, 0x1D4000),
        (0x1D4000, 0x1D8000),
        (0x1E2000, 0x1F0000),
        (0x1F2000, 0x1FDE00),
    ],
    "several-ranges": [(0x100000, 0x108000), (0x140000, 0x150000), (0x164000, 0x166000)],
    "two-nodes": [(0x140000, 0x150000), (0x180000, 0x190000), (0x1C0000, 0x1C8000)],
    "unaligned-1g": [(0x150000, 0x200000)],
    "unaligned-section-1g": [(0x104000, 0x1C0000)],
}


def ranges_of(pgmap):
    return [
        (pgmap.ranges[i].start.value_() // PAGE, (pgmap.ranges[i].end.value_() + 1) // PAGE)
        for i in range(pgmap.nr_range)
    ]


def test_all_scenarios_are_covered():
    assert sorted(RANGES) == builtin_scenarios()


@pytest.mark.parametrize("name", sorted(RANGES))
def test_plain_drgn_finds_a_kernel_and_its_pagemaps(dumps, name, kernel):
    prog = Program()
    prog.set_core_dump(dumps.core(name, kernel))
    assert prog.flags & ProgramFlags.IS_LINUX_KERNEL
    view = dumps.view(name, kernel)
    found = [r for pgmap, _ in view.pgmaps().values() for r in ranges_of(pgmap)]
    assert sorted(found) == RANGES[name]


@pytest.mark.parametrize("name", ["4-level", "5-level", "fsdax", "partial-sections", "altmap"])
def test_follow_phys_agrees_with_a_walk_by_hand(dumps, name, kernel):
    view = dumps.view(name, kernel)
    mm = view.prog["init_mm"].address_of_()
    for start, end in RANGES[name]:
        for va in range(view.page_va(start), view.page_va(min(end, start + 4096)), PAGE):
            _, shift, _, entry = view.leaf(va)
            mask = (1 << shift) - 1
            assert follow_phys(mm, va) == entry & 0xFFFFFFFFFF000 & ~mask | va & mask


@pytest.mark.parametrize("name", ["devdax-2m", "devdax-1g", "4-level"])
def test_compound_pages(dumps, name, kernel):
    view = dumps.view(name, kernel)
    for pgmap, _ in view.pgmaps().values():
        order = pgmap.vmemmap_shift.value_()
        if not order:
            continue
        for start, end in ranges_of(pgmap):
            for head in range(start, end, 1 << order):
                page = pfn_to_page(view.prog, head)
                assert page_to_pfn(page) == head
                assert PageHead(page)
                assert compound_order(page) == order
                for tail in (1, 2, 3, 63, 64, 127, 128, (1 << order) - 1):
                    tail_page = pfn_to_page(view.prog, head + tail)
                    assert PageTail(tail_page)
                    assert not PageHead(tail_page)
                    assert PageReserved(tail_page)
                    assert compound_head(tail_page) == page


@pytest.mark.parametrize("name", ["empty", "mixed", "early-section", "4-level", "5-level"])
def test_present_sections(dumps, name, kernel):
    view = dumps.view(name, kernel)
    ram_end = 0x40000 if name == "mixed" else 0x10000
    expected = set(range(ram_end >> 15))
    for start, end in RANGES[name]:
        expected |= set(range(start >> 15, (end - 1 >> 15) + 1))
    found = list(for_each_present_section(view.prog))
    assert sorted(nr for nr, _ in found) == sorted(expected)
    last_bit = view.prog["SECTION_MAP_LAST_BIT"].value_()
    for _, section in found:
        assert section.section_mem_map.value_() >> last_bit << last_bit == view.vmemmap
        assert section.usage.subsection_map[0].value_() == 2**64 - 1


def test_section_flags(dumps, kernel):
    """KERNEL-FACTS section 3: RAM 0xf, pmem full 0x3, partial 0x13, early and pmem 0x1f."""
    flags = {}
    for name in ("partial-sections", "early-section"):
        view = dumps.view(name, kernel)
        mask = (1 << view.prog["SECTION_MAP_LAST_BIT"].value_()) - 1
        flags[name] = {
            nr: section.section_mem_map.value_() & mask
            for nr, section in for_each_present_section(view.prog)
        }
    assert flags["early-section"] == {0: 0xF, 1: 0x1F}
    partial = flags["partial-sections"]
    assert partial[0x1D0000 >> 15] == 0x13
    assert partial[0x1E0000 >> 15] == 0x13
    assert partial[0x1E8000 >> 15] == 0x3
    assert partial[0x1F8000 >> 15] == 0x13


def test_subsections(dumps, kernel):
    view = dumps.view("partial-sections", kernel)
    bits = {
        nr: section.usage.subsection_map[0].value_()
        for nr, section in for_each_present_section(view.prog)
    }
    # 64M + 64M in one section, by two pagemaps; from 32M on; up to 60M less 4M.
    assert bits[0x1D0000 >> 15] == 2**64 - 1
    assert bits[0x1E0000 >> 15] == 2**64 - 2**16
    assert bits[0x1F8000 >> 15] == 2**47 - 1


def test_resources(dumps, kernel):
    view = dumps.view("mixed", kernel)
    found = [
        (r.start.value_(), r.end.value_(), r.name.string_().decode(), r.desc.value_())
        for r in for_each_resource(view.prog["iomem_resource"].address_of_())
        if r.start >= 1 << 32
    ]
    # As the five-device guest of 6.1 printed it in /proc/iomem.
    assert found == [
        (0x100000000, 0x11FFFFFFF, "Persistent Memory", 4),
        (0x100000000, 0x1001FFFFF, "namespace0.0", 4),
        (0x100200000, 0x11FFFFFFF, "dax0.0", 4),
        (0x120000000, 0x14FFFFFFF, "Persistent Memory", 4),
        (0x120000000, 0x120DFFFFF, "namespace3.0", 4),
        (0x120E00000, 0x14FFFFFFF, "dax3.0", 4),
        (0x150000000, 0x20FFFFFFF, "Persistent Memory", 4),
        (0x150000000, 0x17FFFFFFF, "namespace1.0", 4),
        (0x180000000, 0x1FFFFFFFF, "dax1.0", 4),
        (0x210000000, 0x21FFFFFFF, "Persistent Memory", 4),
        (0x210000000, 0x21FFFFFFF, "namespace4.0", 4),
        (0x220000000, 0x25FFFFFFF, "Persistent Memory", 4),
        (0x220000000, 0x2201FFFFF, "namespace2.0", 4),
        (0x220200000, 0x25FFFFFFF, "dax2.0", 4),
    ]


def dax_devices(prog):
    if prog["dax_bus_type"].type_.has_member("p"):
        private = prog["dax_bus_type"].p
    else:
        (private,) = (
            private
            for private in list_for_each_entry(
                "struct subsys_private", prog["bus_kset"].list.address_of_(), "subsys.kobj.entry"
            )
            if private.bus == prog["dax_bus_type"].address_of_()
        )
    for device_private in list_for_each_entry(
        "struct device_private",
        private.klist_devices.k_list.address_of_(),
        "knode_bus.n_node",
    ):
        assert device_private.device.bus == prog["dax_bus_type"].address_of_()
        yield container_of(device_private.device, "struct dev_dax", "dev")


@pytest.mark.parametrize("name", ["mixed", "several-ranges"])
def test_dax_bus(dumps, name, kernel):
    view = dumps.view(name, kernel)
    found = {}
    for dev_dax in dax_devices(view.prog):
        ranges = [
            (dev_dax.ranges[i].range.start.value_(), dev_dax.ranges[i].range.end.value_())
            for i in range(dev_dax.nr_range)
        ]
        assert dev_dax.pgmap.value_() in view.pgmaps()
        found[dev_dax.dev.kobj.name.string_().decode()] = dev_dax.align.value_(), ranges
    if name == "mixed":
        assert found == {
            "dax0.0": (0x200000, [(0x100200000, 0x11FFFFFFF)]),
            "dax3.0": (0x200000, [(0x120E00000, 0x14FFFFFFF)]),
            "dax1.0": (0x40000000, [(0x180000000, 0x1FFFFFFFF)]),
            "dax2.0": (0x1000, [(0x220200000, 0x25FFFFFFF)]),
        }
    else:
        ranges = [(start * PAGE, end * PAGE - 1) for start, end in RANGES[name]]
        assert found == {"dax0.0": (0x200000, ranges)}


def test_fsdax_disk_and_ops(dumps, kernel):
    view = dumps.view("fsdax", kernel)
    pgmap = view.pgmap
    disk = view.prog.read_u64(pgmap.value_() - 8)
    gendisk = Object(view.prog, "struct gendisk", address=disk)
    assert gendisk.disk_name.string_() == b"pmem1"
    (module,) = for_each_module(view.prog)
    assert module.name.string_() == b"nd_pmem"
    kallsyms = module.kallsyms
    symbols = {
        (kallsyms.strtab + kallsyms.symtab[i].st_name).string_(): kallsyms.symtab[i].st_value
        for i in range(1, kallsyms.num_symtab)
    }
    assert symbols[b"fsdax_pagemap_ops"] == pgmap.ops.value_()


def test_percpu_refs(dumps, kernel):
    """KERNEL-FACTS section 1: the sum is pfn_len, the shared counter bias + 1."""
    view = dumps.view("mixed", kernel)
    sums = {}
    for pgmap, _ in view.pgmaps().values():
        pointer = Object(view.prog, "unsigned long *", pgmap.ref.percpu_count_ptr)
        total = sum(
            per_cpu_ptr(pointer, cpu)[0].value_() for cpu in for_each_possible_cpu(view.prog)
        )
        sums[pgmap.range.start.value_()] = total % 2**64
        assert pgmap.ref.data.count.counter.value_() % 2**64 == 0x8000000000000001
    assert sums == {
        0x100000000: 256,
        0x120000000: 377,
        0x150000000: 2,
        0x210000000: 65536,
        0x220000000: 262144,
    }


@pytest.mark.parametrize("name", ["device-private", "coherent"])
def test_no_refs_of_private_memory(dumps, name, kernel):
    view = dumps.view(name, kernel)
    pointer = Object(view.prog, "unsigned long *", view.pgmap.ref.percpu_count_ptr)
    for cpu in for_each_possible_cpu(view.prog):
        assert per_cpu_ptr(pointer, cpu)[0].value_() == 0


def test_xarray_entries(dumps, kernel):
    """KERNEL-FACTS section 1: 0x120000..0x14ffff gives two entries."""
    view = dumps.view("altmap", kernel)
    ((_, indices),) = view.pgmaps().values()
    assert indices == [0x120000, 0x140000]


def test_nodes(dumps, kernel):
    view = dumps.view("two-nodes", kernel)
    device = view.prog["ZONE_DEVICE"]
    found = {}
    for pgdat in for_each_online_pgdat(view.prog):
        zone = pgdat.node_zones[device]
        assert zone.name.string_() == b"Device"
        assert zone.present_pages == 0
        assert zone.managed_pages.counter == 0
        start = zone.zone_start_pfn.value_()
        found[pgdat.node_id.value_()] = start, start + zone.spanned_pages.value_()
    assert found == {0: (0x140000, 0x150000), 1: (0x180000, 0x1C8000)}


def test_struct_pages_are_on_the_devices_node(dumps, kernel):
    view = dumps.view("two-nodes", kernel)
    for (start, end), node in zip(RANGES["two-nodes"], (0, 1, 1), strict=True):
        assert view.words(start)[0] >> 54 == node
        for _, _, pfn, _ in view.leaves_of(start, end):
            assert view.words(pfn)[0] >> 54 == node
            assert (pfn >= 0x100000) == bool(node)


def test_free_lists(dumps, kernel):
    """Blocks on the free lists are what the counters say, and lie in their zone."""
    view = dumps.view("two-nodes", kernel)
    prog = view.prog
    total = 0
    for pgdat in for_each_online_pgdat(prog):
        for zone in pgdat.node_zones:
            for order in range(11):
                area = zone.free_area[order]
                count = 0
                for head in area.free_list:
                    for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
                        count += 1
                        pfn = page_to_pfn(page).value_()
                        start = zone.zone_start_pfn.value_()
                        assert start <= pfn < start + zone.spanned_pages.value_()
                        assert pfn % (1 << order) == 0
                        assert page.private == order
                        assert page._refcount.counter == 0
                assert count == area.nr_free
                total += count << order
    assert 0 < total < prog["_totalram_pages"].counter.value_()


def test_struct_pages_of_ram(dumps, kernel):
    """Without devices, frames are reserved since boot, allocated one by one, or free."""
    # But for tasks, which are larger than a page: only the first of them is counted.
    view = dumps.view("empty", kernel)
    pages = np.frombuffer(view.prog.read(view.vmemmap, 0x10000 * STRUCT_PAGE), "<u8")
    pages = pages.reshape(-1, 8)
    refcount = pages[:, 6] >> 32
    reserved = pages[:, 0] >> view.prog["PG_reserved"].value_() & 1 == 1
    free = sum(
        area.nr_free.value_() << order
        for pgdat in for_each_online_pgdat(view.prog)
        for zone in pgdat.node_zones
        for order, area in enumerate(zone.free_area)
    )
    head = view.prog["init_task"].tasks.address_of_()
    tasks = sum(1 for _ in list_for_each_entry("struct task_struct", head, "tasks"))
    pages_of_task = 1 << (sizeof(view.prog.type("struct task_struct")) - 1).bit_length() - 12
    assert tasks == 4
    assert (refcount == 0).sum() == free + tasks * (pages_of_task - 1)
    assert reserved[:0x100].all()
    assert refcount[reserved].min() == 1
    zone = pages[:, 0] >> 51 & 7
    assert (zone[:0x1000] == view.prog["ZONE_DMA"].value_()).all()
    assert (zone[0x1000:] == view.prog["ZONE_DMA32"].value_()).all()


def test_boot_memmap_frames_are_reserved(dumps, kernel):
    """Seen on real kernels: PG_reserved, one reference from memblock, one from bootmem info."""
    view = dumps.view("empty", kernel)
    reserved = 1 << view.prog["PG_reserved"].value_()
    for va in range(view.vmemmap, view.vmemmap + 2 * (2 << 20), 2 << 20):
        _, shift, _, entry = view.leaf(va)
        assert shift == 21
        assert entry & ~0xFFFFFFFFFF000 == 0x80000000000001E3
        pfn = (entry & 0xFFFFFFFFFF000) >> 12
        for frame in (pfn, pfn + 1, pfn + 511):
            assert view.words(frame)[0] & reserved
            assert view.refcount(frame) == 2


def test_direct_map_and_image(dumps, kernel):
    view = dumps.view("mixed", kernel)
    prog = view.prog
    va = phys_to_virt(prog, 0x100000)
    assert virt_to_phys(va).value_() == 0x100000
    assert follow_phys(prog["init_mm"].address_of_(), va).value_() == 0x100000
    # Device memory is in the direct map, too.
    va = phys_to_virt(prog, 0x220000000)
    assert follow_phys(prog["init_mm"].address_of_(), va).value_() == 0x220000000
    assert prog["init_uts_ns"].name.release.string_().decode() == view.keys["OSRELEASE"]
    assert prog["init_mm"].pgd.value_() == int(view.keys["SYMBOL(swapper_pg_dir)"], 16)


def test_private_memory_is_not_in_the_direct_map(dumps, kernel):
    view = dumps.view("device-private", kernel)
    assert view.leaf(phys_to_virt(view.prog, 0x3FF0000000).value_()) is None


def test_kernel_base_variables(dumps, kernel):
    view = dumps.view("4-level", kernel)
    assert view.prog["vmemmap_base"].value_() == view.vmemmap
    assert view.prog["__pgtable_l5_enabled"].value_() == 0
    assert view.keys["NUMBER(MAX_PHYSMEM_BITS)"] == "46"
    assert dumps.view("5-level", kernel).keys["NUMBER(MAX_PHYSMEM_BITS)"] == "52"


def test_seed_moves_the_kernel():
    scenario = load_scenario("empty")
    same, again = build(scenario), build(scenario)
    assert same.vmcoreinfo == again.vmcoreinfo
    text = {build(scenario, kernel=kernel).kernel.addresses.text for kernel in KERNELS}
    assert len(text) == len(KERNELS)


def test_dumps_are_sparse(dumps):
    core = dumps.core("mixed", "6.1")
    status = core.stat()
    assert status.st_blocks * 512 < status.st_size


def test_writing_reports_errors(dumps, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        image("empty", "6.1").write(tmp_path / "no" / "vmcore")


def test_pages_that_nothing_was_written_to_are_absent(dumps):
    view = View(dumps.core("empty", "6.1"))
    with pytest.raises(FaultError):
        view.prog.read(0x8000000, 8, physical=True)


def test_nr_memmap_pages(dumps):
    """
    KERNEL-FACTS section 6: 512 + 3072 + 4 + 1024 + 4096; 4, not the real 6, for
    the map off its 1G boundary. No such counter in 6.1.
    """
    for kernel in ("6.12", "7.2"):
        view = dumps.view("mixed", kernel)
        assert view.prog["nr_memmap_pages"].counter.value_() == 8708
        assert view.prog["nr_memmap_boot_pages"].counter.value_() == 4096
    early = dumps.view("early-1g", "7.2")
    assert early.prog["nr_memmap_pages"].counter.value_() == 2
