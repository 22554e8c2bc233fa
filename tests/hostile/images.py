# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated kernels that are damaged: small, and between them everything that is read."""

from __future__ import annotations

from pathlib import Path

from tests import kernels
from tests.logs import BAD_PAGE, GENERAL_PROTECTION, MEMORY_FAILURE, PAGE_FAULT, log

__all__ = ("IMAGES", "write_image")

#: every type of pagemap there is, on two nodes, and huge pages of both kinds
_ALL = (
    """
[[node]]
start = 0
size = "256M"

[[node]]
start = 0x100000000
size = "256M"
nid = 1

[[hugetlb]]
count = 3
in_use = 1

[[hugetlb]]
count = 2
nid = 1
optimized = false

[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x200000000
size = "256M"
align = "2M"

[[pagemap]]
name = "dax1.0"
type = "devdax"
start = 0x240000000
size = "2G"
align = "1G"

[[pagemap]]
name = "dax2.0"
type = "devdax"
start = 0x2c0000000
size = "256M"
align = "2M"
map = "dev"

[[pagemap]]
name = "pmem3"
type = "fsdax"
start = 0x2d0000000
size = "128M"

"""
    + log(
        BAD_PAGE.format(comm="x", pfn=0x200203),
        MEMORY_FAILURE.format(pfn=0x300),
        PAGE_FAULT.format(pfn=0x240003, other=0x100601),
        GENERAL_PROTECTION.format(pfn=0x2D0000),
    )
    + """
[crash]
cpu = 1
registers = {RDI = "{page:0x200204}"}
"""
)

#: name -> scenario and kernel
IMAGES = {
    **{f"{kernel}-all": (_ALL, kernel) for kernel in ("6.1", "6.12", "7.2", "next")},
    "6.1-several-ranges": ("several-ranges", "6.1"),
    "7.2-4-level": ("4-level", "7.2"),
    "6.12-early-section": ("early-section", "6.12"),
}


def write_image(name: str, path: Path) -> None:
    """Write one of them."""
    scenario, kernel = IMAGES[name]
    kernels.image(scenario, kernel).write(path)
