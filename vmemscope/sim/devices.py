# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Devices that own pagemaps: how their drivers cut up the device, set up the
``struct dev_pagemap`` and show themselves in the driver model and iomem.

Sources: ``drivers/nvdimm/pfn_devs.c``, ``drivers/nvdimm/pmem.c``,
``drivers/dax/{bus,device,pmem}.c``, ``drivers/base/bus.c``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .memremap import PGMAP_ALTMAP_VALID, Memremap
from .modules import Modules
from .nodes import Nodes
from .objects import KernelMemory, Struct, list_add_tail
from .resource import IORESOURCE_BUSY, IORESOURCE_MEM, Resources
from .scenario import SUBSECTION_SIZE, Pagemap
from .slab import Slab
from .units import Units

__all__ = ("DaxBus", "Devices", "PagemapRecord")

#: SZ_8K; ``nd_info_block_reserve()`` aligns it to pages
_INFO_BLOCK = 8192
#: what a namespace sets aside for one struct page: MAX_STRUCT_PAGE_SIZE
_STRUCT_PAGE = 64
#: bytes before the dev_pagemap in ``struct pmem_device`` and after it
_PMEM_HEAD = 64
_PMEM_TAIL = 64
#: sizeof(struct devres_node) in bytes
_DEVRES = 40

_TYPES = {
    "devdax": "MEMORY_DEVICE_GENERIC",
    "hmem": "MEMORY_DEVICE_GENERIC",
    "fsdax": "MEMORY_DEVICE_FS_DAX",
    "virtiofs": "MEMORY_DEVICE_FS_DAX",
    "p2pdma": "MEMORY_DEVICE_PCI_P2PDMA",
    "private": "MEMORY_DEVICE_PRIVATE",
    "coherent": "MEMORY_DEVICE_COHERENT",
}


@dataclass
class PagemapRecord:
    """What the simulator knows of a pagemap that it set up."""

    spec: Pagemap
    pgmap: Struct
    #: in pfns, ends exclusive
    ranges: list[tuple[int, int]]
    #: pfn of the first struct page that carries the pagemap: after an altmap
    data_pfn: int
    vmemmap_shift: int
    #: the device's own objects: ``struct dev_dax`` or ``struct gendisk``
    dev_dax: Struct | None = None
    gendisk: Struct | None = None
    #: the innermost ``struct resource`` of each range
    resources: tuple[Struct, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def nid(self) -> int:
        return self.spec.nid

    @property
    def va(self) -> int:
        """Address of the ``struct dev_pagemap``."""
        return self.pgmap.va

    @property
    def altmap(self) -> bool:
        return self.spec.altmap

    @property
    def per_compound(self) -> int:
        """Pages in a compound page."""
        return 1 << self.vmemmap_shift


@dataclass(frozen=True)
class _Namespace:
    """An nvdimm namespace with struct pages, in bytes; ends are exclusive."""

    start: int
    data: int
    end: int


def nd_pfn_init(spec: Pagemap, units: Units, struct_page: int = _STRUCT_PAGE) -> _Namespace:
    """
    ``nd_pfn_init()`` and ``__nvdimm_setup_pfn()``: info block, then the struct
    pages if they are kept on the device, then data, aligned at both ends.

    :param struct_page: sizeof(struct page) in bytes
    :raises UsageError: if nothing is left for data
    """
    ((start, size),) = spec.ranges
    align = max(spec.align, SUBSECTION_SIZE)
    head = _INFO_BLOCK
    if spec.altmap:
        head += max(struct_page, _STRUCT_PAGE) * ((size - _INFO_BLOCK) // units.page_size)
        if struct_page > _STRUCT_PAGE:
            # The kernel has no room for larger ones (MAX_STRUCT_PAGE_SIZE); here there is, also
            # for large leaves that reach beyond the device.
            head += 2 * SUBSECTION_SIZE
    data = -(-(start + head) // align) * align
    end = (start + size) // align * align
    if data >= end:
        raise UsageError(f"{spec.name} is too small for its align")
    return _Namespace(start, data, end)


class DaxBus:
    """
    ``dax_bus_type``, registered.

    :param bus_type: ``struct bus_type``
    :param bus_kset: address of the variable ``bus_kset``
    """

    def __init__(self, bus_type: Struct, bus_kset: int, slab: Slab) -> None:
        self.memory = bus_type.memory
        self.bus_type = bus_type
        self.slab = slab
        bus_type["name"] = slab.string(b"dax")
        kset = slab.struct("kset")
        kset.init_list("list")
        self.memory.write_int(bus_kset, kset.va)
        # Other buses are registered before it; one is enough to be skipped.
        self._register(slab.struct("bus_type"), kset, b"nd")
        self.private = self._register(bus_type, kset, b"dax")

    def _register(self, bus_type: Struct, kset: Struct, name: bytes) -> Struct:
        """``bus_register()``."""
        private = self.slab.struct("subsys_private")
        private["bus"] = bus_type.va
        if "p" in bus_type:
            # Until 6.4; since then it is found through bus_kset.
            bus_type["p"] = private.va
        private["subsys.kobj.name"] = self.slab.string(name)
        private["subsys.kobj.kset"] = kset.va
        private.init_list("subsys.list")
        for klist in ("klist_devices", "klist_drivers"):
            private.init_list(f"{klist}.k_list")
        list_add_tail(self.memory, private.addr("subsys.kobj.entry"), kset.addr("list"))
        return private

    def add(self, device: Struct, name: bytes) -> None:
        """``bus_add_device()``."""
        private = self.slab.struct("device_private")
        device["p"] = private.va
        device["bus"] = self.bus_type.va
        device["kobj.name"] = self.slab.string(name)
        device["kobj.kref.refcount.refs.counter"] = 1
        device["kobj.state_initialized"] = 1
        private["device"] = device.va
        private["knode_bus.n_klist"] = self.private.addr("klist_devices")
        private["knode_bus.n_ref.refcount.refs.counter"] = 1
        list_add_tail(
            self.memory,
            private.addr("knode_bus.n_node"),
            self.private.addr("klist_devices.k_list"),
        )


class Devices:
    """Probes the devices of a scenario."""

    def __init__(
        self,
        memory: KernelMemory,
        slab: Slab,
        memremap: Memremap,
        nodes: Nodes,
        resources: Resources,
        dax_bus: DaxBus,
        modules: Modules,
        p2pdma_ops: int,
    ) -> None:
        self.memory = memory
        self.units = memory.units
        self.slab = slab
        self.memremap = memremap
        self.nodes = nodes
        self.resources = resources
        self.dax_bus = dax_bus
        self.modules = modules
        self.p2pdma_ops = p2pdma_ops
        self._regions = 0

    def probe(self, spec: Pagemap, legacy: bool) -> PagemapRecord:
        """
        Bring a device up.

        :param legacy: it is a part of RAM that the command line set aside
        """
        probe = {
            "devdax": self._probe_devdax,
            "hmem": self._probe_hmem,
            "fsdax": self._probe_fsdax,
        }.get(spec.type, self._probe_other)
        return probe(spec, legacy)

    def _pgmap(self, spec: Pagemap, va: int, ranges: list[tuple[int, int]]) -> Struct:
        """Set up a ``struct dev_pagemap``; ranges are in bytes, ends exclusive."""
        pgmap = self.memory.struct("dev_pagemap", va)
        pgmap["type"] = self.memory.layouts.constant(_TYPES[spec.type])
        for i, (start, end) in enumerate(ranges):
            pgmap[f"ranges[{i}].start"] = start
            pgmap[f"ranges[{i}].end"] = end - 1
        if spec.type in ("devdax", "hmem"):
            # drivers/dax/device.c: dev_dax_probe()
            pgmap["vmemmap_shift"] = (spec.align // self.units.page_size).bit_length() - 1
        return pgmap

    def _pgmap_size(self, ranges: int) -> int:
        """``struct_size(pgmap, ranges, nr_range - 1)``: the first one is in the structure."""
        size = self.memory.layouts.sizeof("range")
        return self.memory.layouts.sizeof("dev_pagemap") + (ranges - 1) * size

    def _set_altmap(self, pgmap: Struct, namespace: _Namespace) -> None:
        """``__nvdimm_setup_pfn()``, mode PFN_MODE_PMEM."""
        base = namespace.start // self.units.page_size
        reserve = max(_INFO_BLOCK // self.units.page_size, 1)
        pgmap["altmap.base_pfn"] = base
        pgmap["altmap.end_pfn"] = namespace.end // self.units.page_size - 1
        pgmap["altmap.reserve"] = reserve
        pgmap["altmap.free"] = (namespace.data - namespace.start) // self.units.page_size - reserve
        pgmap["flags"] = PGMAP_ALTMAP_VALID

    def _memremap(self, spec: Pagemap, pgmap: Struct, nr_range: int) -> PagemapRecord:
        ranges = self.memremap.memremap_pages(pgmap, nr_range, spec.nid)
        for start, end in ranges:
            self.nodes.add_range(spec.nid, "ZONE_DEVICE", start, end)
        return PagemapRecord(
            spec=spec,
            pgmap=pgmap,
            ranges=ranges,
            data_pfn=self.memremap.pfn_first(pgmap, ranges[0][0]),
            vmemmap_shift=pgmap["vmemmap_shift"],
        )

    def _pmem_resource(self, spec: Pagemap, legacy: bool) -> Struct:
        ((start, size),) = spec.ranges
        suffix = " (legacy)" if legacy else ""
        return self.resources.insert(
            f"Persistent Memory{suffix}".encode(),
            start,
            start + size - 1,
            "PERSISTENT_MEMORY_LEGACY" if legacy else "PERSISTENT_MEMORY",
        )

    def _probe_devdax(self, spec: Pagemap, legacy: bool) -> PagemapRecord:
        """``drivers/dax/pmem.c: __dax_pmem_probe()``: the range is the whole namespace."""
        namespace = nd_pfn_init(spec, self.units, self.memory.layouts.sizeof("page"))
        pgmap = self._pgmap(
            spec,
            self.slab.alloc(self._pgmap_size(1)),
            [(namespace.start, namespace.end)],
        )
        if spec.altmap:
            self._set_altmap(pgmap, namespace)
        region = int(spec.name.removeprefix("dax").split(".")[0])
        parent = self._pmem_resource(spec, legacy)
        self.resources.insert(
            f"namespace{region}.0".encode(),
            namespace.start,
            namespace.data - 1,
            "PERSISTENT_MEMORY",
            IORESOURCE_MEM | IORESOURCE_BUSY,
            parent,
        )
        data = (namespace.data, namespace.end)
        dax = self.resources.insert(
            spec.name.encode(), data[0], data[1] - 1, "PERSISTENT_MEMORY", parent=parent
        )
        record = self._memremap(spec, pgmap, 1)
        record.dev_dax = self._dev_dax(spec, region, record, [data])
        record.resources = (dax,)
        return record

    def _probe_hmem(self, spec: Pagemap, legacy: bool) -> PagemapRecord:
        """``drivers/dax/hmem``: the ranges are the device's, with nothing set aside."""
        ranges = [(start, start + size) for start, size in spec.ranges]
        pgmap = self._pgmap(spec, self.slab.alloc(self._pgmap_size(len(ranges))), ranges)
        region = int(spec.name.removeprefix("dax").split(".")[0])
        resources = []
        for start, end in ranges:
            parent = None
            for name in self.memremap.behaviour.hmem_resources:
                parent = self.resources.insert(
                    name.format(region).encode(), start, end - 1, "SOFT_RESERVED", parent=parent
                )
            resources.append(
                self.resources.insert(spec.name.encode(), start, end - 1, parent=parent)
            )
        record = self._memremap(spec, pgmap, len(ranges))
        record.dev_dax = self._dev_dax(spec, region, record, ranges)
        record.resources = tuple(resources)
        return record

    def _dev_dax(
        self, spec: Pagemap, region_id: int, record: PagemapRecord, ranges: list[tuple[int, int]]
    ) -> Struct:
        """``drivers/dax/bus.c: devm_create_dev_dax()``; ranges in bytes, ends exclusive."""
        region = self.slab.struct("dax_region")
        region["id"] = region_id
        region["align"] = spec.align
        region["target_node"] = spec.nid
        region["res.start"] = ranges[0][0]
        region["res.end"] = ranges[-1][1] - 1
        dev_dax = self.slab.struct("dev_dax")
        dev_dax["region"] = region.va
        dev_dax["align"] = spec.align
        dev_dax["target_node"] = spec.nid
        dev_dax["pgmap"] = record.pgmap.va
        dev_dax["nr_range"] = len(ranges)
        size = self.memory.layouts.sizeof("dev_dax_range")
        dev_dax["ranges"] = table = self.slab.alloc(size * len(ranges))
        pgoff = 0
        for i, (start, end) in enumerate(ranges):
            piece = self.memory.struct("dev_dax_range", table + i * size)
            piece["pgoff"] = pgoff
            piece["range.start"] = start
            piece["range.end"] = end - 1
            pgoff += (end - start) // self.units.page_size
        device = self.memory.struct("device", dev_dax.addr("dev"))
        device["numa_node"] = spec.nid
        self.dax_bus.add(device, spec.name.encode())
        return dev_dax

    def _probe_fsdax(self, spec: Pagemap, legacy: bool) -> PagemapRecord:
        """``drivers/nvdimm/pmem.c: pmem_attach_disk()``."""
        namespace = nd_pfn_init(spec, self.units, self.memory.layouts.sizeof("page"))
        region = int(spec.name.removeprefix("pmem"))
        parent = self._pmem_resource(spec, legacy)
        resource = self.resources.insert(
            f"namespace{region}.0".encode(),
            namespace.start,
            namespace.end - 1,
            "PERSISTENT_MEMORY",
            IORESOURCE_MEM | IORESOURCE_BUSY,
            parent,
        )
        # struct pmem_device is in the module's types only: { ...; struct
        # dax_device *dax_dev; struct gendisk *disk; struct dev_pagemap pgmap; }
        size = self.memory.layouts.sizeof("dev_pagemap")
        pmem = self.slab.alloc(_PMEM_HEAD + 8 + size + _PMEM_TAIL)
        pgmap = self._pgmap(spec, pmem + _PMEM_HEAD + 8, [(namespace.start, namespace.end)])
        pgmap["ops"] = self.modules.symbol("nd_pmem", "fsdax_pagemap_ops")
        pgmap["owner"] = pmem
        if spec.altmap:
            self._set_altmap(pgmap, namespace)
        gendisk = self.slab.struct("gendisk")
        gendisk.set_bytes("disk_name", spec.name.encode())
        gendisk["major"] = 259
        gendisk["minors"] = 1
        self.memory.write_int(pmem + _PMEM_HEAD, gendisk.va)
        record = self._memremap(spec, pgmap, 1)
        record.gendisk = gendisk
        record.resources = (resource,)
        return record

    def _probe_other(self, spec: Pagemap, legacy: bool) -> PagemapRecord:
        """Memory that has no name but in iomem: peer-to-peer, of GPUs, and of virtiofs."""
        ((start, size),) = spec.ranges
        # drivers/base/devres.c: what devm_kzalloc() returns follows a struct devres_node, of
        # which the size that was asked for comes last.
        node = _DEVRES if spec.type == "virtiofs" else 0
        va = self.slab.alloc(node + self._pgmap_size(1)) + node
        if node:
            self.memory.write_int(va - 8, self._pgmap_size(1))
        pgmap = self._pgmap(spec, va, [(start, start + size)])
        end = start + size - 1
        if spec.type == "virtiofs":
            # fs/fuse/virtio_fs.c: virtio_fs_setup_dax(): no ops, no owner
            bus = self.resources.insert(b"PCI Bus 0000:00", start, end)
            device = self.resources.insert(b"0000:00:05.0", start, end, parent=bus)
            resource = self.resources.insert(
                spec.name.encode(),
                start,
                end,
                flags=IORESOURCE_MEM | IORESOURCE_BUSY,
                parent=device,
            )
        elif spec.type == "p2pdma":
            pgmap["ops"] = self.p2pdma_ops
            bus = self.resources.insert(b"PCI Bus 0000:00", start, end)
            device = self.resources.insert(spec.name.encode(), start, end, parent=bus)
            # What the driver claims, by its name, as all others of its kind.
            resource = self.resources.insert(
                b"nvme", start, end, flags=IORESOURCE_MEM | IORESOURCE_BUSY, parent=device
            )
        else:
            # lib/test_hmm.c; the kernel's drivers set owner so that they know their own.
            pgmap["ops"] = self.modules.symbol("test_hmm", "dmirror_devmem_ops")
            pgmap["owner"] = self.slab.alloc(256)
            desc = "DEVICE_PRIVATE_MEMORY" if spec.type == "private" else "SOFT_RESERVED"
            resource = self.resources.insert(
                spec.name.encode(), start, end, desc, IORESOURCE_MEM | IORESOURCE_BUSY
            )
        record = self._memremap(spec, pgmap, 1)
        record.resources = (resource,)
        return record
