# SPDX-License-Identifier: LGPL-2.1-or-later
"""
ppc64, little-endian, with the radix MMU: base pages of 4 and 64 KiB.

Sources: ``arch/powerpc/include/asm/book3s/64/pgtable.h``, ``radix-4k.h``, ``radix-64k.h``,
``arch/powerpc/kexec/core.c: arch_crash_save_vmcoreinfo()``,
``arch/powerpc/mm/book3s64/radix_pgtable.c: radix__vmemmap_populate()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

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
    root = symbol(vmcoreinfo, "swapper_pg_dir") & _PAGE_OFFSET_MASK
    _check_radix(vmcoreinfo, root, read)
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
        root=root,
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


def _check_radix(vmcoreinfo: Mapping[str, str], root: int, read: Callable[[int], int]) -> None:
    """
    Refuse the hash MMU.

    VMCOREINFO of newer kernels has early_radix_enabled(). For older ones, the page tables say it:
    with the hash MMU they have no direct map, which starts with their first entry
    (``arch/powerpc/mm/book3s64/hash_utils.c: htab_bolt_mapping()``).

    :param root: physical address of the top-level table
    """
    try:
        radix = number(vmcoreinfo, "RADIX_MMU", -1)
        if radix < 0:
            radix = read(root)
    except TargetError:
        # That the root is missing is said later.
        return
    if not radix:
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
