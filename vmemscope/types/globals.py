# SPDX-License-Identifier: LGPL-2.1-or-later
"""
C types of kernel variables.

Kallsyms has the address of a variable and BTF describes types, but nothing in a
kernel says which type a variable has (BTF says it for per-CPU variables only).
:data:`GLOBALS` does, for the variables that vmemscope and drgn's helpers use.
:mod:`vmemscope.arch` has those of one architecture. A variable that a kernel lacks has
no symbol, so the table names no versions. An array whose length depends on the
configuration has no length here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from ..arch import architecture_of
from ..errors import UnsupportedError

if TYPE_CHECKING:
    from drgn import Platform

__all__ = ("GLOBALS", "Variables", "variables_of")

#: name of a variable -> its C types, newest first; the first that the kernel has counts
Variables: TypeAlias = Mapping[str, tuple[str, ...]]

#: variables of all architectures, each with the file that defines it
GLOBALS: Final[Variables] = {
    # Device memory and the memory map.
    "pgmap_array": ("struct xarray",),  # mm/memremap.c
    "mem_section": ("struct mem_section **",),  # mm/sparse.c
    "__highest_present_section_nr": ("unsigned long",),  # mm/sparse.c
    "__highest_used_section_nr": ("unsigned long",),  # mm/sparse.c
    "nr_memmap_pages": ("atomic_long_t",),  # mm/vmstat.c
    "nr_memmap_boot_pages": ("atomic_long_t",),  # mm/vmstat.c
    "iomem_resource": ("struct resource",),  # kernel/resource.c
    # Page tables.
    "init_mm": ("struct mm_struct",),  # mm/init-mm.c
    "swapper_pg_dir": ("pgd_t []",),  # arch/*/mm
    # Where memory and its maps are.
    "min_low_pfn": ("unsigned long",),  # mm/memblock.c
    "max_low_pfn": ("unsigned long",),  # mm/memblock.c
    "max_pfn": ("unsigned long",),  # mm/memblock.c
    "_totalram_pages": ("atomic_long_t",),  # mm/show_mem.c
    # Nodes.
    "node_data": ("struct pglist_data *[]",),  # mm/numa.c, arch/*/mm/numa.c
    "contig_page_data": ("struct pglist_data",),  # mm/memblock.c
    "node_states": ("nodemask_t []",),  # mm/page_alloc.c
    "nr_node_ids": ("unsigned int",),  # mm/page_alloc.c
    # HugeTLB.
    "hstates": ("struct hstate []",),  # mm/hugetlb.c
    "hugetlb_max_hstate": ("int",),  # mm/hugetlb.c
    "default_hstate_idx": ("unsigned int",),  # mm/hugetlb.c
    "vmemmap_optimize_enabled": ("bool",),  # mm/hugetlb_vmemmap.c
    # mm/hugetlb_vmemmap.c
    "hugetlb_optimize_vmemmap_key": ("struct static_key_false", "struct static_key_true"),
    # Devices.
    "dax_bus_type": ("struct bus_type",),  # drivers/dax/bus.c
    "bus_kset": ("struct kset *",),  # drivers/base/bus.c
    # Modules.
    "modules": ("struct list_head",),  # kernel/module/main.c
    "btf_modules": ("struct list_head",),  # kernel/bpf/btf.c
    # CPUs, for per-CPU counters.
    "__per_cpu_offset": ("unsigned long []",),  # mm/percpu.c
    "__cpu_online_mask": ("struct cpumask",),  # kernel/cpu.c
    "__cpu_possible_mask": ("struct cpumask",),  # kernel/cpu.c
    "__cpu_present_mask": ("struct cpumask",),  # kernel/cpu.c
    "nr_cpu_ids": ("unsigned int",),  # kernel/smp.c
    # The log, and who stopped the kernel.
    "prb": ("struct printk_ringbuffer *",),  # kernel/printk/printk.c
    "panic_cpu": ("atomic_t",),  # kernel/panic.c
    # The kernel itself.
    "init_uts_ns": ("struct uts_namespace",),  # init/version.c
    "init_task": ("struct task_struct",),  # init/init_task.c
    "saved_command_line": ("char *",),  # init/main.c
}


def variables_of(platform: Platform | None) -> Variables:
    """Return the variables of all architectures and of this one."""
    try:
        return {**GLOBALS, **architecture_of(platform).variables}
    except UnsupportedError:
        return GLOBALS
