# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A kernel: boots on a scenario's machine, then brings up its devices.

In: a :class:`.Scenario`. Out: physical memory as that kernel would have left
it, and the VMCOREINFO that tells where to begin to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np

from ..errors import UsageError
from .addresses import IMAGE_SIZE, STRUCT_PAGE_SIZE
from .architectures import ARCHITECTURES
from .boot_hugepages import BootHugePages
from .devices import DaxBus, Devices, PagemapRecord
from .hugetlb import Hugetlb
from .hugetlb_pool import change_pool
from .kernel_image import KernelImage
from .layouts import Layouts
from .memmap import MemMap
from .memory import Memory
from .memory_hotplug import MemoryHotplug
from .memremap import Memremap
from .modules import Modules
from .nodes import MAX_NUMNODES, Nodes
from .objects import KernelMemory, Struct
from .page_alloc import Memblock, PageAllocator
from .pagetable import KERNEL, KERNEL_LARGE, KERNEL_LARGE_EXEC_RO, KERNEL_LARGE_RO, PageTables
from .percpu import NR_CPUS, Percpu
from .printk import fill
from .radix import RadixVmemmap
from .ram import LOW_RAM_END, by_zone, merge_runs, ram_without_carve_outs
from .resource import IORESOURCE_BUSY, IORESOURCE_MEM, IORESOURCE_SYSTEM_RAM, Resources
from .scenario import Pagemap, Scenario, scaled
from .section_vmemmap import RadixSectionVmemmap, SectionVmemmap
from .shared_tails import SLOTS_SIZE, SharedTails
from .slab import Slab
from .sparse import Sections
from .tasks import Tasks
from .units import MIB, PHYSICAL_MASK
from .versions import BEHAVIOUR
from .vmemmap import Vmemmap
from .xarray import XArray

__all__ = ("SimulatedKernel",)

_PERCPU_SIZE = 16 << 10


class SimulatedKernel:
    """The state of a simulated kernel."""

    #: what populates the vmemmap, if not the architecture's; ``bench.sparse`` has its own
    vmemmap_type: type[Vmemmap] | None = None

    def __init__(self, scenario: Scenario) -> None:
        scenario = scaled(scenario)
        self.scenario = scenario
        self.arch = ARCHITECTURES[scenario.arch]
        self.units = self.arch.units
        self.layouts = Layouts.load(scenario.kernel)
        if not (self.arch.hvo or self.arch.deduplicates):
            self.layouts = self.layouts.without_orders()
        if self.units.subsections != 64:
            self.layouts = self.layouts.with_subsections(self.units.subsections)
        if scenario.struct_page != STRUCT_PAGE_SIZE:
            self.layouts = self.layouts.resized(scenario.struct_page)
        if scenario.randstruct:
            self.layouts = self.layouts.shuffled(Random(scenario.seed))
        self.behaviour = BEHAVIOUR[scenario.kernel]
        #: options that the kernel lacks
        self.off = (*scenario.off, *self.arch.off)
        self.sme_mask = 1 << scenario.sme_bit if scenario.sme_bit else 0
        self.random = Random(f"{scenario.seed} {scenario.kernel} {scenario.levels}")
        self.physical = Memory(self.units)
        self.build_id = f"{self.random.getrandbits(160):040x}"
        #: frames of RAM: first pfn, pfn after the last, node
        self.ram = ram_without_carve_outs(scenario, self.units)
        self._choose_addresses()
        self._setup_page_tables()
        self._setup_sections()
        self._setup_nodes()
        self._mm_init()
        self._driver_init()
        hotplug = MemoryHotplug(
            self.memremap, self.iomem, self.nodes, self.slab, self.ram, self.managed, self.random
        )
        for block in scenario.blocks:
            hotplug.add_memory(block)
        #: pagemaps in the scenario's order
        self.pagemaps = [
            self.devices.probe(spec, self._is_legacy(spec)) for spec in scenario.pagemaps
        ]
        self.hugetlb = Hugetlb(
            self.image,
            self.nodes,
            self.vmemmap,
            self.behaviour,
            self.shared_tails,
            self.sections,
            any(pages.optimized for pages in scenario.hugetlb),
        )
        for pages, boot in zip(scenario.hugetlb, self.boot_huge.pages, strict=True):
            change_pool(self.hugetlb, self.hugetlb.allocate(pages, boot), pages)
        #: done when all else has been written
        self.last_steps: list[Callable[[], None]] = []
        #: what counters of the memory map are to be off by
        self.counters: dict[str, int] = {}
        if self.behaviour.vmcoreinfo_vmemmap:
            # Both came in between 6.1 and 6.12.
            self.counters = dict.fromkeys(("nr_memmap_pages", "nr_memmap_boot_pages"), 0)
            for name in self.counters:
                self.image.define(name, 8, "data", static=True)
        init_task = self.image.define_struct("init_task", "task_struct")
        self.tasks = Tasks(self.memory, self.slab, self.pages, self.tables, init_task)

    def pagemap(self, name: str) -> PagemapRecord:
        """Return a pagemap by its device's name."""
        for record in self.pagemaps:
            if record.name == name:
                return record
        raise KeyError(name)

    @property
    def memory_end(self) -> int:
        """The page frame after all RAM and devices."""
        ends = [end for _, end, _ in self.ram]
        ends += [block.end >> self.units.page_shift for block in self.scenario.blocks]
        return max(ends + [end for record in self.pagemaps for _, end in record.ranges])

    # Boot, until there is a page allocator.

    def _choose_addresses(self) -> None:
        units = self.units
        last = max(end for _, end, _ in self.ram) << units.page_shift
        last = max([last, *(block.end for block in self.scenario.blocks)])
        last = max([last, *(s + n for p in self.scenario.pagemaps for s, n in p.ranges)])
        low_end = next(end for start, end, _ in self.ram if start == MIB >> units.page_shift)
        self.addresses = self.arch.addresses(
            self.scenario.levels, last, low_end << units.page_shift, self.random
        )
        self.addresses = replace(
            self.addresses,
            struct_page_size=self.scenario.struct_page,
            page_shift=units.page_shift,
        )
        if last > 1 << self.addresses.max_physmem_bits:
            raise UsageError(f"scenario {self.scenario.name}: memory ends above what paging allows")
        self.memory = KernelMemory(self.physical, self.addresses, self.layouts, self.arch)
        self.image = KernelImage(self.memory)
        self.memblock = Memblock(self.ram)
        self.memblock.reserve(0, MIB >> units.page_shift)
        text = self.addresses.text_phys >> units.page_shift
        self.memblock.reserve(text, text + (IMAGE_SIZE >> units.page_shift))
        self._boot_heap = (0, 0)

    def _memblock_alloc(self, size: int) -> int:
        """Return zeroed boot memory, as a virtual address."""
        units = self.units
        size = -(-size // 64) * 64
        va, left = self._boot_heap
        if size > left:
            count = -(-size // units.page_size)
            pfn = self.memblock.alloc(count)
            self.physical.make(pfn, count)
            va, left = (
                self.addresses.va(pfn << units.page_shift),
                count << units.page_shift,
            )
        self._boot_heap = (va + size, left - size)
        return va

    def _setup_page_tables(self) -> None:
        levels = self.arch.levels[self.scenario.levels]
        size = max(8 << levels[0][1], self.units.page_size)
        pgd = self.image.define("swapper_pg_dir", size, align=size)
        self.image.label("init_top_pgt", pgd)
        self.tables = PageTables(
            self.physical,
            levels,
            self.addresses.va_to_pfn(pgd),
            self._alloc_boot_table,
        )
        for pfn in range(self.tables.root, self.tables.root + size // self.units.page_size):
            self.physical.page(pfn)
        if not self.arch.maps_memory:
            return
        va, pa = self.addresses.text, self.addresses.text_phys
        for i, flags in enumerate(
            (KERNEL_LARGE_EXEC_RO, KERNEL_LARGE_RO, KERNEL_LARGE, KERNEL_LARGE)
        ):
            part = IMAGE_SIZE // 4
            self.tables.map_range(va + i * part, pa + i * part, part, flags)
        for start, end in merge_runs((ram.start, ram.end) for ram in self.scenario.ram):
            self.tables.map_range(self.addresses.va(start), start, end - start, KERNEL_LARGE)

    def _setup_sections(self) -> None:
        """``sparse_init()``: sections with RAM get a memory map, mapped with large leaves."""
        units = self.units
        bits = self.addresses.max_physmem_bits - units.section_bits
        per_root = units.page_size // self.layouts.sizeof("mem_section")
        self.section_roots = -(-(1 << bits) // per_root)
        self.mem_section = self._memblock_alloc(self.section_roots * 8)
        self.sections = Sections(
            self.memory,
            self.mem_section,
            self.section_roots,
            self._memblock_alloc,
            self.behaviour.pageblock_bits,
        )
        # hugetlb_bootmem_alloc()
        self.boot_huge = BootHugePages(
            self.scenario.hugetlb,
            self.memblock,
            self.sections,
            self.tables,
            self.addresses,
            self.arch,
        )
        flags = self.sections.flag("IS_EARLY") | self.sections.flag("IS_ONLINE")
        #: section -> pfns of the blocks, of a leaf each, that were allocated for its memory map
        self.boot_memmap: dict[int, list[int]] = {}
        for start, end, nid in self.ram:
            for nr in range(
                start // units.pages_per_section, (end - 1) // units.pages_per_section + 1
            ):
                if nr not in self.boot_memmap:
                    self.boot_memmap[nr] = self._boot_memmap(nr, nid)
                    self.sections.init_one(nr, self.addresses.vmemmap_base, flags)
                # subsection_map_init(); the kernel counts the holes in the
                # first megabyte in.
                first = max(start, nr * units.pages_per_section)
                count = min(end, (nr + 1) * units.pages_per_section) - first
                self.sections.fill_subsection_map(first, count)
        #: what the kernel counts of it
        self.boot_pages = sum(map(self._boot_pages, self.boot_memmap))

    def _boot_memmap(self, nr: int, nid: int) -> list[int]:
        """
        ``vmemmap_populate_hugepages()``: map the memory map of a section.

        :return: the blocks that were not there already, for a neighbouring section
        """
        units = self.units
        if self.sections.compound_order(nr):
            self.boot_huge.populate(nr, nid)
            return []
        start = self.addresses.pfn_to_page(nr * units.pages_per_section)
        end = self.addresses.pfn_to_page((nr + 1) * units.pages_per_section)
        blocks = []
        count = units.leaf_pages
        size = count * units.page_size
        shift = size.bit_length() - 1
        for va in range(start // size * size, end, size):
            if not self.tables.entry(va, shift):
                blocks.append(self.memblock.alloc(count, count, nid))
                flags = KERNEL_LARGE if units.large_leaves else KERNEL
                self.tables.set(va, shift, self.tables.pte(blocks[-1], flags))
        return blocks

    def _boot_pages(self, nr: int) -> int:
        """``section_nr_vmemmap_pages()`` of a section that was there at boot."""
        units, order = self.units, self.sections.compound_order(nr)
        if not order:
            size = units.pages_per_section * self.addresses.struct_page_size
            return -(-size // units.page_size)
        if 1 << order < units.pages_per_section:
            return units.pages_per_section >> order
        return int(nr * units.pages_per_section % (1 << order) == 0)

    def _setup_nodes(self) -> None:
        units = self.units
        pgdats = {}
        count = -(-self.layouts.sizeof("pglist_data") // units.page_size)
        for nid in sorted({nid for _, _, nid in self.ram}):
            if "NUMA" in self.off:
                size = count * units.page_size
                pgdats[nid] = self.image.define("contig_page_data", size, "data", units.page_size)
                continue
            pfn = self.memblock.alloc(count, nid=nid)
            self.physical.make(pfn, count)
            pgdats[nid] = self.addresses.va(pfn << units.page_shift)
        node_data = self.image.define("node_data", MAX_NUMNODES * 8, "bss")
        states = self.layouts.constant("NR_NODE_STATES")
        mask = self.layouts.sizeof("nodemask_t")
        node_states = self.image.define("node_states", states * mask)
        self.nodes = Nodes(self.memory, self.ram, pgdats, node_data, node_states)
        names = {}
        for zone, name in self.nodes.zone_names().items():
            names[zone] = self.image.room("rodata", len(name) + 1, 1)
            self.memory.write(names[zone], name + b"\0")
        self.nodes.set_zone_names(names)
        areas = [self._memblock_alloc(_PERCPU_SIZE) for _ in range(NR_CPUS)]
        start = self.image.room("data", _PERCPU_SIZE) if self.behaviour.percpu_in_image else 0
        self.percpu = Percpu(self.memory, start, areas, _PERCPU_SIZE)
        embedded = self.layouts.has_member("zone", "vmemmap_tails[0]")
        for nid, zone, _ in self.boot_huge.tails:
            # vmemmap_tails_alloc()
            struct_zone = self.nodes.zone(nid, zone)
            if not embedded and not struct_zone["vmemmap_tails"]:
                struct_zone["vmemmap_tails"] = self._memblock_alloc(SLOTS_SIZE)

    # From here on frames have struct pages that say what they are used for.

    def _mm_init(self) -> None:
        """``memmap_init()``, ``memblock_free_all()``: struct pages of RAM."""
        self.memmap = MemMap(self.memory, self.tables, self.ram, self.off)
        free = [(run.start, run.end, run.nid) for run in self.memblock.runs]
        for nr, blocks in self.boot_memmap.items():
            # MEMBLOCK_RSRV_NOINIT: HugeTLB initialises those of its own pages.
            if not self.sections.compound_order(nr):
                self._init_section_memmap(nr, blocks, free)
        self.pages = PageAllocator(free, self.memmap)
        self.tables.alloc = self._alloc_table
        self.managed: dict[tuple[int, str], int] = {}
        for start, end, nid in free:
            for zone, count in by_zone(self.memmap, start, end):
                key = nid, zone
                self.managed[key] = self.managed.get(key, 0) + count
        for pages, pfns in zip(self.scenario.hugetlb, self.boot_huge.pages, strict=True):
            # adjust_managed_page_count(), in gather_bootmem_prealloc_node()
            for pfn in pfns:
                key = pages.nid, self.units.zone_of(pfn)
                order = self.units.huge_orders[pages.gigantic]
                self.managed[key] = self.managed.get(key, 0) + (1 << order)
        self._register_bootmem_info()
        self.slab = Slab(self.memory, self.pages, self.memmap)
        self.sections.alloc = self.slab.alloc
        self.shared_tails = SharedTails(
            self.nodes, self.memmap, self.pages, self.slab.alloc, self.boot_huge.tails
        )
        kind = self.vmemmap_type or (RadixVmemmap if self.arch.radix else Vmemmap)
        if self.sections.have_orders:
            kind = RadixSectionVmemmap if self.arch.radix else SectionVmemmap
        self.vmemmap = kind(
            self.physical,
            self.tables,
            self.pages,
            self.memmap,
            self.addresses,
            self.behaviour,
            self.arch,
        )
        if isinstance(self.vmemmap, SectionVmemmap):
            self.vmemmap.sections, self.vmemmap.tails = self.sections, self.shared_tails

    def _init_section_memmap(
        self, nr: int, blocks: list[int], free: list[tuple[int, int, int]]
    ) -> None:
        """
        Write the struct pages of a section. What is not RAM
        (``init_unavailable_range()``) and what memblock handed out is reserved.
        """
        units = self.units
        first = nr * units.pages_per_section
        for block in blocks:
            self.physical.make(block, units.leaf_pages)
        start = first
        while start < first + units.pages_per_section:
            zone, count = next(by_zone(self.memmap, start, first + units.pages_per_section))
            pages = self.memmap.fresh(start, count, zone, self.memmap.nid(start))
            reserved = np.ones(count, bool)
            for run_start, run_end, _ in free:
                low, high = max(run_start, start), min(run_end, start + count)
                if low < high:
                    reserved[low - start : high - start] = False
            for run_start, run_end, nid in self.ram:
                low, high = max(run_start, start), min(run_end, start + count)
                if low < high and nid != self.memmap.nid(start):
                    pages[low - start : high - start, 0] = self.memmap.links(zone, nid)
            pages[reserved, 0] |= self.memmap.flag("reserved")
            self.memmap.store(start, self.memmap.without_references(pages, ~reserved))
            start += count

    def _register_bootmem_info(self) -> None:
        """
        ``register_page_bootmem_memmap()``: frames that hold the memory map, and
        the tables that map it, count the sections that they are for.
        """
        if not self.arch.bootmem_info:
            return
        packed = self.behaviour.bootmem_info_packed
        for nr, blocks in sorted(self.boot_memmap.items()):
            if self.sections.compound_order(nr):
                continue
            va = self.addresses.pfn_to_page(nr * self.units.pages_per_section)
            _, *below = [pfn for _, pfn, _ in self.tables.tables(va)]
            if self.scenario.levels == 4:
                # The p4d level is folded: the table below the root is met twice.
                below.insert(0, below[0])
            for pfn in below:
                self.memmap.get_page_bootmem(nr, pfn, "MIX_SECTION_INFO", packed)
            for block in blocks:
                self.memmap.get_page_bootmem(
                    nr, block, "SECTION_INFO", packed, self.units.leaf_pages
                )

    def _alloc_boot_table(self, va: int, count: int) -> int:
        return self.memblock.alloc(count, count)

    def _alloc_table(self, va: int, count: int) -> int:
        """``vmemmap_alloc_block_zero()``, ``spp_getpage()``: a page table at run time."""
        return (
            self.pages.alloc_pages(count.bit_length() - 1) if count > 1 else self.pages.alloc_page()
        )

    # Drivers.

    def _driver_init(self) -> None:
        image = self.image
        self.iomem = Resources(
            image.define_struct("iomem_resource", "resource"), self.slab, PHYSICAL_MASK
        )
        self._add_ram_resources()
        # radix_tree_node_cachep: nodes have slabs of their own; here, each one.
        self.pgmap_array = XArray(
            image.define_struct("pgmap_array", "xarray", "bss", static=True),
            self._alloc_xa_node,
        )
        self.modules = Modules(self.memory, self.tables, self.pages, image.define("modules", 16))
        bus_kset = image.define("bus_kset", 8, "bss", static=True)
        self.dax_bus = DaxBus(image.define_struct("dax_bus_type", "bus_type"), bus_kset, self.slab)
        self.memremap = Memremap(
            self.memory,
            self.behaviour,
            self.tables,
            self.sections,
            self.vmemmap,
            self.memmap,
            self.pgmap_array,
            self.percpu,
        )
        size = self.layouts.sizeof("dev_pagemap_ops")
        self.devices = Devices(
            self.memory,
            self.slab,
            self.memremap,
            self.nodes,
            self.iomem,
            self.dax_bus,
            self.modules,
            image.define("p2pdma_pgmap_ops", size, "rodata", static=True),
        )

    def _alloc_xa_node(self) -> Struct:
        return Slab(self.memory, self.pages, self.memmap).struct("xa_node")

    def _add_ram_resources(self) -> None:
        """``e820__reserve_resources()`` and the kernel image's own."""
        units = self.units
        insert = self.iomem.insert
        insert(b"Reserved", 0, units.page_size - 1, "RESERVED")
        system = IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY
        image = self.addresses.text_phys
        ranges = [(units.page_size, LOW_RAM_END // units.page_size * units.page_size)]
        ranges += merge_runs(
            (start << units.page_shift, end << units.page_shift)
            for start, end, _ in self.ram
            if start >= MIB >> units.page_shift
        )
        for start, end in ranges:
            ram = insert(b"System RAM", start, end - 1, flags=system)
            if start <= image < end:
                flags = IORESOURCE_MEM | IORESOURCE_BUSY | system
                step = IMAGE_SIZE // 4
                for i, name in enumerate((b"code", b"rodata", b"data", b"bss")):
                    at = image + i * step
                    insert(b"Kernel " + name, at, at + step - 1, flags=flags, parent=ram)
        insert(b"Reserved", 0x9FC00, 0x9FFFF, "RESERVED")
        insert(b"Reserved", 0xF0000, 0xFFFFF, "RESERVED")

    def _is_legacy(self, spec: Pagemap) -> bool:
        return any(
            start < ram.end and ram.start < start + size
            for start, size in spec.ranges
            for ram in self.scenario.ram
        )

    def registers(self) -> Iterator[tuple[int, dict[str, int]]]:
        """
        Yield each CPU's number and registers, as the notes of a dump have them.

        :raises UsageError: if the scenario's are no registers of a CPU
        """
        crash = self.scenario.crash
        if crash is None:
            return
        try:
            registers = {
                name: int(fill(value, self.image), 16) for name, value in crash.registers.items()
            }
        except ValueError:
            raise UsageError(f"scenario {self.scenario.name}: registers are no numbers") from None
        if not 0 <= crash.cpu < NR_CPUS:
            raise UsageError(f"scenario {self.scenario.name}: there is no CPU {crash.cpu}")
        for cpu in range(NR_CPUS):
            yield cpu, registers if cpu == crash.cpu else {}
