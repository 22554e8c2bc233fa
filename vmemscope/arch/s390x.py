# SPDX-License-Identifier: LGPL-2.1-or-later
"""
s390x: 4 KiB base pages, big-endian.

Sources: ``arch/s390/include/asm/pgtable.h`` (entry bits),
``arch/s390/kernel/vmcore_info.c``, ``arch/s390/mm/vmem.c: vmemmap_populate()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ..vmcoreinfo import symbol
from . import AddressBits, Architecture, Bits, EntryFlag, EntryFormat, Level, PageTable

_REGION_INVALID = 0x20
_PAGE_INVALID = 0x400
_LARGE = 0x400
_PROTECT = 0x200
_NOEXEC = 0x100
_ADDRESS = (AddressBits((1 << 64) - 4096),)
#: entries that a segment-table entry points to: 2 KiB
_PTES = (AddressBits((1 << 64) - 2048),)

#: arch/s390/include/uapi/asm/ptrace.h: PSW_MASK_PSTATE, PSW_MASK_ASC, PSW_ASC_*
_PROBLEM_STATE = 0x0001_0000_0000_0000
_SPACE, _PRIMARY, _HOME = 0xC000_0000_0000, 0, 0xC000_0000_0000

#: names as in the macros _PAGE_* and _SEGMENT_ENTRY_*
_FLAGS = (
    EntryFlag("PROTECT", _PROTECT),
    EntryFlag("NOEXEC", _NOEXEC),
    EntryFlag("LARGE", _LARGE, base=False),
    EntryFlag("PRESENT", 1 << 0, table=False, large=False),
    EntryFlag("READ", 1 << 4, table=False, large=False),
    EntryFlag("WRITE", 1 << 5, table=False, large=False),
)

#: type of a region or segment table (bits 3:2 of its entries) -> shift of its level
_SHIFTS = (20, 31, 42, 53)
_NAMES = {20: "pmd", 31: "pud", 42: "p4d", 53: "pgd"}


def _page_table(vmcoreinfo: Mapping[str, str], read: Callable[[int], int]) -> PageTable:
    # The kernel's image need not be where it is mapped (6.10).
    offset = int(vmcoreinfo.get("KERNELOFFSET", "0"), 16)
    physical = vmcoreinfo.get("KERNELOFFPHYS")
    root = symbol(vmcoreinfo, "swapper_pg_dir")
    if physical is not None:
        root = root - offset + int(physical, 16)
    upper = EntryFormat(
        present=Bits(_REGION_INVALID, 0),
        table=Bits(_LARGE, 0),
        frame=_ADDRESS,
        pointer=_ADDRESS,
        writable=Bits(_PROTECT, 0),
        no_execute=Bits(_NOEXEC, _NOEXEC),
    )
    last = replace(upper, present=Bits(_PAGE_INVALID, 0), table=None)
    top = _SHIFTS[read(root) >> 2 & 3]
    return PageTable(
        root=root,
        levels=(
            *(
                Level(
                    _NAMES[shift],
                    shift,
                    11,
                    replace(upper, pointer=_PTES) if shift == 20 else upper,
                )
                for shift in reversed(_SHIFTS)
                if shift <= top
            ),
            Level("pte", 12, 8, last),
        ),
        dtype=">u8",
        flags=_FLAGS,
    )


def _vmemmap(vmcoreinfo: Mapping[str, str], variable: Callable[[str], int]) -> tuple[int, int]:
    # Other areas lie between the vmemmap and vmalloc space
    # (arch/s390/boot/startup.c: setup_kernel_memory_layout()).
    areas = [variable(name) for name in ("__abs_lowcore", "__memcpy_real_area", "VMALLOC_START")]
    return 0, min(filter(None, areas), default=1 << 64)


def _in_kernel(registers: Mapping[str, int]) -> bool | None:
    # Address spaces overlap: the PSW says whose the CPU used.
    mask = registers.get("mask", 0)
    if mask & _PROBLEM_STATE:
        return False
    # The kernel runs in home space; before, and without translation, in primary space. It
    # uses the others to access a process's memory.
    return True if mask & _SPACE in (_PRIMARY, _HOME) else None


ARCHITECTURE = Architecture(
    name="s390x",
    page_table=_page_table,
    optimizes_dax_vmemmap=False,
    # A segment, where the CPU has EDAT1; base pages otherwise.
    vmemmap_leaf=lambda size: 1 << 20,
    leaves_in_parts=True,
    # vmem.c: cpu_has_edat1()
    leaves_by_cpu=True,
    # Any: the kernel may be mapped where it is.
    kernel_space=0,
    vmemmap=_vmemmap,
    altmap_base_pages=True,
    word=">u8",
    # arch/s390/include/uapi/asm/ptrace.h: s390_regs: the PSW, then general registers
    registers="mask psw " + " ".join(f"r{number}" for number in range(16)),
    in_kernel=_in_kernel,
)
