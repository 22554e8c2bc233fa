# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of pagemaps, without the types of any module.

* device-dax: the name of the device on the dax bus whose ``dev_dax->pgmap`` it is
  (``drivers/dax/dax-private.h``; in vmlinux where CONFIG_DAX=y)
* fsdax: the name of the gendisk that ``struct pmem_device`` has right before its
  embedded pagemap (``drivers/nvdimm/pmem.h``)
* all others: the name of the innermost resource around the pagemap's first range
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from drgn import Object, container_of, offsetof

from ..target.reads import READ_ERRORS
from ..text import printable
from .string import read_string

if TYPE_CHECKING:
    from drgn import Program

    from .dev_pagemap import Pagemap
    from .resource import Resource

__all__ = ("dax_pagemaps", "name_pagemaps")

_MAX_DEVICES = 4096
_MAX_NAME = 64

# drivers/nvdimm/namespace_devs.c: nvdimm_namespace_disk_name()
_PMEM_DISK = re.compile(r"pmem\d+(\.\d+)?s?")
# drivers/nvdimm, drivers/dax: names of the resources that they claim
_CLAIMED = re.compile(r"(namespace|dax|pmem)\d+\.\d+")


def name_pagemaps(
    prog: Program, pagemaps: Sequence[Pagemap], resources: Sequence[Resource]
) -> dict[int, str]:
    """
    Find names of pagemaps.

    :param resources: the tree of ``iomem_resource``, parents before children
    :return: address of the pagemap -> name; a pagemap without a name is left out
    """
    names, whole = dax_pagemaps(prog) if pagemaps else ({}, True)
    if not whole:
        # While devices come and go, a pagemap's memory may be another's already.
        names = {}
    for pagemap in pagemaps:
        if pagemap.address in names:
            continue
        name = _gendisk_name(prog, pagemap) or _resource_name(pagemap, resources)
        if name:
            names[pagemap.address] = name
    return names


def dax_pagemaps(prog: Program) -> tuple[dict[int, str], bool]:
    """
    Return the pagemaps of the devices on the dax bus, and the names of these devices.

    :return: address of each pagemap -> name; and whether the bus could be followed to its end
    """
    found: dict[int, str] = {}
    try:
        for dax in _dax_devices(prog):
            if address := dax.pgmap.value_():
                found[address] = printable(read_string(prog, dax.dev.kobj.name.value_(), _MAX_NAME))
    except (AttributeError, LookupError, *READ_ERRORS):
        # No dax bus in this kernel, or not all of it can be read, or its types are damaged:
        # resources have names, too.
        return found, False
    return found, True


def _dax_devices(prog: Program) -> Iterator[Object]:
    """Yield the ``struct dev_dax`` on the dax bus."""
    private = _subsys_private(prog)
    if private is None:
        return
    for node in _list_nodes(private.klist_devices.k_list):
        klist_node = container_of(node, "struct klist_node", "n_node")
        device = container_of(klist_node, "struct device_private", "knode_bus").device
        yield container_of(device, "struct dev_dax", "dev")


def _subsys_private(prog: Program) -> Object | None:
    """Return the ``struct subsys_private *`` of the dax bus, ``None`` if there is none."""
    bus = prog["dax_bus_type"]
    try:
        return bus.p
    except AttributeError:
        pass
    # Since "driver core: bus: move the bus private pointer out" (in v6.4), search
    # the buses, as drivers/base/bus.c: bus_to_subsys() does.
    names = ("struct kobject", "struct kset", "struct subsys_private")
    kobject_type, kset_type, private_type = (prog.type(name) for name in names)
    for node in _list_nodes(prog["bus_kset"].list):
        kobject = container_of(node, kobject_type, "entry")
        kset = container_of(kobject, kset_type, "kobj")
        private = container_of(kset, private_type, "subsys")
        if private.bus.value_() == bus.address_:
            return private
    return None


def _list_nodes(head: Object) -> Iterator[Object]:
    """Yield the ``struct list_head *`` of a list, at most :data:`_MAX_DEVICES`."""
    address = head.address_
    node = head.next
    for _ in range(_MAX_DEVICES):
        node = node.read_()
        if node.value_() in (address, 0):
            return
        yield node
        node = node.next


def _gendisk_name(prog: Program, pagemap: Pagemap) -> str | None:
    if pagemap.type != "fsdax":
        return None
    try:
        disk = prog.read_u64(pagemap.address - 8)
        start = disk + offsetof(prog.type("struct gendisk"), "disk_name")
        name = read_string(prog, start, _MAX_NAME).decode("ascii")
    except (LookupError, ValueError, *READ_ERRORS):
        return None
    # Fsdax pagemaps of other drivers (virtiofs) have other things before them.
    return name if _PMEM_DISK.fullmatch(name) else None


def _resource_name(pagemap: Pagemap, resources: Sequence[Resource]) -> str | None:
    if not pagemap.ranges:
        return None
    first = pagemap.ranges[0]
    holding = [r for r in resources if r.start <= first.start and first.end <= r.end and r.depth]
    # A namespace's range has its metadata and the resource claimed for its data.
    inside = [
        r
        for r in resources
        if first.start <= r.start and r.end <= first.end and _CLAIMED.fullmatch(r.name)
    ]
    for resource in sorted(inside, key=lambda r: r.start - r.end):
        return resource.name
    for resource in sorted(holding, key=lambda r: -r.depth):
        if resource.name:
            return resource.name
    return None
