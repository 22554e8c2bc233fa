# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where in a vmcore the structures are that the command line reads.

Found through drgn and page tables gone through entry by entry, in a dump that
is whole (:class:`tests.kernels.View`); nothing of this is the package's own.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from drgn import FaultError, Object, container_of, sizeof
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.xarray import xa_for_each

from tests.kernels import PAGE, STRUCT_PAGE, View

from .dump import Dump

__all__ = ("Map", "Pagemap", "Place", "find")


class Place(NamedTuple):
    """Bytes of a structure, without a break in the file."""

    kind: str
    #: offset in the file
    offset: int
    size: int


class Pagemap(NamedTuple):
    """A ``struct dev_pagemap``."""

    address: int
    #: pairs of first page frame and first after
    ranges: list[tuple[int, int]]


class Map:
    """What is where in a dump."""

    def __init__(self, dump: Dump, view: View) -> None:
        self.dump = dump
        self.view = view
        self.places: dict[str, list[Place]] = {}
        #: virtual addresses of structures, to be planted as pointers
        self.pointers: list[int] = []
        #: physical addresses of page tables
        self.tables: list[int] = []
        self.pagemaps: list[Pagemap] = []
        #: page frames worth asking for, one by one
        self.pfns: list[int] = []

    def physical(self, address: int) -> int | None:
        """Translate a virtual address."""
        try:
            return self.view.physical(address)
        except FaultError:
            return None

    def add(self, kind: str, address: int, size: int) -> None:
        """Add a structure at a virtual address."""
        self.pointers.append(address)
        while size > 0:
            part = min(size, PAGE - address % PAGE)
            at = self.physical(address)
            if at is not None:
                self.add_physical(kind, at, part)
            address += part
            size -= part

    def add_physical(self, kind: str, address: int, size: int) -> None:
        """Add bytes at a physical address."""
        offset = self.dump.offset(address)
        if offset is not None:
            self.places.setdefault(kind, []).append(Place(kind, offset, size))

    def add_object(self, kind: str, found: Object) -> None:
        """Add an object that drgn found."""
        self.add(kind, found.address_, sizeof(found))

    def add_string(self, kind: str, pointer: Object) -> None:
        """Add a string with its end."""
        if pointer.value_():
            self.add(kind, pointer.value_(), len(pointer.string_()) + 1)


def find(dump: Dump) -> Map:
    """Find all places."""
    found = Map(dump, View(dump.path))
    for part in (
        _pagemaps, _references, _disks, _resources, _sections, _pages, _devices, _modules, _nodes,
        _hugetlb, _log, _tasks, _code, _globals, _symbols, _tables,
    ):  # fmt: skip
        part(found)
    found.places["elf"] = [Place("elf", 0, 64), Place("elf", *dump.headers)]
    found.places["vmcoreinfo"] = [Place("vmcoreinfo", *note) for note in dump.notes]
    # Nothing in particular: wherever it hits.
    found.places["anywhere"] = [Place("anywhere", 0, dump.size)]
    return found


def _pagemaps(found: Map) -> None:
    prog = found.view.prog
    array = prog["pgmap_array"]
    found.add_object("xarray", array)
    nodes = [array.xa_head.value_()]
    while nodes:
        value = nodes.pop()
        if value & 3 == 2 and value > PAGE:
            node = Object(prog, "struct xa_node", address=value - 2)
            found.add_object("xarray", node)
            nodes += [slot.value_() for slot in node.slots]
    addresses = {entry.value_() for _, entry in xa_for_each(array.address_of_())}
    for address in sorted(addresses):
        pagemap = Object(prog, "struct dev_pagemap", address=address)
        found.add_object("pagemap", pagemap)
        size = pagemap.nr_range.value_()
        words = struct.unpack(f"<{2 * size}Q", prog.read(pagemap.range.address_, 16 * size))
        if size > 1:
            found.add("pagemap", pagemap.range.address_, 16 * size)
        ranges = [
            (start // PAGE, (end + 1) // PAGE)
            for start, end in zip(words[::2], words[1::2], strict=True)
        ]
        found.pagemaps.append(Pagemap(address, ranges))


def _references(found: Map) -> None:
    """The counters of pagemaps: the shared one, and that of each CPU."""
    prog = found.view.prog
    offsets = prog["__per_cpu_offset"]
    found.add("reference", offsets.address_, 64)
    found.add("reference", prog["__cpu_possible_mask"].address_, 16)
    for one in found.pagemaps:
        ref = Object(prog, "struct dev_pagemap", address=one.address).ref
        found.add_object("reference", ref)
        found.add_object("reference", ref.data[0])
        counter = ref.percpu_count_ptr.value_() & ~3
        for cpu in range(prog["nr_cpu_ids"].value_()):
            found.add("reference", (counter + offsets[cpu].value_()) % (1 << 64), 8)


def _disks(found: Map) -> None:
    """What leads from the pagemap of an fsdax device to its name (struct pmem_device)."""
    prog = found.view.prog
    for one in found.pagemaps:
        with suppress(FaultError, LookupError):
            disk = Object(prog, "struct gendisk *", address=one.address - 8)
            name = disk.disk_name.string_()
            found.add_object("disk", disk)
            found.add("name", disk.disk_name.address_, len(name) + 1)


def _tasks(found: Map) -> None:
    """The list of processes, and what is read of each."""
    first = found.view.prog["init_task"]
    found.add_object("task", first.tasks)
    for one in islice(
        list_for_each_entry("struct task_struct", first.tasks.address_of_(), "tasks"), 8
    ):
        for member in (one.tasks, one.mm, one.pid):
            found.add_object("task", member)
        found.add_object("name", one.comm)
        if one.mm:
            found.add_object("task", one.mm.pgd)


def _code(found: Map) -> None:
    """Code that is read for what it does."""
    with suppress(LookupError):
        symbol = found.view.prog.symbol("vmemmap_restore_pte")
        found.add("code", symbol.address, symbol.size)


def _resources(found: Map) -> None:
    pending = [found.view.prog["iomem_resource"].address_of_()]
    while pending:
        one = pending.pop().read_()
        if one.value_():
            found.add_object("resource", one[0])
            found.add_string("name", one.name)
            pending += [one.sibling, one.child]


def _sections(found: Map) -> None:
    prog = found.view.prog
    roots = int(found.view.keys["LENGTH(mem_section)"])
    table = prog["mem_section"]
    found.add_object("section", table)
    per_root = PAGE // sizeof(prog.type("struct mem_section"))
    found.add("section table", table.value_(), 8 * roots)
    raw = prog.read(table.value_(), 8 * roots)
    for index, pointer in enumerate(struct.unpack(f"<{roots}Q", raw)):
        if not pointer:
            continue
        found.add("section", table.value_() + 8 * index, 8)
        for i in range(per_root):
            section = table[index][i]
            if section.section_mem_map.value_():
                found.add_object("section", section)
                if section.usage.value_():
                    found.add_object("usage", section.usage[0])


def _pages(found: Map) -> None:
    """Struct pages: of devices, and of the frames that hold those."""
    view = found.view
    per_page = PAGE // STRUCT_PAGE
    for pagemap in found.pagemaps:
        for start, end in pagemap.ranges:
            step = max((end - start) // 16 // 512 * 512, 512)
            for head in islice(range(start, end, step), 16):
                for pfn in (head, head + 1, head + 2, head + per_page, head + 3 * per_page):
                    if pfn < end:
                        found.pfns.append(pfn)
                        found.add("page", view.vmemmap + pfn * STRUCT_PAGE, STRUCT_PAGE)
                for pfn in (head, head + per_page, min(head + 511, end - 1)):
                    frame = found.physical(view.vmemmap + pfn * STRUCT_PAGE)
                    if frame is not None:
                        address = view.vmemmap + frame // PAGE * STRUCT_PAGE
                        found.add("frame", address, STRUCT_PAGE)


def _devices(found: Map) -> None:
    prog = found.view.prog
    bus = prog["dax_bus_type"]
    found.add_object("device", bus)
    buses = prog["bus_kset"]
    found.add_object("device", buses)
    found.add_object("device", buses[0])
    for kset in list_for_each_entry("struct kset", buses.list.address_of_(), "kobj.entry"):
        private = container_of(kset, "struct subsys_private", "subsys")
        try:
            ours = bus.p == private
        except AttributeError:
            ours = private.bus.value_() == bus.address_
        found.add_object("device", private.subsys.kobj.entry)
        if not ours:
            continue
        found.add_object("device", private[0])
        for node in list_for_each_entry(
            "struct device_private", private.klist_devices.k_list.address_of_(), "knode_bus.n_node"
        ):
            found.add_object("device", node[0])
            dax = container_of(node.device, "struct dev_dax", "dev")
            found.add_object("device", dax[0])
            found.add_string("name", dax.dev.kobj.name)


def _modules(found: Map) -> None:
    prog = found.view.prog
    for name, struct_name in (("modules", "struct module"), ("btf_modules", "struct btf_module")):
        head = prog[name]
        found.add_object("module", head)
        for one in list_for_each_entry(struct_name, head.address_of_(), "list"):
            found.add("module", one.value_(), min(sizeof(one[0]), 512))
            if name == "btf_modules":
                found.add_object("module", one.btf[0])
                found.add_object("name", one.module.name)
                found.add("module btf", one.btf.data.value_(), one.btf.data_size.value_())


def _nodes(found: Map) -> None:
    prog = found.view.prog
    for nid in range(prog["nr_node_ids"].value_()):
        found.add_object("node", prog["node_data"][nid])
        node = prog["node_data"][nid]
        if node:
            for zone in node.node_zones:
                for member in ("zone_start_pfn", "spanned_pages", "present_pages", "name"):
                    found.add_object("node", zone.member_(member))
                if hasattr(zone, "vmemmap_tails"):
                    found.add_object("hugetlb", zone.vmemmap_tails)


def _hugetlb(found: Map) -> None:
    prog, view = found.view.prog, found.view
    found.add_object("hugetlb", prog["hugetlb_max_hstate"])
    for index in range(prog["hugetlb_max_hstate"].value_()):
        hstate = Object(
            prog,
            "struct hstate",
            address=prog["hstates"].address_ + index * sizeof(prog.type("struct hstate")),
        )
        found.add_object("hugetlb", hstate)
        lists = [hstate.hugepage_activelist, *hstate.hugepage_freelists]
        for head in lists:
            if not head.next.value_():
                continue
            for page in islice(list_for_each_entry("struct page", head.address_of_(), "lru"), 8):
                found.add("hugetlb", page.value_(), 3 * STRUCT_PAGE)
                found.pfns.append((page.value_() - view.vmemmap) // STRUCT_PAGE)


def _log(found: Map) -> None:
    """The ring of the log, and what is in use of its arrays."""
    ring = found.view.prog["prb"]
    found.add_object("log", ring)
    found.add_object("log", ring[0])
    descs, texts = ring.desc_ring, ring.text_data_ring
    used = 1 << descs.count_bits.value_()
    found.add("log", descs.descs.value_(), 32 * sizeof(descs.descs[0]))
    found.add("log", descs.descs[used - 1].address_, sizeof(descs.descs[0]))
    found.add("log", descs.infos.value_(), 32 * sizeof(descs.infos[0]))
    found.add("log text", texts.data.value_(), 2048)


def _globals(found: Map) -> None:
    prog = found.view.prog
    for name in (
        "pgmap_array", "mem_section", "__highest_present_section_nr", "nr_memmap_pages",
        "nr_memmap_boot_pages", "vmemmap_base", "page_offset_base", "nr_node_ids",
        "hugetlb_max_hstate", "hugetlb_optimize_vmemmap_key", "vmemmap_optimize_enabled",
        "dax_bus_type", "bus_kset", "btf_modules", "node_states", "__per_cpu_offset",
        "nr_cpu_ids", "saved_command_line", "init_uts_ns", "panic_cpu",
    ):  # fmt: skip
        try:
            variable = prog[name]
            size = sizeof(variable)
        except (LookupError, TypeError):
            continue
        found.add("global", variable.address_, min(size, 64))


def _symbols(found: Map) -> None:
    """Kallsyms and BTF, as VMCOREINFO and the symbols say."""
    prog = found.view.prog
    keys = found.view.keys
    for key, value in keys.items():
        if key.startswith("SYMBOL(kallsyms_"):
            found.add("kallsyms", int(value, 16), 4096)
    start, stop = (prog.symbol(name).address for name in ("__start_BTF", "__stop_BTF"))
    found.add("btf header", start, 24)
    found.add("btf", start, stop - start)


def _tables(found: Map) -> None:
    """The page tables on the way to all of these, and to RAM's memory map."""
    view = found.view
    entries: dict[int, None] = {}
    addresses = [*found.pointers, *(view.vmemmap + (i << 21) for i in range(64))]
    for pagemap in found.pagemaps:
        for start, end in pagemap.ranges:
            first, last = view.page_va(start), view.page_va(end)
            addresses += islice(range(first, last, max((last - first) // 16, PAGE)), 17)
    for address in addresses:
        with suppress(FaultError):
            entries |= dict.fromkeys(step.at for step in view.path(address))
    for at in entries:
        found.add_physical("page table", at, 8)
    found.tables = list(dict.fromkeys(at // PAGE * PAGE for at in entries))
    for table in found.tables:
        found.add_physical("whole table", table, PAGE)
