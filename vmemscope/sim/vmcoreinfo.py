# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The VMCOREINFO note.

Sources: ``kernel/crash_core.c`` (later ``kernel/vmcore_info.c``) and
``arch/x86/kernel/vmcore_info_64.c``. What is only of use to read the log buffer
or vmalloc areas, which are not simulated, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from .addresses import KERNEL_IMAGE_SIZE, AddressSpace
from .layouts import Layouts
from .nodes import MAX_NUMNODES, NR_PAGE_ORDERS
from .units import Units
from .versions import Behaviour

__all__ = ("vmcoreinfo",)

_KALLSYMS = (
    "kallsyms_names",
    "kallsyms_num_syms",
    "kallsyms_token_table",
    "kallsyms_token_index",
    "kallsyms_offsets",
    "kallsyms_relative_base",
)
_SIZES = ("page", "pglist_data", "zone", "free_area", "list_head", "nodemask_t")
_OFFSETS = (
    "page.flags",
    "page._refcount",
    "page.mapping",
    "page.lru",
    "page._mapcount",
    "page.private",
    "page.compound_dtor",
    "page.compound_order",
    "page.compound_head",
    "page.compound_info",
    "pglist_data.node_zones",
    "pglist_data.nr_zones",
    "pglist_data.node_start_pfn",
    "pglist_data.node_spanned_pages",
    "pglist_data.node_id",
    "zone.free_area",
    "zone.vm_stat",
    "zone.spanned_pages",
    "free_area.free_list",
    "list_head.next",
    "list_head.prev",
)


def vmcoreinfo(
    layouts: Layouts,
    behaviour: Behaviour,
    addresses: AddressSpace,
    symbols: Mapping[str, int],
    mem_section: int,
    section_roots: int,
    build_id: str,
    units: Units,
    arch_keys: list[str] | None,
    sme_mask: int,
) -> str:
    """
    Make the text.

    :param symbols: addresses of kernel variables
    :param arch_keys: the lines of another architecture; ``None``: x86-64's
    :param mem_section: value of the variable (what SYMBOL() of an array yields)
    """
    lines = [
        f"OSRELEASE={layouts.release}",
        f"BUILD-ID={build_id}",
        f"PAGESIZE={units.page_size}",
    ]

    def symbol(name: str, value: int | None = None) -> None:
        lines.append(f"SYMBOL({name})={symbols[name] if value is None else value:x}")

    def number(name: str, value: int | str) -> None:
        lines.append(f"NUMBER({name})={value}")

    def offset(name: str) -> None:
        struct, member = name.split(".")
        if layouts.has_member(struct, member):
            lines.append(f"OFFSET({name})={layouts.offsetof(struct, member)}")

    symbol("init_uts_ns")
    offset("uts_namespace.name")
    symbol("node_online_map")
    symbol("swapper_pg_dir")
    symbol("_stext")
    if behaviour.vmcoreinfo_vmemmap:
        number("VMALLOC_START", f"{addresses.vmalloc_base:#x}")
        symbol("vmemmap", addresses.vmemmap_base)
    symbol("mem_section", mem_section)
    lines.append(f"LENGTH(mem_section)={section_roots}")
    lines.append(f"SIZE(mem_section)={layouts.sizeof('mem_section')}")
    offset("mem_section.section_mem_map")
    number("SECTION_SIZE_BITS", units.section_bits)
    number("MAX_PHYSMEM_BITS", addresses.max_physmem_bits)
    lines += [f"SIZE({name})={layouts.sizeof(name)}" for name in _SIZES]
    for name in _OFFSETS:
        offset(name)
    lines.append(f"LENGTH(zone.free_area)={NR_PAGE_ORDERS}")
    lines.append(f"SIZE(atomic_long_t)={layouts.sizeof('atomic_long_t')}")
    offset("atomic_long_t.counter")
    lines.append(f"LENGTH(free_area.free_list)={layouts.constant('MIGRATE_TYPES')}")
    number("NR_FREE_PAGES", layouts.constant("NR_FREE_PAGES"))
    for flag in ("lru", "private", "swapcache", "swapbacked", "slab", "hwpoison"):
        if layouts.has_constant(f"PG_{flag}"):
            number(f"PG_{flag}", layouts.constant(f"PG_{flag}"))
    number("PG_head_mask", 1 << layouts.constant("PG_head"))
    if layouts.has_constant("PGTY_buddy"):
        for name in ("slab", "buddy", "hugetlb", "offline"):
            value = (layouts.constant(f"PGTY_{name}") << 24) - (1 << 32)
            number(f"PAGE_{name.upper()}_MAPCOUNT_VALUE", value)
    else:
        number("PAGE_BUDDY_MAPCOUNT_VALUE", -129)
        number("HUGETLB_PAGE_DTOR", layouts.constant("HUGETLB_PAGE_DTOR"))
        number("PAGE_OFFLINE_MAPCOUNT_VALUE", -257)
    for name in _KALLSYMS:
        if name in symbols:
            symbol(name)
    lines += arch_keys or []
    if arch_keys is None:
        number("phys_base", addresses.phys_base)
        symbol("init_top_pgt")
        number("pgtable_l5_enabled", int(addresses.levels == 5))
    symbol("node_data")
    lines.append(f"LENGTH(node_data)={MAX_NUMNODES}")
    lines.append(f"KERNELOFFSET={addresses.kernel_offset:x}")
    if arch_keys is None:
        number("KERNEL_IMAGE_SIZE", KERNEL_IMAGE_SIZE)
        number("sme_mask", sme_mask)
    return "\n".join(lines) + "\n"
