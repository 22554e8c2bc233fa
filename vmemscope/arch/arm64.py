# SPDX-License-Identifier: LGPL-2.1-or-later
"""
arm64: base pages of 4, 16 and 64 KiB, virtual addresses of 39 to 52 bits.

Sources: ``arch/arm64/include/asm/pgtable-hwdef.h`` (entry bits),
``arch/arm64/kernel/vmcore_info.c``, ``arch/arm64/mm/mmu.c: vmemmap_populate()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ..errors import UnsupportedError
from ..vmcoreinfo import number, page_size, symbol
from . import (
    AddressBits,
    Architecture,
    Bits,
    EntryFlag,
    EntryFormat,
    PageTable,
    levels_of,
    vmemmap_of_note,
)

_VALID = 1 << 0
_TABLE = 1 << 1
_RDONLY = 1 << 7
_PXN = 1 << 53

#: names as in the macros PTE_*
_FLAGS = (
    EntryFlag("VALID", _VALID),
    EntryFlag("TABLE", _TABLE, base=False),
    EntryFlag("USER", 1 << 6, table=False),
    EntryFlag("RDONLY", _RDONLY, table=False),
    EntryFlag("AF", 1 << 10, table=False),
    EntryFlag("NG", 1 << 11, table=False),
    EntryFlag("WRITE", 1 << 51, table=False),
    EntryFlag("CONT", 1 << 52, table=False),
    EntryFlag("PXN", _PXN, table=False),
    EntryFlag("UXN", 1 << 54, table=False),
    EntryFlag("DIRTY", 1 << 55, table=False),
    EntryFlag("SPECIAL", 1 << 56, table=False),
    EntryFlag("PXNTABLE", 1 << 59, large=False, base=False),
)


def _page_table(vmcoreinfo: Mapping[str, str], read: Callable[[int], int]) -> PageTable:
    size = page_size(vmcoreinfo)
    shift = size.bit_length() - 1
    if shift not in (12, 14, 16):
        raise UnsupportedError(f"arm64 has no base pages of {size} bytes")
    # What the kernel was built for, and what it uses: the hardware may have less. Tables of
    # 64 KiB have a level for the larger of both, and are used from an offset on.
    bits = number(vmcoreinfo, "VA_BITS")
    if shift < 16:
        bits = 64 - number(vmcoreinfo, "TCR_EL1_T1SZ", 64 - bits)
    if not 36 <= bits <= 52:
        raise UnsupportedError(f"arm64 has no virtual addresses of {bits} bits")
    address: tuple[AddressBits, ...] = (AddressBits((1 << 48) - size),)
    if shift == 16:
        # FEAT_LPA: 51:48 of the address are bits 15:12, which are 0 without it.
        address += (AddressBits(0xF000, 36),)
    elif bits == 52:
        # FEAT_LPA2: bits 9:8 are 51:50. The kernel has it where it has 52 virtual bits.
        address = (AddressBits((1 << 50) - size), AddressBits(0x300, 42))
    upper = EntryFormat(
        present=Bits(_VALID, _VALID),
        table=Bits(_TABLE, _TABLE),
        frame=address,
        pointer=address,
        writable=Bits(_RDONLY, 0),
        no_execute=Bits(_PXN, _PXN),
    )
    last = replace(upper, present=Bits(_VALID | _TABLE, _VALID | _TABLE), table=None)
    return PageTable(
        root=(symbol(vmcoreinfo, "swapper_pg_dir") - number(vmcoreinfo, "kimage_voffset"))
        % (1 << 64),
        levels=levels_of(bits, shift, shift - 3, upper, last),
        dtype="<u8",
        flags=_FLAGS,
    )


ARCHITECTURE = Architecture(
    name="arm64",
    page_table=_page_table,
    # ARCH_WANT_OPTIMIZE_DAX_VMEMMAP is not selected (to 7.3)
    optimizes_dax_vmemmap=False,
    # A pmd, where base pages have 4 KiB (vmemmap_populate()).
    vmemmap_leaf=lambda size: 1 << 21 if size == 4096 else size,
    # The upper part of 52 bits.
    kernel_space=-(1 << 52) % (1 << 64),
    # The struct page of frame 0 can lie below, where RAM starts higher.
    vmemmap=vmemmap_of_note,
    altmap_base_pages=True,
    variables={
        "memstart_addr": ("s64",),  # arch/arm64/mm/init.c
        "kimage_voffset": ("u64",),  # arch/arm64/mm/mmu.c
        "vabits_actual": ("u64",),  # arch/arm64/mm/mmu.c
    },
    # arch/arm64/include/uapi/asm/ptrace.h: struct user_pt_regs
    registers=" ".join(f"x{number}" for number in range(31)) + " sp pc",
)
