# SPDX-License-Identifier: LGPL-2.1-or-later
"""
C types of kernel variables.

Kallsyms says where a variable is and BTF describes types, but nothing in a
kernel says which type a variable has (BTF has that of per-CPU variables only).
:data:`GLOBALS` does, for the variables that vmemscope and the drgn helpers that
it uses ask for. One that a kernel doesn't have has no symbol there, so the table
says nothing of versions; where a variable changed its type, all its types are
listed, the newest first, and the first one that the kernel has counts.

Arrays whose length depends on the configuration are of unknown length here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from drgn import Architecture

__all__ = ("GLOBALS", "Global")


class Global(NamedTuple):
    """A variable of the kernel."""

    name: str
    #: C types, newest first.
    types: tuple[str, ...]
    #: Where the kernel defines it.
    source: str
    #: Architectures on which it is of this type; ``None`` for all of them.
    architectures: tuple[Architecture, ...] | None = None


_X86_64: Final = (Architecture.X86_64,)
_AARCH64: Final = (Architecture.AARCH64,)
_RISCV64: Final = (Architecture.RISCV64,)
_PPC64: Final = (Architecture.PPC64,)
_S390X: Final = (Architecture.S390X,)
_LOONGARCH: Final = tuple(a for a in Architecture if a.name.startswith("LOONGARCH"))

GLOBALS: Final[dict[str, Global]] = {
    variable.name: variable
    for variable in (
        # Device memory and the memory map.
        Global("pgmap_array", ("struct xarray",), "mm/memremap.c"),
        Global("mem_section", ("struct mem_section **",), "mm/sparse.c"),
        Global("__highest_present_section_nr", ("unsigned long",), "mm/sparse.c"),
        Global("nr_memmap_pages", ("atomic_long_t",), "mm/vmstat.c"),
        Global("nr_memmap_boot_pages", ("atomic_long_t",), "mm/vmstat.c"),
        Global("iomem_resource", ("struct resource",), "kernel/resource.c"),
        # Page tables.
        Global("init_mm", ("struct mm_struct",), "mm/init-mm.c"),
        Global("swapper_pg_dir", ("pgd_t []",), "arch/*/mm"),
        Global("init_top_pgt", ("pgd_t []",), "arch/x86/kernel/head_64.S", _X86_64),
        # Where memory and its maps are.
        Global("vmemmap_base", ("unsigned long",), "arch/x86/kernel/head64.c", _X86_64),
        Global("page_offset_base", ("unsigned long",), "arch/x86/kernel/head64.c", _X86_64),
        Global("vmalloc_base", ("unsigned long",), "arch/x86/kernel/head64.c", _X86_64),
        Global("phys_base", ("unsigned long",), "arch/x86/kernel/head_64.S", _X86_64),
        Global("__pgtable_l5_enabled", ("unsigned int",), "arch/x86/kernel/head64.c", _X86_64),
        Global("sme_me_mask", ("u64",), "arch/x86/mm/mem_encrypt_amd.c", _X86_64),
        Global("physical_mask", ("phys_addr_t",), "arch/x86/mm/pgtable.c", _X86_64),
        Global("unused_pmd_start", ("unsigned long",), "arch/x86/mm/init_64.c", _X86_64),
        Global("memstart_addr", ("s64",), "arch/arm64/mm/init.c", _AARCH64),
        Global("kimage_voffset", ("u64",), "arch/arm64/mm/mmu.c", _AARCH64),
        Global("vabits_actual", ("u64",), "arch/arm64/mm/mmu.c", _AARCH64),
        Global("vmemmap_start_pfn", ("unsigned long",), "arch/riscv/mm/init.c", _RISCV64),
        Global("phys_ram_base", ("phys_addr_t",), "arch/riscv/mm/init.c", _RISCV64),
        Global("pgtable_l4_enabled", ("bool",), "arch/riscv/mm/init.c", _RISCV64),
        Global("pgtable_l5_enabled", ("bool",), "arch/riscv/mm/init.c", _RISCV64),
        Global("vmemmap", ("struct page *",), "arch/powerpc/mm, arch/s390/boot", _PPC64 + _S390X),
        Global("vmemmap_list", ("struct vmemmap_backing *",), "arch/powerpc/mm/init_64.c", _PPC64),
        Global("mmu_vmemmap_psize", ("int",), "arch/powerpc/mm/book3s64/hash_utils.c", _PPC64),
        Global("cur_cpu_spec", ("struct cpu_spec *",), "arch/powerpc/kernel/cputable.c", _PPC64),
        Global("vm_map_base", ("unsigned long",), "arch/loongarch/kernel/cpu-probe.c", _LOONGARCH),
        Global("min_low_pfn", ("unsigned long",), "mm/memblock.c"),
        Global("max_low_pfn", ("unsigned long",), "mm/memblock.c"),
        Global("max_pfn", ("unsigned long",), "mm/memblock.c"),
        Global("_totalram_pages", ("atomic_long_t",), "mm/show_mem.c"),
        # Nodes.
        Global("node_data", ("struct pglist_data *[]",), "mm/numa.c, arch/*/mm/numa.c"),
        Global("contig_page_data", ("struct pglist_data",), "mm/memblock.c"),
        Global("node_states", ("nodemask_t []",), "mm/page_alloc.c"),
        Global("nr_node_ids", ("unsigned int",), "mm/page_alloc.c"),
        # HugeTLB.
        Global("hstates", ("struct hstate []",), "mm/hugetlb.c"),
        Global("hugetlb_max_hstate", ("int",), "mm/hugetlb.c"),
        Global("default_hstate_idx", ("unsigned int",), "mm/hugetlb.c"),
        Global("vmemmap_optimize_enabled", ("bool",), "mm/hugetlb_vmemmap.c"),
        Global(
            "hugetlb_optimize_vmemmap_key",
            ("struct static_key_false", "struct static_key_true"),
            "mm/hugetlb_vmemmap.c",
        ),
        # Devices.
        Global("dax_bus_type", ("struct bus_type",), "drivers/dax/bus.c"),
        Global("bus_kset", ("struct kset *",), "drivers/base/bus.c"),
        # Modules.
        Global("modules", ("struct list_head",), "kernel/module/main.c"),
        Global("btf_modules", ("struct list_head",), "kernel/bpf/btf.c"),
        # CPUs, for per-CPU counters.
        Global("__per_cpu_offset", ("unsigned long []",), "mm/percpu.c"),
        Global("__cpu_online_mask", ("struct cpumask",), "kernel/cpu.c"),
        Global("__cpu_possible_mask", ("struct cpumask",), "kernel/cpu.c"),
        Global("__cpu_present_mask", ("struct cpumask",), "kernel/cpu.c"),
        Global("nr_cpu_ids", ("unsigned int",), "kernel/smp.c"),
        # The kernel itself.
        Global("init_uts_ns", ("struct uts_namespace",), "init/version.c"),
        Global("init_task", ("struct task_struct",), "init/init_task.c"),
        Global("saved_command_line", ("char *",), "init/main.c"),
    )
}
