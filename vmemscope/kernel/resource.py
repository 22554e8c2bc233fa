# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The tree of physical address ranges, ``/proc/iomem``: System RAM, and the names of
devices' memory. Source: ``include/linux/ioport.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import Object
from msgspec import Struct

from ..target.reads import READ_ERRORS
from ..text import printable
from . import Damage
from .string import read_string

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("Resource", "read_resources")

# Macros, so not in the types: IORESOURCE_MEM | IORESOURCE_SYSRAM.
_IORESOURCE_SYSTEM_RAM = 0x0000_0200 | 0x0100_0000

_MAX_RESOURCES = 65536
_MAX_NAME = 128


class Resource(Struct, frozen=True):
    """A ``struct resource``; physical addresses in bytes, ``end`` inclusive."""

    address: int
    start: int
    end: int
    name: str
    flags: int
    #: levels below ``iomem_resource``
    depth: int
    #: whether its name could be read; else it is empty
    named: bool = True

    @property
    def is_system_ram(self) -> bool:
        """Whether the page allocator owns this memory."""
        return self.flags & _IORESOURCE_SYSTEM_RAM == _IORESOURCE_SYSTEM_RAM


def read_resources(prog: Program) -> tuple[list[Resource], list[Damage]]:
    """
    Read ``iomem_resource`` and all resources below it, parents before children.

    :return: resources; and resources that can't be read or followed
    """
    found: list[Resource] = []
    damage: list[Damage] = []
    resource_type = prog.type("struct resource")
    visited: set[int] = set()
    pending = [(prog["iomem_resource"].address_ or 0, 0)]
    while pending:
        address, depth = pending.pop()
        if address in visited:
            damage.append(Damage(address, "resource is reachable twice"))
            continue
        if len(visited) >= _MAX_RESOURCES:
            damage.append(Damage(address, f"there are over {_MAX_RESOURCES} resources"))
            break
        visited.add(address)
        try:
            resource = Object(prog, resource_type, address=address).read_()
        except READ_ERRORS:
            damage.append(Damage(address, "resource can't be read", True))
            continue
        name = _read_name(prog, resource.name.value_())
        found.append(
            Resource(
                address=address,
                start=resource.start.value_(),
                end=resource.end.value_(),
                name=name or "",
                flags=resource.flags.value_(),
                depth=depth,
                named=name is not None,
            )
        )
        # Sibling below child on the stack: children come first.
        for member, below in (("sibling", depth), ("child", depth + 1)):
            pointer = resource.member_(member).value_()
            if pointer:
                pending.append((pointer, below))
    return found, damage


def _read_name(prog: Program, address: int) -> str | None:
    if not address:
        return ""
    try:
        return printable(read_string(prog, address, _MAX_NAME))
    except READ_ERRORS:
        return None
