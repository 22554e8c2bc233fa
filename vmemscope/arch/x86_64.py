# SPDX-License-Identifier: LGPL-2.1-or-later
"""
x86-64: 4- and 5-level paging, 4 KiB base pages.

Sources: ``arch/x86/include/asm/pgtable_types.h`` (entry bits),
``arch/x86/mm/init_64.c: vmemmap_populate()``, Documentation/arch/x86/x86_64/mm.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ..vmcoreinfo import number, symbol
from . import AddressBits, Architecture, Bits, EntryFlag, EntryFormat, Level, PageTable

# Low 52 bits without the offset in a page: the widest __PHYSICAL_MASK & PAGE_MASK. It
# has the PAT bit of a large leaf (bit 12); a leaf is aligned to its size, so the walk
# drops that bit with the alignment.
_PTE_PFN_MASK = 0x000F_FFFF_FFFF_F000

_PRESENT = 1 << 0
_RW = 1 << 1
_PSE = 1 << 7
_NX = 1 << 63

#: names as in the macros _PAGE_BIT_*
_FLAGS = (
    EntryFlag("PRESENT", _PRESENT),
    EntryFlag("RW", _RW),
    EntryFlag("USER", 1 << 2),
    EntryFlag("PWT", 1 << 3),
    EntryFlag("PCD", 1 << 4),
    EntryFlag("ACCESSED", 1 << 5),
    EntryFlag("DIRTY", 1 << 6),
    EntryFlag("PSE", _PSE, table=False, base=False),
    EntryFlag("PAT", 1 << 7, table=False, large=False),
    EntryFlag("GLOBAL", 1 << 8),
    EntryFlag("PAT", 1 << 12, table=False, base=False),
    EntryFlag("NX", _NX),
)

# The vmemmap always ends below the CPU entry areas
# (asm/pgtable_64_types.h: CPU_ENTRY_AREA_PGD, arch/x86/mm/kaslr.c).
_CPU_ENTRY_AREA_BASE = 0xFFFF_FE00_0000_0000

_START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000

#: name, log2 of the bytes that an entry covers; the first is there with 5 levels only
_LEVELS = (("pgd", 48), ("p4d", 39), ("pud", 30), ("pmd", 21), ("pte", 12))

_VARIABLES = {
    "init_top_pgt": ("pgd_t []",),  # arch/x86/kernel/head_64.S
    "vmemmap_base": ("unsigned long",),  # arch/x86/kernel/head64.c
    "page_offset_base": ("unsigned long",),  # arch/x86/kernel/head64.c
    "vmalloc_base": ("unsigned long",),  # arch/x86/kernel/head64.c
    "phys_base": ("unsigned long",),  # arch/x86/kernel/head_64.S
    "__pgtable_l5_enabled": ("unsigned int",),  # arch/x86/kernel/head64.c
    "sme_me_mask": ("u64",),  # arch/x86/mm/mem_encrypt_amd.c
    "physical_mask": ("phys_addr_t",),  # arch/x86/mm/pgtable.c
    "unused_pmd_start": ("unsigned long",),  # arch/x86/mm/init_64.c
}


def _page_table(vmcoreinfo: Mapping[str, str], read: Callable[[int], int]) -> PageTable:
    # init_mm.pgd is swapper_pg_dir, in the kernel image
    # (arch/x86/include/asm/page_64.h: __phys_addr_nodebug()).
    pgd = symbol(vmcoreinfo, "swapper_pg_dir")
    phys_base = number(vmcoreinfo, "phys_base", 0)
    five_levels = number(vmcoreinfo, "pgtable_l5_enabled", 0)
    # With memory encryption a bit of the physical address says "encrypted".
    sme_mask = number(vmcoreinfo, "sme_mask", 0)
    address = (AddressBits(_PTE_PFN_MASK & ~sme_mask),)
    upper = EntryFormat(
        present=Bits(_PRESENT, _PRESENT),
        table=Bits(_PSE, 0),
        frame=address,
        pointer=address,
        writable=Bits(_RW, _RW),
        no_execute=Bits(_NX, _NX),
    )
    last = replace(upper, table=None)
    levels = _LEVELS if five_levels else _LEVELS[1:]
    return PageTable(
        root=(pgd - _START_KERNEL_MAP + phys_base) % (1 << 64),
        levels=tuple(
            Level(name, shift, 9, last if name == "pte" else upper) for name, shift in levels
        ),
        dtype="<u8",
        flags=(*_FLAGS, EntryFlag("ENCRYPTED", sme_mask)) if sme_mask else _FLAGS,
    )


ARCHITECTURE = Architecture(
    name="x86_64",
    page_table=_page_table,
    optimizes_dax_vmemmap=True,
    vmemmap_leaf=lambda size: 1 << 21,
    # The upper half of 57 bits, sign-extended.
    kernel_space=-(1 << 56) % (1 << 64),
    vmemmap=lambda vmcoreinfo, variable: (0, _CPU_ENTRY_AREA_BASE),
    # arch/x86/mm/pgtable.c: pgd_ctor(); arch/x86/mm/init_64.c: sync_global_pgds()
    copies_kernel_entries=True,
    # disp32 and imm32
    constant="<u4",
    # drgn takes the bit of memory encryption for a part of the address.
    drgn_walks=lambda keys: not number(keys, "sme_mask", 0),
    libkdumpfile=True,
    variables=_VARIABLES,
    # arch/x86/include/asm/user_64.h: struct user_regs_struct, up to the segments
    registers=("R15 R14 R13 R12 RBP RBX R11 R10 R9 R8 RAX RCX RDX RSI RDI ORIG_RAX RIP"),
)
