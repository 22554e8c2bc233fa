# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels whose configuration lacks an option: what their types and symbols lack.

The layouts are those of Debian's kernels, which have all options; so structures keep the
members that the option would take away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .kernel_image import Symbol

__all__ = ("OFF", "symbols_without", "types_without")


class _Without(NamedTuple):
    """What an option adds."""

    symbols: frozenset[str] = frozenset()
    #: variables, of which kallsyms then has none
    variables: bool = False
    enumerators: frozenset[str] = frozenset()
    #: names of structs and enums
    types: frozenset[str] = frozenset()


OFF = {
    # mm/memremap.c, include/linux/mmzone.h, include/linux/memremap.h
    "ZONE_DEVICE": _Without(
        symbols=frozenset({"pgmap_array", "p2pdma_pgmap_ops", "dax_bus_type"}),
        enumerators=frozenset({"ZONE_DEVICE", "SECTION_TAINT_ZONE_DEVICE_BIT"}),
        types=frozenset({"dev_pagemap", "vmem_altmap", "memory_type"}),
    ),
    # mm/sparse-vmemmap.c
    "SPARSEMEM_VMEMMAP": _Without(symbols=frozenset({"vmemmap_populate"})),
    # mm/hugetlb.c
    "HUGETLB_PAGE": _Without(
        symbols=frozenset(
            {
                "hstates", "hugetlb_max_hstate", "default_hstate_idx",
                "hugetlb_optimize_vmemmap_key", "vmemmap_optimize_enabled",
            }
        ),
        types=frozenset({"hstate"}),
    ),
    # mm/hugetlb_vmemmap.c
    "HUGETLB_PAGE_OPTIMIZE_VMEMMAP": _Without(
        symbols=frozenset({"hugetlb_optimize_vmemmap_key", "vmemmap_optimize_enabled"})
    ),
    # arch/x86/mm/numa.c, mm/memblock.c
    "NUMA": _Without(symbols=frozenset({"node_data"})),
    # scripts/kallsyms.c
    "KALLSYMS_ALL": _Without(variables=True),
}  # fmt: skip


def symbols_without(symbols: Iterable[Symbol], off: Sequence[str]) -> list[Symbol]:
    """Return the symbols in kallsyms of a kernel without some options."""
    lacking = [OFF[name] for name in off]
    gone = {name for one in lacking for name in one.symbols}
    functions = any(one.variables for one in lacking)
    return [
        one
        for one in symbols
        if one.name not in gone and (not functions or one.type in ("T", "t") or one.name[0] == "_")
    ]


def types_without(types: Sequence[dict[str, Any]], off: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of types of a kernel without some options."""
    enumerators = {name for one in off for name in OFF[one].enumerators}
    names = {name for one in off for name in OFF[one].types}
    found = []
    for record in types:
        if record.get("name") in names and record["kind"] in ("struct", "enum"):
            record = {key: value for key, value in record.items() if key != "name"}
        if "values" in record:
            kept = [pair for pair in record["values"] if pair[0] not in enumerators]
            record = {**record, "values": kept}
        found.append(record)
    return found
