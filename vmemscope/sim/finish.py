# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is left to do before a kernel is dumped: variables, free lists, BTF, kallsyms."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from . import btf, kallsyms
from .addresses import IMAGE_SIZE
from .kernel_image import promoted
from .options import symbols_without, types_without
from .percpu import NR_CPUS
from .printk import boot_messages, write_log
from .units import MIB, PHYSICAL_MASK
from .vmcoreinfo import vmcoreinfo

if TYPE_CHECKING:
    from .kernel import SimulatedKernel
    from .layouts import Layouts

__all__ = ("finish",)


def finish(kernel: SimulatedKernel) -> str:
    """
    Write what depends on all else: variables, free lists, BTF, kallsyms.

    :return: the text of VMCOREINFO
    """
    units = kernel.units
    write_log(kernel.image, [*boot_messages(kernel.layouts.release), *kernel.scenario.messages])
    free = kernel.nodes.add_free_pages(kernel.pages, kernel.memmap)
    kernel.nodes.set_managed_pages(kernel.managed)
    _define_variables(kernel, free)
    _write_btf(kernel)
    kallsyms_symbols = _write_kallsyms(kernel)
    for step in kernel.last_steps:
        step()
    symbols = {symbol.name: symbol.address for symbol in kernel.image.symbols}
    symbols |= kallsyms_symbols
    size = kernel.layouts.sizeof("nodemask_t")
    symbols["node_online_map"] = symbols["node_states"] + kernel.layouts.constant("N_ONLINE") * size
    text = vmcoreinfo(
        kernel.layouts,
        kernel.behaviour,
        kernel.addresses,
        symbols,
        kernel.mem_section,
        kernel.section_roots,
        kernel.build_id,
        kernel.units,
        kernel.arch.keys(kernel.addresses, symbols),
        kernel.sme_mask,
    )
    # update_vmcoreinfo_note(): an ELF note at the start of a page
    note = struct.pack(f"{units.mark}III12s", 11, len(text), 0, b"VMCOREINFO") + text.encode()
    kernel.memory.write(kernel.image.room("data", 2 * units.page_size, units.page_size), note)
    if kernel.sme_mask:
        kernel.tables.encrypt(kernel.sme_mask, kernel.tasks.pgds)
    return text


def _define_variables(kernel: SimulatedKernel, free: int) -> None:
    addresses, layouts, image = kernel.addresses, kernel.layouts, kernel.image
    image.define_word("mem_section", kernel.mem_section)
    image.define_word(kernel.behaviour.highest_section, kernel.sections.highest_present)
    image.define_word("vmemmap_base", addresses.vmemmap_base)
    image.define_word("page_offset_base", addresses.page_offset_base)
    image.define_word("vmalloc_base", addresses.vmalloc_base)
    image.define_word("phys_base", addresses.phys_base)
    image.define_word("physical_mask", PHYSICAL_MASK & ~kernel.sme_mask)
    image.define_word("sme_me_mask", kernel.sme_mask)
    image.define_word("__pgtable_l5_enabled", int(addresses.levels == 5), 4)
    image.define_word("pgdir_shift", 48 if addresses.levels == 5 else 39, 4)
    image.define_word("ptrs_per_p4d", 512 if addresses.levels == 5 else 1, 4)
    image.define_word("max_pfn", max(end for _, end, _ in kernel.ram))
    image.define_word("unused_pmd_start", kernel.vmemmap.unused_pmd_start, static=True)
    image.define_word("_totalram_pages", sum(kernel.managed.values()))
    image.define_word("nr_node_ids", max(kernel.nodes.pgdats) + 1, 4)
    image.define_word("nr_online_nodes", len(kernel.nodes.pgdats), 4)
    image.define_word("nr_cpu_ids", NR_CPUS, 4)
    # PANIC_CPU_INVALID
    image.define_word("panic_cpu", crash.cpu if (crash := kernel.scenario.crash) else -1, 4)
    vm_zone_stat = image.define(
        "vm_zone_stat", 8 * layouts.constant("NR_VM_ZONE_STAT_ITEMS"), "bss"
    )
    kernel.memory.write_int(vm_zone_stat + 8 * layouts.constant("NR_FREE_PAGES"), free)
    for mask in ("possible", "online", "present"):
        va = image.define(f"__cpu_{mask}_mask", layouts.sizeof("cpumask"))
        kernel.memory.write_int(va, (1 << NR_CPUS) - 1)
    # NR_CPUS is 8192 in Debian's configuration.
    offsets = image.define("__per_cpu_offset", 8192 * 8, "bss")
    for cpu, offset in enumerate(kernel.percpu.offsets):
        kernel.memory.write_int(offsets + cpu * 8, offset)
    if kernel.behaviour.percpu_in_image:
        image.label("__per_cpu_start", kernel.percpu.start)
    boot = kernel.boot_pages - kernel.hugetlb.freed
    for name, value in (
        ("nr_memmap_pages", kernel.vmemmap.nr_memmap_pages),
        ("nr_memmap_boot_pages", boot),
    ):
        if name in kernel.counters:
            kernel.memory.write_int(image[name], value + kernel.counters[name])
    image.define_struct("init_mm", "mm_struct")["pgd"] = image["swapper_pg_dir"]
    uts = image.define_struct("init_uts_ns", "uts_namespace")
    for member, text in (
        ("sysname", "Linux"),
        ("nodename", "simulated"),
        ("release", layouts.release),
        ("version", "#1 SMP PREEMPT_DYNAMIC vmemscope"),
        ("machine", kernel.arch.name),
    ):
        uts.set_bytes(f"name.{member}", text.encode())
    compiler = "Debian clang version 19.1.7" if kernel.scenario.lto else "gcc-14 (Debian)"
    banner = f"Linux version {layouts.release} (simulated) ({compiler}) #1 SMP\n\0".encode()
    kernel.memory.write(image.define("linux_banner", len(banner), "rodata"), banner)
    head = image.define("btf_modules", 16, "data", static=True)
    kernel.memory.write_int(head, head)
    kernel.memory.write_int(head + 8, head)
    kernel.arch.define(image)
    image.define("vmemmap_populate", 256, "text", 16)
    if kernel.sections.have_orders:
        image.define("vmemmap_shared_tail_page", 256, "text", 16)
    image.label("_etext", image.section("text") + 2 * MIB, "T")
    image.label("_end", image.text + IMAGE_SIZE, "B")


@lru_cache(maxsize=16)
def _btf(layouts: Layouts, off: tuple[str, ...], mark: str) -> bytes:
    """Return the BTF of a kernel's types, the same for most simulated kernels."""
    return btf.encode(types_without(layouts.types, off), mark)


def _write_btf(kernel: SimulatedKernel) -> None:
    data = _btf(kernel.layouts, kernel.off, kernel.units.mark)
    va = kernel.image.room("rodata", len(data), kernel.units.page_size)
    kernel.memory.write(va, data)
    kernel.image.label("__start_BTF", va, "R")
    kernel.image.label("__stop_BTF", va + len(data), "R")


def _write_kallsyms(kernel: SimulatedKernel) -> dict[str, int]:
    """
    Write the tables of kallsyms.

    :return: their own addresses, which kallsyms does not list
    """
    symbols = symbols_without(kernel.image.symbols, kernel.off)
    if kernel.scenario.lto:
        symbols = promoted(symbols)
    table = kallsyms.encode(symbols, mark=kernel.units.mark)
    written: dict[str, int] = {}

    def place(name: str, data: bytes) -> int:
        va = written[name] = kernel.image.room("rodata", len(data))
        kernel.memory.write(va, data)
        return va

    place("kallsyms_num_syms", table.num_syms)
    place("kallsyms_names", table.names)
    place("kallsyms_markers", table.markers)
    place("kallsyms_seqs_of_names", table.seqs_of_names)
    place("kallsyms_token_table", table.token_table)
    place("kallsyms_token_index", table.token_index)
    if kernel.behaviour.kallsyms_place_relative:
        va = place("kallsyms_offsets", bytes(4 * len(table.symbols)))
        kernel.memory.write(va, table.offsets_place_relative(va))
    else:
        base = kernel.image.text
        place("kallsyms_relative_base", base.to_bytes(8, kernel.units.order))
        place("kallsyms_offsets", table.offsets_absolute_percpu(base))
    return written
