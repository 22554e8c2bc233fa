# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Options of the kernel's configuration, by what is there and what is not.

That a name is missing proves no option: the source of types or symbols may lack it. An
option is off where what surrounds the name is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from .needs import has_symbol

if TYPE_CHECKING:
    from drgn import Program

__all__ = ("check_memory_model", "has_zone_device")


def has_zone_device(prog: Program) -> bool:
    """
    Return whether the kernel can have pagemaps (CONFIG_ZONE_DEVICE).

    The option adds ZONE_DEVICE to ``enum zone_type`` (``include/linux/mmzone.h``), which
    all kernels have, and the variable ``pgmap_array`` (``mm/memremap.c``). If neither is
    there, though the others are, it is off.
    """
    try:
        zones = {name for name, _ in prog.type("enum zone_type").enumerators or ()}
    except LookupError:
        return True
    return "ZONE_DEVICE" in zones or "ZONE_NORMAL" not in zones or has_symbol(prog, "pgmap_array")


def check_memory_model(prog: Program, vmcoreinfo: Mapping[str, str]) -> None:
    """
    Check that the kernel has a vmemmap (CONFIG_SPARSEMEM_VMEMMAP).

    ``mm/sparse-vmemmap.c`` and each architecture that has one define functions, which are
    in kallsyms whether CONFIG_KALLSYMS_ALL is on or off.

    :raises UnsupportedError: if it has none, or a section table of another form
    """
    if "LENGTH(mem_section)" not in vmcoreinfo and "SYMBOL(mem_map)" in vmcoreinfo:
        raise UnsupportedError(
            "this kernel has one array of struct pages (CONFIG_FLATMEM) and no vmemmap, so there"
            " is nothing to audit"
        )
    functions = ("vmemmap_populate", "vmemmap_populate_basepages", "vmemmap_alloc_block")
    if any(has_symbol(prog, name) for name in ("start_kernel", "_etext")) and not any(
        has_symbol(prog, name) for name in functions
    ):
        raise UnsupportedError(
            "this kernel has no vmemmap (CONFIG_SPARSEMEM_VMEMMAP is off), so there is nothing to"
            " audit"
        )
