# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``iomem_resource``: what ``/proc/iomem`` prints.

Source: ``kernel/resource.c``. Addresses are physical, in bytes; ends are
inclusive, as the kernel's are.
"""

from __future__ import annotations

from .objects import Struct
from .slab import Slab

__all__ = ("Resources",)

IORESOURCE_MEM = 0x00000200
IORESOURCE_SYSRAM = 0x01000000
IORESOURCE_BUSY = 0x80000000
IORESOURCE_SYSTEM_RAM = IORESOURCE_MEM | IORESOURCE_SYSRAM


class Resources:
    """
    The tree of resources.

    :param root: ``iomem_resource``
    """

    def __init__(self, root: Struct, slab: Slab, physical_mask: int) -> None:
        self.root = root
        self.memory = root.memory
        self.slab = slab
        root["start"] = 0
        root["end"] = physical_mask
        root["flags"] = IORESOURCE_MEM
        root["name"] = slab.string(b"PCI mem")

    def insert(
        self,
        name: bytes,
        start: int,
        end: int,
        desc: str = "NONE",
        flags: int = IORESOURCE_MEM,
        parent: Struct | None = None,
    ) -> Struct:
        """
        Insert a resource below ``parent`` in ascending order.

        :param desc: suffix of an IORES_DESC constant
        """
        resource = self.slab.struct("resource")
        resource["start"] = start
        resource["end"] = end
        resource["name"] = self.slab.string(name)
        resource["flags"] = flags
        resource["desc"] = self.memory.layouts.constant(f"IORES_DESC_{desc}")
        parent = parent or self.root
        resource["parent"] = parent.va
        link = parent.addr("child")
        while (va := self.memory.read_int(link)) != 0:
            sibling = self.memory.struct("resource", va)
            if sibling["start"] > end:
                break
            link = sibling.addr("sibling")
        resource["sibling"] = va
        self.memory.write_int(link, resource.va)
        return resource

    def children(self, parent: Struct) -> list[Struct]:
        """Return the resources right below one."""
        found = []
        va = parent["child"]
        while va:
            found.append(self.memory.struct("resource", va))
            va = found[-1]["sibling"]
        return found

    def named(self, name: bytes) -> list[Struct]:
        """Return all resources of a name, in the order of ``/proc/iomem``."""
        found = []
        todo = self.children(self.root)[::-1]
        while todo:
            resource = todo.pop()
            if self.memory.read(resource["name"], len(name) + 1) == name + b"\0":
                found.append(resource)
            todo += self.children(resource)[::-1]
        return found
