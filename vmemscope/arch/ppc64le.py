# SPDX-License-Identifier: LGPL-2.1-or-later
"""
ppc64, little-endian, with the radix MMU: base pages of 4 and 64 KiB.

Sources: ``arch/powerpc/include/asm/book3s/64/pgtable.h``, ``radix-4k.h``, ``radix-64k.h``,
``arch/powerpc/kexec/core.c: arch_crash_save_vmcoreinfo()``,
``arch/powerpc/mm/book3s64/radix_pgtable.c: radix__vmemmap_populate()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..errors import TargetError, UnsupportedError
from ..vmcoreinfo import number, page_size, symbol
from . import AddressBits, Architecture, Bits, EntryFlag, EntryFormat, Level, PageTable

_PRESENT = 1 << 63
_PTE = 1 << 62
_EXEC = 1 << 0
_WRITE = 1 << 1

#: names as in the macros _PAGE_*
_FLAGS = (
    EntryFlag("PRESENT", _PRESENT),
    EntryFlag("PTE", _PTE),
    EntryFlag("EXEC", _EXEC, table=False),
    EntryFlag("WRITE", _WRITE, table=False),
    EntryFlag("READ", 1 << 2, table=False),
    EntryFlag("PRIVILEGED", 1 << 3, table=False),
    EntryFlag("DIRTY", 1 << 7, table=False),
    EntryFlag("ACCESSED", 1 << 8, table=False),
)

#: the kernel's direct map starts here: 0xc << 60
_PAGE_OFFSET_MASK = (1 << 60) - 1
#: of the vmemmap, RADIX_VMEMMAP_START and what lies behind it
_VMEMMAP = (0xC00C_0000_0000_0000, 0xC00D_0000_0000_0000)


def _page_table(vmcoreinfo: Mapping[str, str], read: Callable[[int], int]) -> PageTable:
    shift = page_size(vmcoreinfo).bit_length() - 1
    if shift not in (12, 16):
        raise UnsupportedError(f"ppc64 has no base pages of {1 << shift} bytes")
    _check_radix(vmcoreinfo, read)
    upper = EntryFormat(
        present=Bits(_PRESENT, _PRESENT),
        table=Bits(_PTE, 0),
        # RPN
        frame=(AddressBits((1 << 57) - (1 << 12)),),
        pointer=(AddressBits(0x3FFF_FFFF_FFFF_FF00),),
        writable=Bits(_WRITE, _WRITE),
        no_execute=Bits(_EXEC, 0),
    )
    return PageTable(
        root=symbol(vmcoreinfo, "swapper_pg_dir") & _PAGE_OFFSET_MASK,
        levels=(
            Level("pgd", 39, 13, upper),
            Level("pud", 30, 9, upper),
            Level("pmd", 21, 9, upper),
            Level("pte", shift, 21 - shift, replace(upper, table=None)),
        ),
        # Of any kernel: the hardware reads them.
        dtype=">u8",
        flags=_FLAGS,
    )


def _check_radix(vmcoreinfo: Mapping[str, str], read: Callable[[int], int]) -> None:
    """Refuse the hash MMU, as far as VMCOREINFO says where that is to be found."""
    try:
        radix = number(vmcoreinfo, "RADIX_MMU")
        cpu_spec = symbol(vmcoreinfo, "cur_cpu_spec") & _PAGE_OFFSET_MASK
        offset = int(vmcoreinfo["OFFSET(cpu_spec.mmu_features)"])
        # An unsigned int at a multiple of 4, read as part of a word of 8 bytes.
        address = (read(cpu_spec) & _PAGE_OFFSET_MASK) + offset
        features = read(address & -8) >> (address & 7) * 8 & 0xFFFF_FFFF
    except (KeyError, ValueError, TargetError):
        return
    if not features & radix:
        raise UnsupportedError("ppc64 with the hash MMU is not supported", "supported: radix")


ARCHITECTURE = Architecture(
    name="ppc64le",
    page_table=_page_table,
    optimizes_dax_vmemmap=True,
    vmemmap_leaf=lambda size: 1 << 21,
    leaves_in_parts=True,
    kernel_space=0xC000_0000_0000_0000,
    vmemmap=lambda vmcoreinfo, variable: _VMEMMAP,
    altmap_base_pages=True,
    aligns_compounds=True,
    # arch/powerpc/Kconfig: ILLEGAL_POINTER_VALUE
    poison=0x5DEA_DBEE_F000_0000,
    variables={
        "cur_cpu_spec": ("struct cpu_spec *",),  # arch/powerpc/kernel/cputable.c
    },
    # arch/powerpc/include/uapi/asm/ptrace.h: struct pt_regs
    registers=" ".join(f"r{number}" for number in range(32)) + " nip",
)
