# SPDX-License-Identifier: LGPL-2.1-or-later
"""
riscv64: Sv39, Sv48 and Sv57, 4 KiB base pages.

Sources: ``arch/riscv/include/asm/pgtable-bits.h``, ``asm/pgtable-64.h`` (entry bits),
``arch/riscv/kernel/vmcore_info.c``, ``arch/riscv/mm/init.c: vmemmap_populate()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ..errors import UnsupportedError
from ..vmcoreinfo import number, symbol
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

_PRESENT = 1 << 0
_READ = 1 << 1
_WRITE = 1 << 2
_EXEC = 1 << 3
_LEAF = _READ | _WRITE | _EXEC
#: _PAGE_PFN_MASK, and _PAGE_PFN_SHIFT less PAGE_SHIFT
_ADDRESS = (AddressBits((1 << 54) - (1 << 10), 2),)

#: names as in the macros _PAGE_*
_FLAGS = (
    EntryFlag("PRESENT", _PRESENT),
    EntryFlag("READ", _READ),
    EntryFlag("WRITE", _WRITE),
    EntryFlag("EXEC", _EXEC),
    EntryFlag("USER", 1 << 4),
    EntryFlag("GLOBAL", 1 << 5),
    EntryFlag("ACCESSED", 1 << 6),
    EntryFlag("DIRTY", 1 << 7),
    EntryFlag("SPECIAL", 1 << 8),
    EntryFlag("NAPOT", 1 << 63, table=False),
)


def _page_table(vmcoreinfo: Mapping[str, str], read: Callable[[int], int]) -> PageTable:
    # Chosen at boot, by the hardware and the command line.
    bits = number(vmcoreinfo, "VA_BITS")
    if bits not in (39, 48, 57):
        raise UnsupportedError(f"riscv64 has no virtual addresses of {bits} bits")
    upper = EntryFormat(
        present=Bits(_PRESENT, _PRESENT),
        table=Bits(_LEAF, 0),
        frame=_ADDRESS,
        pointer=_ADDRESS,
        writable=Bits(_WRITE, _WRITE),
        no_execute=Bits(_EXEC, 0),
    )
    return PageTable(
        root=(symbol(vmcoreinfo, "swapper_pg_dir") - number(vmcoreinfo, "va_kernel_pa_offset"))
        % (1 << 64),
        levels=levels_of(bits, 12, 9, upper, replace(upper, table=None)),
        dtype="<u8",
        flags=_FLAGS,
    )


ARCHITECTURE = Architecture(
    name="riscv64",
    page_table=_page_table,
    optimizes_dax_vmemmap=True,
    vmemmap_leaf=lambda size: 1 << 21,
    leaves_in_parts=True,
    # The upper half of 57 bits, sign-extended.
    kernel_space=-(1 << 56) % (1 << 64),
    # The struct page of frame 0 lies below: RAM starts at 2 GiB.
    vmemmap=vmemmap_of_note,
    # PAGE_KERNEL_RO is PAGE_KERNEL (include/linux/pgtable.h)
    read_only=False,
    # drgn 0.3 has no walker for its page tables
    drgn_walks=lambda keys: False,
    # arch/riscv/include/uapi/asm/ptrace.h: struct user_regs_struct
    registers=(
        "pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11"
        " t3 t4 t5 t6"
    ),
)
